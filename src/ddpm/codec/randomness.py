"""The randomness that encoder and decoder share, specified to the bit: integers only, never a library's stream.

    mix(z)      SplitMix64's finaliser on 64-bit words, as in base/noise.py
    key(words)  k = 0; for each word: k = mix(k xor word)
    word i      of a key: mix(key + (i + 1) * 0x9E3779B97F4A7C15), modulo 2^64
    Gaussian i  of a key: quantile number (word i >> 52) of a table of 4096, in units of 2^-12

The first word of a key says what the numbers are for. docs/format.md specifies all of this for other decoders.
"""

from __future__ import annotations

import functools
import hashlib
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm.base import noise
from ddpm.base.tensors import Floats, Integers

Words = NDArray[np.uint64]

START, ORDER, SIGNS, CODEBOOK, CHOICE = 1, 2, 3, 4, 5
"""What numbers are for: the first state, the order and signs of the dimensions, the codebook, the choice of a class."""
QUANTILES = 4096
UNIT = 2.0**-12
TABLE_SHA256 = "588bef1101842acd87cd5cc394e1faaaf2c845e78b0da3559c6f9799a6957f8b"


def words(*key: int, count: int) -> Words:
    """The first `count` 64-bit words of the stream of a key."""
    state = torch.zeros(1, dtype=torch.int64, device="cpu")
    for part in key:
        state = noise.mix(state ^ noise.signed(part))
    return noise.words(state, count)[0].numpy().view(np.uint64)


@functools.cache
def quantiles() -> NDArray[np.int16]:
    """The table: round(4096 * inverse normal distribution at (i + 1/2) / 4096), hash-checked."""
    normal = NormalDist()
    table = np.array([round(normal.inv_cdf((i + 0.5) / QUANTILES) / UNIT) for i in range(QUANTILES)], np.int16)
    if hashlib.sha256(table.astype("<i2").tobytes()).hexdigest() != TABLE_SHA256:
        raise RuntimeError("the table of quantiles differs")
    table.setflags(write=False)
    return table


def normals(*key: int, count: int) -> NDArray[np.int16]:
    """Standard normal numbers in units of 2^-12, from the table."""
    return quantiles()[(words(*key, count=count) >> np.uint64(52)).astype(np.int64)]


@functools.lru_cache(maxsize=256)
def scrambling(step: int, dimensions: int) -> tuple[Integers, Floats]:
    """How the dimensions of one step are shuffled: their order, a permutation (D,), and signs of -1 and 1 in it (D,).

    The order sorts the words of (ORDER, step), ties by index; the sign of place i is bit 63 of word i of (SIGNS, step).
    """
    order = np.argsort(words(ORDER, step, count=dimensions), kind="stable")
    signs = 1.0 - 2.0 * (words(SIGNS, step, count=dimensions) >> np.uint64(63)).astype(np.float64)
    order.setflags(write=False)
    signs.setflags(write=False)
    return order, signs
