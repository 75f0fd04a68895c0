"""The Fréchet distance between the Gaussians that two sets of features have the moments of.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (R^T S2 R)^1/2)    with R R^T = S1

(Dowson & Landau 1982; for images Heusel et al. 2017). Any root R does; `Statistics.root` leaves out the directions in
which the reference does not vary, so that sets with fewer images than dimensions are no special case, and everything
under a square root is symmetric: no general matrix root, no imaginary parts.

From finitely many images the distance comes out too large: by about 1 / N times a constant of both sets (Chong &
Forsyth 2020). Errors and biases here are about the sample; the reference is taken as it is.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import numpy.typing as npt

from ddpm.base.progress import Advance, unheard
from ddpm.base.tensors import Floats, Integers
from ddpm.errors import InputError
from ddpm.metrics.jackknife import BLOCKS, Distance, block_numbers, checked_features, jackknife
from ddpm.metrics.statistics import Moments, Statistics, moments


def frechet_distance(one: Statistics | Moments, reference: Statistics) -> float:
    """The distance of a set from a reference, in the features' units squared; rounding may leave it just below zero."""
    reference.check_features(len(one.mean), one.extractor if isinstance(one, Statistics) else "")
    covariance, apart = one.covariance, one.mean - reference.mean
    shared = np.linalg.eigvalsh(reference.root.T @ covariance @ reference.root)
    traces = np.trace(covariance) + np.trace(reference.covariance)
    return float(apart @ apart + traces - 2 * np.sqrt(shared.clip(0)).sum())


def frechet_estimate(
    features: npt.NDArray[np.floating], reference: Statistics, *, blocks: int = BLOCKS, advance: Advance = unheard
) -> Distance:
    """The distance of a sample to a reference, with its error and bias.

    features   (N, D), N >= 2 blocks; image i goes to block i % blocks
    reference  of the same extractor (`Statistics.check_features` looks at that)
    advance    told of every one of the blocks + 1 distances that this takes
    """
    return jackknife(*_left_out(features, reference, blocks, advance))


def frechet_difference(
    one: npt.NDArray[np.floating], other: npt.NDArray[np.floating], reference: Statistics, *, blocks: int = BLOCKS
) -> Distance:
    """How much farther `one` lies from the reference than `other`, with the error of that difference.

    one, other  (N, D) each; row i of both came from the same seed, and both leave out the same rows at a time
    """
    if len(one) != len(other):
        raise InputError(f"{len(one)} and {len(other)} images make no pairs: it takes as many, from the same seeds.")
    first, first_without, sizes = _left_out(one, reference, blocks)
    second, second_without, _ = _left_out(other, reference, blocks)
    return jackknife(first - second, first_without - second_without, sizes)


def _left_out(
    features: npt.NDArray[np.floating], reference: Statistics, blocks: int, advance: Advance = unheard
) -> tuple[float, Floats, Integers]:
    """The distance from all rows, without each block, and the blocks' sizes.

    A block's scatter is computed twice rather than kept: 32 of 2048 x 2048 would be a gigabyte.
    """
    rows = checked_features(features)
    reference.check_features(rows.shape[1])
    sizes = np.bincount(block_numbers(len(rows), blocks))
    parts = [rows[block::blocks] for block in range(blocks)]
    total = reduce(Moments.__add__, map(moments, parts))
    without = np.empty(blocks)
    for block, part in enumerate(parts):
        without[block] = frechet_distance(total.without(moments(part)), reference)
        advance(1)
    whole = frechet_distance(total, reference)
    advance(1)
    return whole, without, sizes
