"""Gaussian noise as index bits: a tail-biting trellis over one shared codebook (reverse channel coding).

The decoder knows N(0, 1) for the noise of a step, the encoder wants N(d, r), a little closer to its image. It sends n
bits; the noise is the codebook's answer to them. The n bits stand on a circle; segment i of the D dimensions gets the
codeword whose number is the LAST bits that end at bit i, so neighbouring segments share all but one bit and the best of
all 2^n circles is found by Viterbi's algorithm. Per bit it delivers about 0.9 of a bit of divergence, where the best
of 2^12 independent candidates delivers 0.79, and needs no entropy code, no side information and no exact arithmetic:
any bits at all are valid noise.

Trellis source coding of Gaussians is old (Mao, Gray & Linder 2010 call it rate-constrained simulation); the use for a
diffusion chain follows Theis et al. 2022.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from ddpm.base.tensors import Floats, Integers
from ddpm.codec.randomness import CODEBOOK, UNIT, normals, scrambling

LAST = 12
"""Bits that choose a codeword, if there are that many."""
STATES = 2**LAST
LONGEST = 512
"""Dimensions of a codeword at most."""
WRAPS, SHORT, SHORT_WRAPS = 16, 32, 64
"""Ends of the circle that the encoder tries, the most promising first; more where bits are fewer than SHORT."""

Bits = NDArray[np.uint8]
Score = NDArray[np.float32]


@functools.cache
def codebook() -> NDArray[np.float32]:
    """(STATES, LONGEST): word s * LONGEST + j of the key (CODEBOOK,); multiples of 2^-12, exact in float32."""
    table = normals(CODEBOOK, count=STATES * LONGEST).reshape(STATES, LONGEST)
    found = (table * np.float32(UNIT)).astype(np.float32)
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


def fewest_bits(dimensions: int) -> int:
    """Bits a step needs, so that no codeword is too short for its segment."""
    return max(8, -(-dimensions // LONGEST))


def noise(bits: Bits, step: int, dimensions: int) -> Floats:
    """The noise that bits stand for.

    bits      (B, n) of 0 and 1
    step      which shuffling of the dimensions
    returns   (B, D) float64, exact multiples of 2^-12
    """
    count = bits.shape[1]
    place = segments(dimensions, count)
    words = codebook()[windows(bits), : place.shape[1]]
    order, signs = scrambling(step, dimensions)
    out = np.empty((len(bits), dimensions))
    out[:, order] = words[:, place >= 0] * signs
    return out


def windows(bits: Bits) -> Integers:
    """The codeword of each segment, (B, n): the number whose lowest bit is bit i, the next bit i - 1, in a circle.

    With fewer than LAST bits in all, there is one bit string and every segment reads all of it, turned.
    """
    number = np.zeros(bits.shape, np.int64)
    for age in range(min(LAST, bits.shape[1])):
        number |= np.roll(bits, age, axis=1).astype(np.int64) << age
    return number


def simulate(wanted: Floats, share: float, bits: int, step: int) -> Bits:
    """The bits whose noise fits best: the largest density of N(wanted, share) over that of N(0, 1).

    wanted  (B, D) the mean d of the noise that the encoder wants
    share   its variance r in (0, 1)
    bits    n, at least fewest_bits(D)
    returns (B, n) of 0 and 1
    """
    count, dimensions = wanted.shape
    place = segments(dimensions, bits)
    order, signs = scrambling(step, dimensions)
    shuffled = np.concatenate([wanted[:, order] * signs, np.zeros((count, 1))], axis=1).astype(np.float32)
    parts = shuffled[:, place.ravel()].reshape(count * bits, -1)
    words = codebook()[:, : place.shape[1]]
    used = (place >= 0).astype(np.float32)
    power = (0.5 * (1 - share)) * (words**2 @ used.T)
    score = (parts @ words.T).reshape(count, bits, STATES) - power.T
    if bits <= LAST:
        return _exhaustive(score)
    return np.stack([_circle(one) for one in score])


def _exhaustive(score: Score) -> Bits:
    """All 2^n bit strings, for short ones; score (B, n, STATES)."""
    bits = score.shape[1]
    every = ((np.arange(2**bits)[:, None] >> np.arange(bits)) & 1).astype(np.uint8)
    index = windows(every)
    total = sum(score[:, i, index[:, i]] for i in range(bits))
    return np.asarray(every[np.argmax(total, axis=1)])


def _circle(score: Score) -> Bits:
    """The best circle for one image, score (n, STATES), by Viterbi's algorithm.

    A state is the last bits; after a round it must be the state that the round began with. Free rounds forth and back
    tell how good the best endless path through each state is; the most promising states are then tried as ends.
    """
    forth, back = np.zeros((1, STATES), np.float32), np.zeros(STATES, np.float32)
    for _ in range(2):
        forth = _round(forth, score)[0]
        back = _back(back, score)
    ends = np.argsort(-(forth[0] + back), kind="stable")[: WRAPS if len(score) >= SHORT else SHORT_WRAPS]
    rows = np.arange(len(ends))
    start = np.full((len(ends), STATES), -np.inf, np.float32)
    start[rows, ends] = 0
    final, choices = _round(start, score)
    best = int(np.argmax(final[rows, ends]))
    return _trace(int(ends[best]), choices[:, best])


def _round(metric: Score, score: Score) -> tuple[Score, NDArray[np.bool_]]:
    """Once around: the best path into each state, (K, STATES), and which of two it came from, (n, K, STATES / 2).

    State s is reached from s >> 1 and from that with the highest bit set.
    """
    choices = np.empty((len(score), len(metric), STATES // 2), np.bool_)
    for gain, choice in zip(score, choices, strict=True):
        low, high = metric[:, : STATES // 2], metric[:, STATES // 2 :]
        np.greater(high, low, out=choice)
        metric = (np.maximum(low, high)[:, :, None] + gain.reshape(1, STATES // 2, 2)).reshape(len(metric), STATES)
    return metric, choices


def _back(metric: Score, score: Score) -> Score:
    """Once around the other way: the best path out of each state, (STATES,)."""
    for gain in score[::-1]:
        metric = np.tile((metric + gain).reshape(-1, 2).max(axis=1), 2)
    return metric


def _trace(state: int, choices: NDArray[np.bool_]) -> Bits:
    bits = np.empty(len(choices), np.uint8)
    for i in range(len(choices) - 1, -1, -1):
        bits[i] = state & 1
        state = state >> 1 | int(choices[i, state >> 1]) << (LAST - 1)
    return bits
