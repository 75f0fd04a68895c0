"""Frequencies of 256 grey levels from a mixture of logistics, in integers from end to end.

A component has a weight, a mean in sixteenths of a grey level and a scale; the probability of a level is the mixture's
mass between its edges, half a level away on both sides, the outermost levels taking all beyond (Salimans et al. 2017,
PixelCNN++, eq. 2). exp and the logistic function are tables of integers with hashes, so that two machines can never
disagree about a frequency.
"""

from __future__ import annotations

import functools
import hashlib
import math

import numpy as np

from ddpm.base.tensors import Integers
from ddpm.base.units import LEVELS
from ddpm.codec.range_coder import TOTAL_BITS

SIXTEENTHS = 16
"""Means count in sixteenths of a grey level, like guesses of pixels."""
LOGIT_UNIT, LOGITS = 64, 1024
SCALE_UNIT, SMALLEST, LARGEST = 16, -32, 88
"""Scales are exp(a / 16) grey levels, a from -32 (0.14) to 88 (245)."""
WIDTH, FINE = 12, 2048
"""The logistic function is tabulated from -12 to 12 in steps of 1/2048, in units of 2^-22."""
FARTHEST = 2**20
"""Of means from 0, in sixteenths of a grey level: everything fits into 64 bits then."""
EVERY = slice(None)
WEIGHT_BITS, LOGISTIC_BITS, SLOPE_BITS = 16, 22, 24
SHIFT = SLOPE_BITS - FINE.bit_length() + 1
TABLES_SHA256 = "07d8e9260093b3ff5192985d7a7d3696622359aacb163b2a2231e5a671c821b7"


@functools.cache
def tables() -> tuple[Integers, Integers, Integers]:
    """exp(-i / 64) in 2^-16; 1 / (16 exp(a / 16)) in 2^-24; the logistic function. Their hash is checked."""
    weights = np.array([round(math.exp(-i / LOGIT_UNIT) * 2**WEIGHT_BITS) for i in range(LOGITS)])
    slopes = [2**SLOPE_BITS / SIXTEENTHS * math.exp(-a / SCALE_UNIT) for a in range(SMALLEST, LARGEST + 1)]
    places = range(-WIDTH * FINE, WIDTH * FINE + 1)
    logistic = np.array([round(2**LOGISTIC_BITS / (1 + math.exp(-i / FINE))) for i in places])
    found = (weights, np.array([round(slope) for slope in slopes]), logistic)
    content = b"".join(table.astype("<i4").tobytes() for table in found)
    if hashlib.sha256(content).hexdigest() != TABLES_SHA256:
        raise RuntimeError("the tables of the pixel model differ")
    for table in found:
        table.setflags(write=False)
    return found


class Mixture:
    """Mixtures for P pixels, K components each.

    logits  (P, K) in 1/64 nat
    means   (P, K) in sixteenths of a grey level
    scales  (P, K) a of exp(a / 16), brought into the table's range
    """

    def __init__(self, logits: Integers, means: Integers, scales: Integers) -> None:
        exponentials, slopes, _ = tables()
        apart = np.minimum(logits.max(axis=1, keepdims=True) - logits, LOGITS - 1)
        raw = exponentials[apart]
        self.weights = (raw << WEIGHT_BITS) // raw.sum(axis=1, keepdims=True)
        self.means = np.clip(means, -FARTHEST, FARTHEST)
        self.slopes = slopes[np.clip(scales, SMALLEST, LARGEST) - SMALLEST]
        # Where the edge below a level stands in the table of the logistic function: (level * rise - start) >> SHIFT.
        self._rise = SIXTEENTHS * self.slopes
        self._start = (self.means + SIXTEENTHS // 2) * self.slopes - (WIDTH * FINE << SHIFT)

    def cumulative(self, levels: Integers, rows: slice = EVERY) -> Integers:
        """Frequencies, out of 2^24, of all grey levels below some.

        levels   (P, n) in 0..256
        rows     of the P pixels, those that levels are of
        returns  (P, n): 0 at level 0, 2^24 at 256, at least 1 more from each level to the next
        """
        place = (levels[:, :, None] * self._rise[rows, None] - self._start[rows, None]) >> SHIFT
        mass = (self.weights[rows, None] * tables()[2].take(place, mode="clip")).sum(2)
        whole = 2**TOTAL_BITS - LEVELS
        found = levels + (mass * whole >> (WEIGHT_BITS + LOGISTIC_BITS))
        return np.asarray(np.where(levels % LEVELS == 0, levels * (2**TOTAL_BITS // LEVELS), found))
