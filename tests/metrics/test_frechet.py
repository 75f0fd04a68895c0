"""The Fréchet distance between Gaussians: known cases, laws, and two independent ways to compute it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpmath import matrix, mp  # comes with torch, by way of sympy
from torchmetrics.image.fid import FrechetInceptionDistance

from ddpm.errors import InputError
from ddpm.metrics.frechet import frechet_difference, frechet_distance, frechet_estimate
from ddpm.metrics.statistics import Statistics, statistics_of


def random_covariance(rng: np.random.Generator, dimensions: int, rank: int | None = None) -> np.ndarray:
    factor = rng.standard_normal((dimensions, rank or 2 * dimensions))
    return factor @ factor.T / factor.shape[1]


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Statistics:
    return Statistics(None, np.asarray(mean, float), np.asarray(covariance, float))


def random_gaussian(rng: np.random.Generator, dimensions: int, rank: int | None = None) -> Statistics:
    return gaussian(rng.standard_normal(dimensions), random_covariance(rng, dimensions, rank))


def rotation(rng: np.random.Generator, dimensions: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((dimensions, dimensions)))[0]


def by_eigenvalues_of_the_product(one: Statistics, other: Statistics) -> float:
    """tr (S1 S2)^1/2 from the eigenvalues of the unsymmetric product, which are real and positive."""
    products = np.linalg.eigvals(one.covariance @ other.covariance)
    traces = np.trace(one.covariance) + np.trace(other.covariance) - 2 * np.sqrt(products.astype(complex)).real.sum()
    return float(((one.mean - other.mean) ** 2).sum() + traces)


# ---- known cases ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.floats(0, 5), st.floats(-4, 4))
def test_scaled_and_shifted_standard_gaussian_has_the_closed_form(dimensions: int, scale: float, shift: float):
    """|m|^2 + d (1 - s)^2; every quantity is of order 1 to 200 and rounded a few times."""
    mean = np.full(dimensions, shift)
    found = frechet_distance(gaussian(mean, scale**2 * np.eye(dimensions)), gaussian(0 * mean, np.eye(dimensions)))
    assert found == pytest.approx(dimensions * (shift**2 + (1 - scale) ** 2), rel=1e-12, abs=1e-12)


def test_commuting_covariances_differ_by_their_deviations():
    """With one set of eigenvectors the distance is that of the square roots of the eigenvalues."""
    rng = np.random.default_rng(0)
    turn, a, b = rotation(rng, 6), rng.uniform(0, 3, 6), rng.uniform(0, 3, 6)
    found = frechet_distance(
        gaussian(np.zeros(6), turn @ np.diag(a) @ turn.T), gaussian(np.zeros(6), turn * b @ turn.T)
    )
    assert found == pytest.approx(((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-12)


@given(st.integers(1, 10), st.integers(0, 1000))
def test_distance_is_that_of_the_eigenvalues_of_the_product(dimensions: int, seed: int):
    """1e-9: eigenvalues of the unsymmetric product carry its condition number, here up to 1e5 or so."""
    rng = np.random.default_rng(seed)
    one, other = random_gaussian(rng, dimensions), random_gaussian(rng, dimensions)
    assert frechet_distance(one, other) == pytest.approx(by_eigenvalues_of_the_product(one, other), rel=1e-9)


def test_distance_is_the_formula_in_forty_digits():
    rng = np.random.default_rng(3)
    one, other = random_gaussian(rng, 4), random_gaussian(rng, 4)
    with mp.workdps(40):
        root = mp.sqrtm(matrix(one.covariance.tolist()) * matrix(other.covariance.tolist()))
        mean = sum((mp.mpf(a) - mp.mpf(b)) ** 2 for a, b in zip(one.mean, other.mean, strict=True))
        trace = sum(mp.mpf(one.covariance[k, k]) + mp.mpf(other.covariance[k, k]) - 2 * root[k, k] for k in range(4))
        exact = float(mp.re(mean + trace))
    assert frechet_distance(one, other) == pytest.approx(exact, rel=1e-13)


def test_singular_covariances_are_no_special_case():
    """Gaussians on two planes of five dimensions: tr (S1 S2)^1/2 is the sum of the singular values of A^T B."""
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((5, 2)), rng.standard_normal((5, 2))
    one, other = gaussian(np.zeros(5), a @ a.T), gaussian(np.zeros(5), b @ b.T)
    exact = (a**2).sum() + (b**2).sum() - 2 * np.linalg.svd(a.T @ b, compute_uv=False).sum()
    assert frechet_distance(one, other) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_singular_against_full_rank_agrees_from_both_sides(rank: int):
    """One way round the zeros are left out, the other way they are rounded: a square root of 1e-16 each."""
    rng = np.random.default_rng(5)
    flat = random_gaussian(rng, 6, rank) if rank else gaussian(rng.standard_normal(6), np.zeros((6, 6)))
    full = random_gaussian(rng, 6)
    assert frechet_distance(flat, full) == pytest.approx(frechet_distance(full, flat), rel=1e-7)
    if not rank:
        expected = ((flat.mean - full.mean) ** 2).sum() + np.trace(full.covariance)
        assert frechet_distance(full, flat) == pytest.approx(expected, rel=1e-12)


# ---- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [300, 20], ids=["more images than dimensions", "fewer"])
@pytest.mark.parametrize("size", [1e-3, 1, 1e4])
def test_distance_of_a_set_to_itself_is_zero(count: int, size: float):
    """To 1e-9 of the traces: the smallest variances, 1e-6 of the largest, are roots of numbers known to 1e-16.

    Directions in which the set does not vary would bring 1e-8 each if they were kept.
    """
    rng = np.random.default_rng(6)
    own = statistics_of(size * (rng.standard_normal((count, 60)) @ np.diag(np.geomspace(1, 1e-3, 60)) + 2))
    assert abs(frechet_distance(own, own)) < 1e-9 * np.trace(own.covariance)


@given(st.integers(0, 1000))
def test_distance_is_symmetric_and_blind_to_rotation_and_scales_with_the_square(seed: int):
    rng = np.random.default_rng(seed)
    one, other, turn, size = random_gaussian(rng, 5), random_gaussian(rng, 5), rotation(rng, 5), rng.uniform(0.1, 10)
    found = frechet_distance(one, other)
    turned = [gaussian(size * turn @ g.mean, size**2 * turn @ g.covariance @ turn.T) for g in (one, other)]
    assert frechet_distance(other, one) == pytest.approx(found, rel=1e-9)
    assert frechet_distance(*turned) == pytest.approx(size**2 * found, rel=1e-9)


def test_a_shift_of_both_sets_changes_nothing_and_of_one_adds_its_square():
    rng = np.random.default_rng(7)
    a, b, shift = rng.standard_normal((50, 4)), rng.standard_normal((60, 4)) * 2, np.array([1.0, -2, 0, 3])
    found = frechet_distance(statistics_of(a), statistics_of(b))
    assert frechet_distance(statistics_of(a + shift), statistics_of(b + shift)) == pytest.approx(found, rel=1e-12)
    more = frechet_distance(statistics_of(a - a.mean(0) + shift), statistics_of(b - b.mean(0)))
    same = frechet_distance(statistics_of(a - a.mean(0)), statistics_of(b - b.mean(0)))
    assert more - same == pytest.approx(14, rel=1e-12)


def test_the_reference_root_is_a_root_and_is_computed_once(monkeypatch: pytest.MonkeyPatch):
    reference = random_gaussian(np.random.default_rng(8), 6, rank=4)
    assert reference.root.shape == (6, 4)
    np.testing.assert_allclose(reference.root @ reference.root.T, reference.covariance, atol=1e-14)
    monkeypatch.setattr(np.linalg, "eigh", None)
    assert reference.root is reference.root


# ---- torchmetrics ---------------------------------------------------------------------------------------------------


class Same(torch.nn.Module):
    """Images that are features already."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.num_features = dimensions

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.parametrize("dimensions", [3, 40])
def test_distance_of_features_is_that_of_torchmetrics(dimensions: int):
    """It sums without centring and takes the unsymmetric product's eigenvalues, in float64: 1e-9 is its rounding."""
    rng = np.random.default_rng(9)
    real = rng.standard_normal((500, dimensions)) @ rng.standard_normal((dimensions, dimensions)) + 1
    fake = rng.gamma(2, size=(300, dimensions))
    metric = FrechetInceptionDistance(feature=Same(dimensions)).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(fake), real=False)
    expected = metric.compute().item()
    assert frechet_distance(statistics_of(fake), statistics_of(real)) == pytest.approx(expected, rel=1e-9)
    assert frechet_estimate(fake, statistics_of(real)).value == pytest.approx(expected, rel=1e-9)


# ---- the jackknife of it --------------------------------------------------------------------------------------------

REFERENCE = gaussian(np.array([0.0, 0.3, 0, 0]), np.diag([1.0, 2, 0.5, 1]))
TURN = rotation(np.random.default_rng(10), 4)
TRUE = gaussian(np.array([0.5, 0, 0.2, -0.3]), TURN @ np.diag([0.4, 1.5, 1, 2]) @ TURN.T)
ROOT = np.linalg.cholesky(TRUE.covariance)


def draws(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal((count, 4)) @ ROOT.T + TRUE.mean


@pytest.fixture(scope="module", params=[160, 150], ids=["equal blocks", "unequal blocks"])
def estimates(request: pytest.FixtureRequest) -> np.ndarray:
    """(value, error, bias) of 400 independent samples, each of so many images in 32 blocks."""
    rng = np.random.default_rng(11)
    found = [frechet_estimate(draws(rng, request.param), REFERENCE) for _ in range(400)]
    return np.array([(one.value, one.error, one.bias) for one in found])


def test_the_error_is_the_scatter_of_independent_samples(estimates: np.ndarray):
    """A scatter seen 400 times is known to 3.5 %; 15 % leaves room for the tails of squares."""
    value, error, _ = estimates.T
    assert np.sqrt((error**2).mean()) == pytest.approx(value.std(ddof=1), rel=0.15)


def test_the_bias_is_how_far_the_mean_sample_lies_off_the_truth(estimates: np.ndarray):
    """To the standard error of that mean over 400 samples, three times; the bias is many times that."""
    value, _, bias = estimates.T
    off, unsure = value.mean() - frechet_distance(TRUE, REFERENCE), value.std(ddof=1) / 20
    assert off > 5 * unsure
    assert bias.mean() == pytest.approx(off, abs=3 * unsure)


def test_the_interval_holds_the_truth_nineteen_times_in_twenty(estimates: np.ndarray):
    """Without the bias. 400 trials know a rate of 0.95 to 0.011; 31 degrees of freedom cost another 0.01."""
    value, error, bias = estimates.T
    truth = frechet_distance(TRUE, REFERENCE)
    assert 0.905 < (np.abs(value - bias - truth) < 1.96 * error).mean() < 0.985


def test_blocks_left_out_are_the_distances_of_the_other_images():
    """Moments with a block taken away against moments of what is left, 11 images in blocks of 4, 4 and 3."""
    sample = draws(np.random.default_rng(12), 11)
    numbers = np.arange(11) % 3
    without = [frechet_distance(statistics_of(sample[numbers != block]), REFERENCE) for block in range(3)]
    value, parts = frechet_distance(statistics_of(sample), REFERENCE), 11 / np.array([4, 4, 3])
    # Busing et al. 1999, as written there: h is n / m_j, the estimate g theta - sum (1 - m_j / n) theta_j.
    joint = 3 * value - ((1 - 1 / parts) * without).sum()
    variance = ((parts * value - (parts - 1) * without - joint) ** 2 / (parts - 1)).mean()
    found = frechet_estimate(sample, REFERENCE, blocks=3)
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.error == pytest.approx(variance**0.5, rel=1e-10)
    assert found.bias == pytest.approx(value - joint, rel=1e-10)


def test_fewer_images_than_dimensions_give_a_finite_error():
    rng = np.random.default_rng(13)
    found = frechet_estimate(rng.standard_normal((64, 100)), statistics_of(rng.standard_normal((80, 100))))
    assert 0 < found.error < found.value
    assert found.bias > 0


def test_difference_of_pairs_is_surer_than_of_strangers_and_its_interval_is_right():
    """Pairs share most of their noise, as two samplers from the same seeds do.

    200 trials know a rate of 0.95 to 0.015.
    """
    rng, inside, pairs, strangers = np.random.default_rng(14), 0, [], []
    other = gaussian(TRUE.mean + 0.1, 1.05**2 * TRUE.covariance)
    truth = frechet_distance(other, REFERENCE) - frechet_distance(TRUE, REFERENCE)
    for _ in range(200):
        one = draws(rng, 160)
        like = 1.05 * (one - TRUE.mean) + TRUE.mean + 0.1 + 0.05 * rng.standard_normal(one.shape)
        found = frechet_difference(like, one, REFERENCE)
        inside += abs(found.corrected - truth) < 1.96 * found.error
        pairs.append(found.error)
        if len(strangers) < 40:
            strangers.append(frechet_difference(np.roll(like, 1, 0), one, REFERENCE).error)
    assert 0.90 < inside / 200 < 0.99
    assert np.mean(pairs) < 0.5 * np.mean(strangers)


def test_difference_is_of_the_two_distances_and_of_a_set_from_itself_is_zero():
    rng = np.random.default_rng(15)
    one, other = draws(rng, 70), draws(rng, 70) * 1.2
    found = frechet_difference(one, other, REFERENCE)
    apart = frechet_estimate(one, REFERENCE).value - frechet_estimate(other, REFERENCE).value
    assert found.value == apart
    same = frechet_difference(one, one, REFERENCE)
    assert (same.value, same.error, same.bias) == (0, 0, 0)


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f: frechet_estimate(f[:63], REFERENCE), "^63 images .* 32 blocks.* 64"),
        (lambda f: frechet_estimate(f, REFERENCE, blocks=1), "^1 blocks"),
        (lambda f: frechet_estimate(f[:, :3], REFERENCE), "3 dimensions"),
        (lambda f: frechet_estimate(f * np.nan, REFERENCE), "NaN or infinity"),
        (lambda f: frechet_estimate(f[0], REFERENCE), r"float64 of shape \(4,\)"),
        (lambda f: frechet_difference(f, f[1:], REFERENCE), "100 and 99 images"),
        (lambda f: frechet_distance(statistics_of(f[:, :3]), REFERENCE), "3 dimensions"),
        (
            lambda f: frechet_distance(statistics_of(f, extractor="ab" * 32), statistics_of(f, extractor="pixels")),
            "extractor pixels.* abababababab[:]",
        ),
    ],
)
def test_what_does_not_compare_is_refused(call, words: str):
    with pytest.raises(InputError, match=words):
        call(np.random.default_rng(0).standard_normal((100, 4)))
