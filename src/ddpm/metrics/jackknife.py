"""How far a distance would move with other images: the delete-block jackknife.

The images are dealt like cards, image i to block i % B, and the distance is computed again without each block in turn.
The scatter of those B values is the error; their mean lies off the full value by what finitely many images do to it,
which is the bias. Two samplers that start from the same seeds put corresponding images into the same block, so the
error of their difference is one of pairs.

A bootstrap would be wrong here: a resample holds some images twice, which to these distances is a smaller sample, and
it shifts them up by about as much as the sample itself is shifted already.

Source: Busing, Meijer & van der Leeden 1999, "Delete-m jackknife for unequal m"; with equal blocks it is Tukey's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ddpm.base.tensors import Floats, Integers
from ddpm.errors import InputError

BLOCKS = 32
NORMAL_95 = 1.96  # standard deviations on each side that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Distance:
    """A distance and what other images would do to it.

    value  computed from all images
    error  standard error
    bias   how far finitely many images shift `value`, up if positive; 0 where the estimate is unbiased
    """

    value: float
    error: float
    bias: float

    @property
    def interval(self) -> tuple[float, float]:
        """value -+ 1.96 error: 95 % for the distance at this number of images; it still holds the bias."""
        return self.value - NORMAL_95 * self.error, self.value + NORMAL_95 * self.error

    @property
    def corrected(self) -> float:
        """The value without its bias: an estimate for infinitely many images, with the same error."""
        return self.value - self.bias

    def table(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "interval": list(self.interval), "corrected": self.corrected}


def jackknife(value: float, without: Floats, sizes: Integers) -> Distance:
    """The error and bias of a value from B others.

    without  (B,) the value computed without each block
    sizes    (B,) images in each block
    """
    parts = sizes.sum() / sizes
    pseudo = parts * value - (parts - 1) * without
    joint = (pseudo / parts).sum()
    variance = ((pseudo - joint) ** 2 / (parts - 1)).mean()
    return Distance(float(value), float(np.sqrt(variance)), float(value - joint))


def block_numbers(count: int, blocks: int) -> Integers:
    """The block of each image, (count,) in 0..blocks - 1; InputError unless every block gets two images."""
    if blocks < 2:
        raise InputError(f"{blocks} blocks give no error: choose 2 or more.")
    if count < 2 * blocks:
        raise InputError(f"{count} images are too few for an error from {blocks} blocks: it takes {2 * blocks}.")
    return np.arange(count, dtype=np.int64) % blocks


def checked_features(features: npt.NDArray[np.floating]) -> Floats:
    """Features (N, D) as float64; InputError unless they are that, with N, D >= 1, and finite."""
    if features.ndim != 2 or not features.size or not np.issubdtype(features.dtype, np.floating):
        raise InputError(
            f"features are {features.dtype} of shape {features.shape}: they must be floats (images, dimensions)."
        )
    if not np.isfinite(features).all():
        raise InputError("features hold NaN or infinity: they must be finite.")
    return features.astype(np.float64, copy=False)
