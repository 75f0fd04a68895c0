"""Noise, levels and dropout masks as a function of (purpose, seed, image number), alike on every device.

SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") as a counter-based generator:
word i of a stream is mix(key + (i + 1) * GOLDEN), and a stream's key is mixed from a hash of the purpose and the seed,
the number of the image, and whatever else tells streams apart. All of it is arithmetic on int64 tensors, so nothing
waits for the CPU and no number depends on the batch, its split, or the device. Normal numbers are made in float64 and
rounded once; devices differ in them by the rounding of a logarithm or a cosine, which a float32 hardly ever shows.

`mix`, `words` and `signed` are part of the .dpc format (docs/format.md) and never change; NOISE_VERSION is about what
is drawn with them here.

Streams are stretches of one sequence of 2^64 words, at places that a hash chose: among 10^8 images of 3,072 numbers one
pair is expected to share a part of its noise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

NOISE_VERSION = 2
"""Of what this file draws; 1 was NumPy's Philox. Checkpoints and samples say it."""

GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
INVERSE = -1018231460777725123  # of GOLDEN modulo 2^64
HALF = 2**32
BLOCK = 2**18  # normal numbers made at a time on the CPU, so that they stay in its cache


def signed(word: int) -> int:
    """A 64-bit word, or any integer modulo 2^64, as the int64 with the same bits."""
    return (word + 2**63) % 2**64 - 2**63


def mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser of int64 words, of any shape."""
    # A shift of int64 drags the sign along: the mask makes it the shift of unsigned words.
    z = (z ^ ((z >> 30) & (2**34 - 1))) * signed(MULTIPLIERS[0])
    z = (z ^ ((z >> 27) & (2**37 - 1))) * signed(MULTIPLIERS[1])
    return z ^ ((z >> 31) & (2**33 - 1))


def words(keys: Tensor, count: int) -> Tensor:
    """The first words of streams: keys (B,) int64 -> (B, count) int64."""
    # Not key + i * GOLDEN, though it is the same: compilers take a multiple of a counter for an index, and overflow.
    places = (keys * INVERSE)[:, None] + torch.arange(1, count + 1, device=keys.device)
    return mix(places * signed(GOLDEN))


def stream_keys(purpose: str, seed: int, numbers: Tensor, *more: int) -> Tensor:
    """One stream for each image.

    purpose  what the words are for ("noise", "level", ...)
    seed     any integer
    numbers  (B,) int64, of the images, on the device that the words are wanted on
    more     integers that tell streams of the same image apart
    returns  (B,) int64
    """
    digest = hashlib.sha256("/".join(map(str, (purpose, seed, *more))).encode()).digest()
    return mix(numbers ^ int.from_bytes(digest[:8], "little", signed=True))


def halves(keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The high and the low 32 bits of words, each (B, count) in [0, 2^32), int64."""
    both = words(keys, count)
    return (both >> 32) & (HALF - 1), both & (HALF - 1)


def normals(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal noise: keys (B,) -> float32 (B, *shape), on their device; by Box & Muller (1958)."""
    if keys.device.type == "mps":  # it has no float64
        return normals(keys.cpu(), shape).to(keys.device)
    size = math.prod(shape)
    rows = max(1, BLOCK // max(size, 1)) if keys.device.type == "cpu" else max(len(keys), 1)
    parts = [_box_muller(part, size) for part in keys.split(rows)]  # type: ignore[no-untyped-call]
    return torch.cat(parts).reshape(len(keys), *shape)


def _box_muller(keys: Tensor, size: int) -> Tensor:
    high, low = halves(keys, -(-size // 2))
    radius = torch.sqrt(-2 * torch.log((high.double() + 0.5) / HALF))  # the half keeps the logarithm finite
    angle = low.double() * (2 * math.pi / HALF)
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :size].float()


def uniforms(keys: Tensor) -> Tensor:
    """One number in [0, 1) for each stream: (B,) float64, or float32 where there is no float64."""
    high = halves(keys, 1)[0].squeeze(1)
    # 24 bits are what a float32 holds: more would round up to 1.
    return (high >> 8).float() / 2**24 if keys.device.type == "mps" else high.double() / HALF


def kept(keys: Tensor, shape: Sequence[int], rate: float) -> Tensor:
    """What dropout keeps: keys (B,) -> bool (B, C, H, W), channels last in memory; `rate` is rounded to 2^-16.

    shape  (C, H, W)
    """
    channels, height, width = shape
    size = channels * height * width
    chances = quarters(words(keys, -(-size // 4)))[:, :size]
    sound = chances >= dropped_of(rate) - 2**15
    return sound.reshape(-1, height, width, channels).permute(0, 3, 1, 2)


def quarters(words: Tensor) -> Tensor:
    """The four times 16 bits of words (B, N), lowest first, as signed integers (B, 4 N)."""
    if not torch.compiler.is_compiling():
        return words.view(torch.int16)
    return (words[:, :, None] << torch.arange(48, -1, -16, device=words.device) >> 48).flatten(1)  # makes one kernel


def dropped_of(rate: float) -> int:
    """How many of 2^16 chances a dropout rate drops; never all, so that what is kept can be scaled up."""
    return min(round(rate * 2**16), 2**16 - 1)
