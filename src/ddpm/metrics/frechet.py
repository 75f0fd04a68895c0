"""The Fréchet distance between the Gaussians that two sets of features have the moments of.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (R^T S2 R)^1/2)    with R R^T = S1

(Dowson & Landau 1982; for images Heusel et al. 2017). Any root R does; ours leaves out the directions in which the
reference does not vary, so that sets with fewer images than dimensions are no special case, and everything under a
square root is symmetric: no general matrix root, no imaginary parts.

From finitely many images the distance comes out too large: by about 1 / N times a constant of both sets (Chong &
Forsyth 2020). Errors and biases here are about the sample; the reference is taken as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ddpm.base.progress import Advance, unheard
from ddpm.base.tensors import Floats
from ddpm.errors import InputError
from ddpm.metrics.jackknife import BLOCKS, Distance, block_numbers, checked_features, jackknife
from ddpm.metrics.statistics import Moments, Statistics, moments


@dataclass(frozen=True, eq=False)
class FrechetTo:
    """Distances to one reference, whose root is computed once."""

    reference: Statistics

    @cached_property
    def root(self) -> Floats:
        """R, (D, r) with r the rank: eigenvalues within rounding of zero are left out."""
        eigenvalues, vectors = np.linalg.eigh(self.reference.covariance)
        rounding = len(eigenvalues) * np.finfo(np.float64).eps * np.abs(eigenvalues).max()
        kept = eigenvalues > rounding
        root: Floats = vectors[:, kept] * np.sqrt(eigenvalues[kept])
        return root

    def distance(self, other: Statistics | Moments) -> float:
        """The distance of another set; one symmetric eigenvalue problem. Rounding may leave it a hair below zero."""
        covariance, apart = other.covariance, other.mean - self.reference.mean
        shared = np.linalg.eigvalsh(self.root.T @ covariance @ self.root)
        traces = np.trace(covariance) + np.trace(self.reference.covariance)
        return float(apart @ apart + traces - 2 * np.sqrt(shared.clip(0)).sum())


def frechet_distance(one: Statistics, other: Statistics) -> float:
    """The distance between two sets, in the features' units squared."""
    other.check_features(one.dimensions, one.extractor)
    return FrechetTo(other).distance(one)


def frechet_estimate(
    features: npt.NDArray[np.floating], reference: Statistics, *, blocks: int = BLOCKS, advance: Advance = unheard
) -> Distance:
    """The distance of a sample to a reference, with its error and bias.

    features   (N, D), N >= 2 blocks; image i goes to block i % blocks
    reference  of the same extractor (`Statistics.check_features` looks at that)
    advance    told of every one of the blocks + 1 distances that this takes
    """
    value, without, sizes = _left_out(checked_features(features), FrechetTo(reference), blocks, advance)
    return jackknife(value, without, sizes)


def frechet_difference(
    one: npt.NDArray[np.floating], other: npt.NDArray[np.floating], reference: Statistics, *, blocks: int = BLOCKS
) -> Distance:
    """How much farther `one` lies from the reference than `other`, with the error of that difference.

    one, other  (N, D) each; row i of both came from the same seed, and both leave out the same rows at a time
    """
    check_pairs(one, other)
    to = FrechetTo(reference)
    first, first_without, sizes = _left_out(checked_features(one), to, blocks)
    second, second_without, _ = _left_out(checked_features(other), to, blocks)
    return jackknife(first - second, first_without - second_without, sizes)


def check_pairs(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> None:
    """Raise InputError unless there are as many rows on both sides."""
    if len(one) != len(other):
        raise InputError(f"{len(one)} and {len(other)} images make no pairs; as many from the same seeds would fit.")


def _left_out(
    features: Floats, to: FrechetTo, blocks: int, advance: Advance = unheard
) -> tuple[float, Floats, npt.NDArray[np.int64]]:
    """The distance from all rows, without each block, and the blocks' sizes.

    A block's scatter is computed twice rather than kept: 32 of 2048 x 2048 would be a gigabyte.
    """
    to.reference.check_features(features.shape[1])
    sizes = np.bincount(block_numbers(len(features), blocks))
    parts = [features[block::blocks] for block in range(blocks)]
    total = moments(parts[0])
    for part in parts[1:]:
        total += moments(part)
    without = np.empty(blocks)
    for block, part in enumerate(parts):
        without[block] = to.distance(total.without(moments(part)))
        advance(1)
    whole = to.distance(total)
    advance(1)
    return whole, without, sizes
