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

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ddpm.base.tensors import Floats, Integers
from ddpm.errors import InputError
from ddpm.metrics.frechet import check_pairs
from ddpm.metrics.jackknife import BLOCKS, Distance, block_numbers, checked_features, jackknife

TILE = 1024  # images a side of a tile of the kernel matrix; a tile and its temporaries take 24 MB


@dataclass(frozen=True, eq=False)
class _Within:
    """Pairs of different images of one set.

    sums   (B, B) of the kernel over the pairs of two blocks, symmetric; each unordered pair counts twice
    sizes  (B,) images in each block
    """

    sums: Floats
    sizes: Integers

    @property
    def mean(self) -> float:
        count = int(self.sizes.sum())
        return float(self.sums.sum() / (count * (count - 1)))

    @property
    def means_without(self) -> Floats:
        """(B,) the mean over pairs with no image in a block."""
        left = self.sizes.sum() - self.sizes
        found: Floats = (self.sums.sum() - 2 * self.sums.sum(1) + np.diag(self.sums)) / (left * (left - 1))
        return found


@dataclass(frozen=True, eq=False)
class _Between:
    """Pairs of an image of a sample and one of a reference: sums (B, B), and the sizes of the blocks of both."""

    sums: Floats
    sample_sizes: Integers
    reference_sizes: Integers

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / (self.sample_sizes.sum() * self.reference_sizes.sum()))

    @property
    def means_without_sample(self) -> Floats:
        left = self.sample_sizes.sum() - self.sample_sizes
        found: Floats = (self.sums.sum() - self.sums.sum(1)) / (left * self.reference_sizes.sum())
        return found

    @property
    def means_without_reference(self) -> Floats:
        left = self.reference_sizes.sum() - self.reference_sizes
        found: Floats = (self.sums.sum() - self.sums.sum(0)) / (left * self.sample_sizes.sum())
        return found


def kernel_estimate(
    features: npt.NDArray[np.floating],
    reference: npt.NDArray[np.floating],
    *,
    blocks: int = BLOCKS,
    tile: int = TILE,
) -> Distance:
    """The kernel distance of a sample to a reference, with its error; the bias is 0.

    features   (N, D), N >= 2 blocks; image i goes to block i % blocks
    reference  (M, D), M >= 2 blocks, likewise
    tile       images a side of the pieces in which the kernel matrix is computed; it changes rounding only
    """
    x, y = _same_space(features, reference)
    xx, yy, xy = _within(x, blocks, tile), _within(y, blocks, tile), _between(x, y, blocks, tile)
    return _estimate(
        xx.mean + yy.mean - 2 * xy.mean,
        xx.means_without + yy.mean - 2 * xy.means_without_sample,
        xx.mean + yy.means_without - 2 * xy.means_without_reference,
        (xx.sizes, yy.sizes),
    )


def kernel_difference(
    one: npt.NDArray[np.floating],
    other: npt.NDArray[np.floating],
    reference: npt.NDArray[np.floating],
    *,
    blocks: int = BLOCKS,
    tile: int = TILE,
) -> Distance:
    """How much farther `one` lies from the reference than `other`, with the error of that difference.

    one, other  (N, D) each; row i of both came from the same seed, and both leave out the same rows at a time
    reference   (M, D); its pairs with itself cancel and are not computed
    """
    check_pairs(one, other)
    (a, y), (b, _) = _same_space(one, reference), _same_space(other, reference)
    aa, bb = _within(a, blocks, tile), _within(b, blocks, tile)
    ay, by = _between(a, y, blocks, tile), _between(b, y, blocks, tile)
    return _estimate(
        aa.mean - bb.mean - 2 * (ay.mean - by.mean),
        aa.means_without - bb.means_without - 2 * (ay.means_without_sample - by.means_without_sample),
        aa.mean - bb.mean - 2 * (ay.means_without_reference - by.means_without_reference),
        (ay.sample_sizes, ay.reference_sizes),
    )


def _estimate(
    value: float, without_sample: Floats, without_reference: Floats, sizes: tuple[Integers, Integers]
) -> Distance:
    """Two independent sources of error: the sample's images and the reference's."""
    sample, reference = jackknife(value, without_sample, sizes[0]), jackknife(value, without_reference, sizes[1])
    return Distance(value, float(np.hypot(sample.error, reference.error)), 0.0)


def _same_space(features: npt.NDArray[np.floating], reference: npt.NDArray[np.floating]) -> tuple[Floats, Floats]:
    x, y = checked_features(features), checked_features(reference)
    if x.shape[1] != y.shape[1]:
        raise InputError(f"features of {x.shape[1]} and {y.shape[1]} dimensions do not compare; as many would fit.")
    return x, y


def _within(x: Floats, blocks: int, tile: int) -> _Within:
    """Tiles on and above the diagonal, the others being their mirror images; then the diagonal itself is taken off."""
    member = _membership(len(x), blocks)
    sums = np.zeros((blocks, blocks))
    for start in range(0, len(x), tile):
        for other in range(start, len(x), tile):
            rows, columns = slice(start, start + tile), slice(other, other + tile)
            part = member[rows].T @ _kernel(x[rows], x[columns]) @ member[columns]
            sums += part if start == other else part + part.T
    own = _cubed(np.einsum("nd,nd->n", x, x), x.shape[1])
    return _Within(sums - np.diag(own @ member), _sizes(member))


def _between(x: Floats, y: Floats, blocks: int, tile: int) -> _Between:
    mine, theirs = _membership(len(x), blocks), _membership(len(y), blocks)
    sums = np.zeros((blocks, blocks))
    for start in range(0, len(x), tile):
        for other in range(0, len(y), tile):
            rows, columns = slice(start, start + tile), slice(other, other + tile)
            sums += mine[rows].T @ _kernel(x[rows], y[columns]) @ theirs[columns]
    return _Between(sums, _sizes(mine), _sizes(theirs))


def _kernel(x: Floats, y: Floats) -> Floats:
    return _cubed(x @ y.T, x.shape[1])


def _cubed(products: Floats, dimensions: int) -> Floats:
    base = products / dimensions + 1
    return base * base * base


def _membership(count: int, blocks: int) -> Floats:
    """(count, blocks): 1 where an image is in a block, else 0."""
    return np.eye(blocks)[block_numbers(count, blocks)]


def _sizes(member: Floats) -> Integers:
    sizes: Integers = member.sum(0).astype(np.int64)
    return sizes
