"""Gaussian noise as index bits: a tail-biting trellis over one shared codebook (reverse channel coding).

The decoder knows N(0, 1) for the noise of a step, the encoder wants N(d, r), a little closer to its image. It sends n
bits; the noise is the codebook's answer to them. The n bits stand on a circle; segment i of the D dimensions gets the
codeword whose number is the LAST bits that end at bit i, so neighbouring segments share all but one bit and the best of
all 2^n circles is found by Viterbi's algorithm. Per bit it delivers about 0.9 of a bit of divergence, where the best
of 2^12 independent candidates delivers 0.79, and needs no entropy code, no side information and no exact arithmetic:
any bits at all are valid noise.

Trellis source coding of Gaussians is old (Mao, Gray & Linder 2010 call it rate-constrained simulation); the use for a
diffusion chain follows Theis et al. 2022.

All of it is tensors on the network's device. Scores are float64 products, rounded once to float32, and the search adds
and compares them in an order of its own. CPU and GPU chose the same bits in all that was measured; any bits decode.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm.base.tensors import Floats, Integers, on_device
from ddpm.codec.randomness import CODEBOOK, UNIT, normals, scrambling

LAST = 12
"""Bits that choose a codeword, if there are that many."""
BLOCK = LAST // 2
"""Segments after which the search brings the bits of its states into order, see below."""
STATES = 2**LAST
LONGEST = 512
"""Dimensions of a codeword at most."""
WRAPS, SHORT, SHORT_WRAPS = 16, 32, 64
"""Ends of the circle that the encoder tries, the most promising first; more where bits are fewer than SHORT."""
CPU_SCORES, GPU_SCORES = 2**21, 2**26
"""Tiles are searched together up to about so many scores: what caches hold, what a GPU has memory for."""

Bits = NDArray[np.uint8]


@functools.cache
def codebook() -> Floats:
    """(STATES, LONGEST): word s * LONGEST + j of the key (CODEBOOK,), multiples of 2^-12."""
    found = normals(CODEBOOK, count=STATES * LONGEST).reshape(STATES, LONGEST).astype(np.float64) * UNIT
    found.setflags(write=False)
    return found


@functools.lru_cache(maxsize=64)
def segments(dimensions: int, bits: int) -> Integers:
    """Which dimension stands where: (bits, V), segment i holds those from floor(i D / n) on; -1 fills up."""
    edges = np.arange(bits + 1) * dimensions // bits
    places = edges[:-1, None] + np.arange(int(np.diff(edges).max()))
    found = np.where(places < edges[1:, None], places, -1)
    found.setflags(write=False)
    return found


@functools.lru_cache(maxsize=64)
def _places(dimensions: int, bits: int) -> tuple[Integers, Floats]:
    """Of segments of V dimensions each, (n V,), those that there are, (D,), and for each segment whether it has the
    first V - 1 dimensions, 1, and the last, 0 or 1: (n, 2)."""
    place = segments(dimensions, bits)
    return np.flatnonzero(place >= 0), np.stack([np.ones(bits), place[:, -1] >= 0], axis=1)


def fewest_bits(dimensions: int) -> int:
    """Bits a step needs, so that no codeword is too short for its segment."""
    return max(8, -(-dimensions // LONGEST))


def noise(bits: Tensor, step: int, dimensions: int) -> Tensor:
    """The noise that bits stand for.

    bits      (B, n) of 0 and 1
    step      which shuffling of the dimensions
    returns   (B, D) float64, exact multiples of 2^-12, on the device of the bits
    """
    device, count = bits.device, bits.shape[1]
    order, signs = _shuffling(step, dimensions, device)
    there = on_device(_places(dimensions, count)[0], device, torch.int64)
    words = _words(-(-dimensions // count), device)[windows(bits)]
    out = torch.empty(len(bits), dimensions, dtype=torch.float64, device=device)
    out[:, order] = words.flatten(1)[:, there] * signs
    return out


def _words(longest: int, device: torch.device) -> Tensor:
    """The first V of each codeword, (STATES, V) float64."""
    return on_device(codebook(), device, torch.float64)[:, :longest]


def _shuffling(step: int, dimensions: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The order of one step's dimensions (D,), and their signs in it (D,) float64."""
    order, signs = scrambling(step, dimensions)
    return on_device(order, device, torch.int64), on_device(signs, device, torch.float64)


def windows(bits: Tensor) -> Tensor:
    """The codeword of each segment, (B, n): the number whose lowest bit is bit i, the next bit i - 1, in a circle.

    With fewer than LAST bits in all, there is one bit string and every segment reads all of it, turned.
    """
    turned = (bits.long().roll(age, 1) << age for age in range(min(LAST, bits.shape[1])))
    return sum(turned, torch.zeros_like(bits, dtype=torch.int64))


def simulate(wanted: Tensor, share: float, bits: int, step: int) -> Tensor:
    """The bits whose noise fits best: the largest density of N(wanted, share) over that of N(0, 1).

    wanted  (B, D) float64, the mean d of the noise that the encoder wants
    share   its variance r in (0, 1)
    bits    n, at least fewest_bits(D)
    returns (B, n) uint8 of 0 and 1, on the device of wanted
    """
    most = CPU_SCORES if wanted.device.type == "cpu" else GPU_SCORES
    parts = wanted.chunk(-(-wanted.shape[0] * bits * STATES // most))
    search = _exhaustive if bits <= LAST else _circle
    return torch.cat([search(_scores(part, share, bits, step)) for part in parts])


@functools.lru_cache(maxsize=64)
def _products(longest: int, device: torch.device) -> Tensor:
    """What a codeword's V values and squares are multiplied by to give its score, (STATES, V + 2) float64."""
    words = _words(longest, device)
    squares = words**2
    return torch.cat([words, squares[:, :-1].sum(1, keepdim=True), squares[:, -1:]], 1)


def _scores(wanted: Tensor, share: float, bits: int, step: int) -> Tensor:
    """What each codeword z is worth in each segment: z d - (1 - r) z^2 / 2, summed; (n, B, STATES) float64.

    A segment has V or V - 1 dimensions, so that the squares are two more factors of one matrix product.
    """
    (images, dimensions), device = wanted.shape, wanted.device
    order, signs = _shuffling(step, dimensions, device)
    there, squares = _places(dimensions, bits)
    longest = -(-dimensions // bits)
    parts = wanted.new_zeros(images, bits * longest)
    parts[:, on_device(there, device, torch.int64)] = wanted[:, order] * signs
    power = -0.5 * (1 - share) * on_device(squares, device, torch.float64).expand(images, -1, -1)
    factors = torch.cat([parts.reshape(images, bits, longest), power], 2).transpose(0, 1).flatten(0, 1)
    return (factors @ _products(longest, device).T).reshape(bits, images, STATES)


def _exhaustive(score: Tensor) -> Tensor:
    """All 2^n bit strings, for short ones; score (n, B, STATES)."""
    every = torch.arange(2 ** len(score), device=score.device)[:, None]
    bits = every >> torch.arange(len(score), device=score.device) & 1
    total = torch.stack([one[:, index] for one, index in zip(score, windows(bits).T, strict=True)]).sum(0)
    return bits[total.argmax(1)].to(torch.uint8)


# A state is the last bits, the newest last, and a segment drops the oldest for a new one. In a block of six segments
# bit i stands at place i % BLOCK of the state's number (place 0 counts most), where the bit that it drops has stood, so
# that what is compared and added lies in long rows. At the end of a block its bits go behind those that were there.

Blocks = list[list[Tensor]]
"""What each codeword is worth, segment by segment, (1, .., 2, ..): the place of the segment's bit is an axis of two."""


def _circle(score: Tensor) -> Tensor:
    """The best circle of each image, score (n, B, STATES), by Viterbi's algorithm.

    After a round the state must be the one that the round began with. Free rounds forth and back tell how good the best
    endless path through each state is; the most promising states are then tried as ends.
    """
    blocks = _blocks(score)
    free, back = (_Paths(torch.zeros_like(score[:1], dtype=torch.float32).view(1, STATES, -1)) for _ in range(2))
    for _ in range(2):
        free.forth(blocks)
        back.back(blocks)
    ends = (free.metric + back.metric).topk(WRAPS if len(score) >= SHORT else SHORT_WRAPS, dim=1).indices[0]
    tried = _Paths.starting(ends)
    tried.forth(blocks)
    best = tried.metric.gather(1, ends[:, None])[:, 0].argmax(0, keepdim=True)
    return _bits(ends.gather(0, best), blocks)


def _blocks(score: Tensor) -> Blocks:
    """Scores as the search adds them, rounded to float32."""
    table = score.new_empty(len(score), STATES, score.shape[1], dtype=torch.float32)
    for i in range(BLOCK):
        fresh, found = 2 ** (i + 1), score[i::BLOCK]
        aside = found.view(*found.shape[:2], -1, fresh).permute(0, 3, 2, 1)
        table[i::BLOCK].view(len(found), fresh, -1, score.shape[1]).copy_(aside)
    parts = (table[start : start + BLOCK] for start in range(0, len(table), BLOCK))
    return [[_split(gain[None], i) for i, gain in enumerate(part)] for part in parts]


def _split(metric: Tensor, i: int) -> Tensor:
    """(K, .., 2, ..): the place of bit i of a block is an axis of its own."""
    return metric.view(len(metric), 2**i, 2, -1)


class _Paths:
    """The best path into each state, or out of it, of K groups that begin, or end, in states of their own.

    metric  (K, STATES, B) float32, what the paths are worth
    """

    def __init__(self, metric: Tensor) -> None:
        room, self.metric, self._spare = metric.new_empty(metric.numel() // 2), metric, torch.empty_like(metric)
        self._views, self._others = ([_pairs(one, room, i) for i in range(BLOCK)] for one in (metric, self._spare))

    @staticmethod
    def starting(states: Tensor) -> _Paths:
        """Each group in one state, (K, B)."""
        metric = states.new_full((len(states), STATES, states.shape[1]), -math.inf, dtype=torch.float32)
        return _Paths(metric.scatter_(1, states[:, None], 0))

    def forth(self, blocks: Blocks, before: list[Tensor] | None = None) -> None:
        """Once around; `before` gets the metric before each segment."""
        for block in blocks:
            for gain, (low, high, best, both) in zip(block, self._views, strict=False):
                if before is not None:
                    before.append(self.metric.clone())
                torch.maximum(low, high, out=best)
                torch.add(best, gain, out=both)
            self._turn(len(block))

    def back(self, blocks: Blocks) -> None:
        """Once around the other way."""
        for block in reversed(blocks):
            self._turn(LAST - len(block))
            for gain, (low, high, best, both) in reversed(list(zip(block, self._views, strict=False))):
                both.add_(gain)
                torch.maximum(low, high, out=best)
                both.copy_(best)

    def _turn(self, first: int) -> None:
        """The first bits of a state's number go behind the others."""
        groups, _, batch = self.metric.shape
        turned = self.metric.view(groups, 2**first, -1, batch).transpose(1, 2)
        self._spare.view(turned.shape).copy_(turned)
        self.metric, self._spare = self._spare, self.metric
        self._views, self._others = self._others, self._views


def _pairs(metric: Tensor, room: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States without and with bit i, room for the better of each two, and both."""
    both = _split(metric, i)
    low, high = both.chunk(2, 2)
    return low, high, room.view(low.shape), both


def _bits(state: Tensor, blocks: Blocks) -> Tensor:
    """The bits (B, n) of the best circle through a state of each image, (1, B)."""
    before: list[Tensor] = []
    _Paths.starting(state).forth(blocks, before)
    states = []
    for block in reversed(blocks):
        state = state >> len(block) | (state & 2 ** len(block) - 1) << LAST - len(block)
        for place in range(LAST - len(block), LAST):
            states.append(state)
            metric, other = before.pop()[0], state ^ 1 << place
            state = torch.where(metric.gather(0, other) > metric.gather(0, state), other, state)
    places = LAST - 1 - torch.arange(len(states), device=state.device) % BLOCK
    return (torch.cat(states[::-1]).T >> places & 1).to(torch.uint8)
