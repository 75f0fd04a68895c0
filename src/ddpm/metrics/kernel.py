"""The kernel distance between two sets of features (KID; Binkowski et al. 2018): an unbiased MMD^2.

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y)    with k(x, y) = (x . y / D + 1)^3

over all pairs of different images, the U-statistic of Gretton et al. 2012, eq. 3; no random subsets. Being unbiased,
it is negative about as often as positive when both sets come from one distribution.

Both sides are treated as random, unlike in frechet.py, where all that is known of the reference is a mean and a
covariance: the sample's blocks are left out in turn, then the reference's, and the two variances add. Where the sets
come from one distribution, that errs on the safe side, by up to a factor of root two (Efron & Stein 1981). One pass
over the kernel matrix is enough: all that a left-out block changes are sums over pairs of blocks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ddpm.base.tensors import Floats
from ddpm.errors import InputError
from ddpm.metrics.jackknife import BLOCKS, Distance, block_numbers, checked_features, jackknife

TILE = 1024  # images a side of a tile of the kernel matrix; a tile and its temporaries take 24 MB


def kernel_estimate(
    features: npt.NDArray[np.floating], reference: npt.NDArray[np.floating], *, blocks: int = BLOCKS, tile: int = TILE
) -> Distance:
    """The kernel distance of a sample to a reference, with its error; the bias is 0.

    features   (N, D), N >= 2 blocks; image i goes to block i % blocks
    reference  (M, D), M >= 2 blocks, likewise
    tile       images a side of the pieces in which the kernel matrix is computed; it changes rounding only
    """
    x, y = checked_features(features), checked_features(reference)
    if x.shape[1] != y.shape[1]:
        raise InputError(f"features of {x.shape[1]} and {y.shape[1]} dimensions do not compare.")
    mine, theirs = _membership(len(x), blocks), _membership(len(y), blocks)
    xx, xx_without = _within(x, mine, tile)
    yy, yy_without = _within(y, theirs, tile)
    between = _block_sums(x, y, mine, theirs, tile)
    xy = between.sum() / (len(x) * len(y))
    sizes, others = (member.sum(0).astype(np.int64) for member in (mine, theirs))
    xy_without_sample = (between.sum() - between.sum(1)) / ((len(x) - sizes) * len(y))
    xy_without_reference = (between.sum() - between.sum(0)) / ((len(y) - others) * len(x))
    value = float(xx + yy - 2 * xy)
    sample_error = jackknife(value, xx_without + yy - 2 * xy_without_sample, sizes).error
    reference_error = jackknife(value, xx + yy_without - 2 * xy_without_reference, others).error
    return Distance(value, float(np.hypot(sample_error, reference_error)), 0.0)


def _within(x: Floats, member: Floats, tile: int) -> tuple[float, Floats]:
    """The mean of the kernel over pairs of different images of one set, and that without each block: (B,)."""
    own = _cubed(np.einsum("nd,nd->n", x, x), x.shape[1])  # an image with itself
    sums = _block_sums(x, x, member, member, tile) - np.diag(own @ member)
    left = len(x) - member.sum(0).astype(np.int64)
    without = (sums.sum() - 2 * sums.sum(1) + np.diag(sums)) / (left * (left - 1))
    return float(sums.sum() / (len(x) * (len(x) - 1))), without


def _block_sums(x: Floats, y: Floats, mine: Floats, theirs: Floats, tile: int) -> Floats:
    """(B, B) sums of the kernel over the pairs of a block of x and one of y; x with itself is computed by half."""
    sums = np.zeros((mine.shape[1], theirs.shape[1]))
    for start in range(0, len(x), tile):
        for other in range(start if x is y else 0, len(y), tile):
            rows, columns = slice(start, start + tile), slice(other, other + tile)
            part = mine[rows].T @ _cubed(x[rows] @ y[columns].T, x.shape[1]) @ theirs[columns]
            sums += part + part.T if x is y and start != other else part
    return sums


def _cubed(products: Floats, dimensions: int) -> Floats:
    base = products / dimensions + 1
    return base * base * base


def _membership(count: int, blocks: int) -> Floats:
    """(count, blocks): 1 where an image is in a block, else 0."""
    return np.eye(blocks)[block_numbers(count, blocks)]
