"""The kernel distance: an unbiased statistic of pairs, whatever the tiles, with an error that is the scatter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from ddpm.errors import InputError
from ddpm.metrics.kernel import kernel_estimate

# Two distributions on 30 points of four dimensions, so that the true distance is a finite sum.
RNG = np.random.default_rng(0)
POINTS = RNG.standard_normal((30, 4)) + 0.3
ONE, OTHER = RNG.dirichlet(np.ones(30)), RNG.dirichlet(np.ones(30))
TRUTH = float((ONE - OTHER) @ (POINTS @ POINTS.T / 4 + 1) ** 3 @ (ONE - OTHER))


def draws(rng: np.random.Generator, probabilities: np.ndarray, count: int) -> np.ndarray:
    return POINTS[rng.choice(30, count, p=probabilities)]


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """Gretton et al. 2012, eq. 3, one pair at a time."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    xx = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    yy = [k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    return float(np.mean(xx) + np.mean(yy) - 2 * np.mean([k(a, b) for a in x for b in y]))


def left_out(x: np.ndarray, blocks: int) -> list[np.ndarray]:
    return [x[np.arange(len(x)) % blocks != block] for block in range(blocks)]


def busing(value: float, without: np.ndarray, sizes: np.ndarray) -> float:
    """The variance of Busing et al. 1999."""
    parts = sizes.sum() / sizes
    joint = len(sizes) * value - ((1 - 1 / parts) * without).sum()
    return float(((parts * value - (parts - 1) * without - joint) ** 2 / (parts - 1)).mean())


def test_value_and_error_are_those_of_a_double_loop_over_pairs():
    """Blocks of 4, 4 and 3 images on one side and 3, 3 and 2 on the other; sums of some hundred terms."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((11, 5)), rng.standard_normal((8, 5)) + 0.5
    value = by_definition(x, y)
    sample = busing(value, np.array([by_definition(some, y) for some in left_out(x, 3)]), np.array([4, 4, 3]))
    reference = busing(value, np.array([by_definition(x, some) for some in left_out(y, 3)]), np.array([3, 3, 2]))
    found = kernel_estimate(x, y, blocks=3)
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.error == pytest.approx((sample + reference) ** 0.5, rel=1e-11)
    assert found.bias == 0


@pytest.mark.parametrize("tile", [1, 7, 64, 100, 101, 5000])
def test_the_size_of_the_tiles_does_not_matter(tile: int):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((100, 6)), rng.standard_normal((90, 6)) * 1.3
    whole, found = kernel_estimate(x, y, blocks=8, tile=100), kernel_estimate(x, y, blocks=8, tile=tile)
    assert (found.value, found.error) == (pytest.approx(whole.value, rel=1e-11), pytest.approx(whole.error, rel=1e-11))


def test_value_is_that_of_torchmetrics_on_all_images():
    """One subset of all images, in float64; it divides both sides by one count, so they are as many."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((120, 16)), rng.gamma(2, size=(120, 16))
    with pytest.warns(UserWarning, match="will save all extracted features"):
        metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=120)
    metric.update(torch.from_numpy(y), real=True)
    metric.update(torch.from_numpy(x), real=False)
    assert kernel_estimate(x, y, blocks=4).value == pytest.approx(metric.compute()[0].item(), rel=1e-12)


def test_value_is_unbiased_and_so_zero_on_average_for_one_distribution():
    """Means over 400 samples, within three of their standard errors; both signs come up."""
    rng = np.random.default_rng(4)
    for probabilities, truth in ((ONE, 0.0), (OTHER, TRUTH)):
        values = [
            kernel_estimate(draws(rng, probabilities, 40), draws(rng, ONE, 50), blocks=4).value for _ in range(400)
        ]
        assert np.mean(values) == pytest.approx(truth, abs=3 * np.std(values) / 20)
        assert (min(values) < 0 < max(values)) or truth


def test_the_error_is_the_scatter_and_the_interval_holds_the_truth():
    """Both sides drawn anew each time. 300 trials know a scatter to 4 % and a rate of 0.95 to 0.013."""
    rng = np.random.default_rng(5)
    found = [kernel_estimate(draws(rng, OTHER, 200), draws(rng, ONE, 150), blocks=16) for _ in range(300)]
    values, errors = np.array([one.value for one in found]), np.array([one.error for one in found])
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(ddof=1), rel=0.15)
    inside = np.mean([one.interval[0] < TRUTH < one.interval[1] for one in found])
    assert 0.90 < inside < 0.985


def test_the_error_errs_on_the_safe_side_where_both_sets_are_alike():
    """Efron & Stein 1981: the jackknife's variance is never too small on average; here it is up to twice the truth."""
    rng = np.random.default_rng(6)
    found = [kernel_estimate(draws(rng, ONE, 100), draws(rng, ONE, 100), blocks=16) for _ in range(300)]
    scatter = np.std([one.value for one in found])
    error = np.sqrt(np.mean([one.error**2 for one in found]))
    assert 0.95 * scatter < error < 1.7 * scatter


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f: kernel_estimate(f[:63], f), "^63 images .* 32 blocks.* 64"),
        (lambda f: kernel_estimate(f, f[:63]), "^63 images"),
        (lambda f: kernel_estimate(f, f[:, :3]), "4 and 3 dimensions"),
        (lambda f: kernel_estimate(f, f / 0), "NaN or infinity"),
        (lambda f: kernel_estimate(f.astype(int), f), r"int64 of shape \(100, 4\)"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_does_not_compare_is_refused(call, words: str):
    with pytest.raises(InputError, match=words):
        call(np.random.default_rng(0).standard_normal((100, 4)))
