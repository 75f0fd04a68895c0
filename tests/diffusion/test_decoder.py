"""The discretised decoder: 256 probabilities that sum to one, exact however improbable (check 8 of the paper sheet).

Oracles: the same probability in 60 digits (mpmath comes with torch), and the official code's tanh form.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp, mpf
from torch import Tensor

from ddpm.base.gaussians import Gaussian
from ddpm.base.units import images_to_x
from ddpm.diffusion.decoder import log_probability
from ddpm.diffusion.schedule import make_schedule

ALL = torch.arange(256, dtype=torch.uint8).reshape(-1, 1, 1, 1)
FIRST_LOG_VARIANCE = -9.81672513529567  # ln beta~_2, of both variance types at t = 1


def of_all_levels(mean: float, log_variance: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Log-probabilities of the levels 0..255, (256,)."""
    x0 = images_to_x(ALL, dtype)
    gaussian = Gaussian(torch.full_like(x0, mean), torch.full_like(x0, log_variance))
    return log_probability(gaussian, x0).flatten()


def exact(level: int, mean: float, log_variance: float) -> float:
    """ln of the Gaussian's mass between the edges of a level's bin, in digits enough for 10,000 deviations."""
    with mp.workdps(60):
        x, sigma = mpf(2 * level) / 255 - 1, mp.exp(mpf(log_variance) / 2)
        low = -mp.inf if level == 0 else (x - mpf(1) / 255 - mpf(mean)) / sigma
        high = mp.inf if level == 255 else (x + mpf(1) / 255 - mpf(mean)) / sigma
        if low + high > 0:
            low, high = -high, -low
        mass = mp.erfc(-high / mp.sqrt(2)) / 2 - (mp.erfc(-low / mp.sqrt(2)) / 2 if low > -mp.inf else 0)
        return float(mp.log(mass))


def official(level: int, mean: float, log_variance: float) -> float:
    """Probability in the official code: tanh for the normal distribution function, clamped at 1e-12."""

    def cdf(z: float) -> float:
        return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    x, inverse = level / 127.5 - 1, math.exp(-0.5 * log_variance)
    low, high = cdf(inverse * (x - 1 / 255 - mean)), cdf(inverse * (x + 1 / 255 - mean))
    return max(high if x < -0.999 else 1 - low if x > 0.999 else high - low, 1e-12)


# ---- a distribution -------------------------------------------------------------------------------------------------

FAR = [-50.0, -3.0, -1.2, -1.0, -0.996, 0.0, 0.1234, 0.9999, 1.0, 1.5, 4.0, 50.0]


@pytest.mark.parametrize("sigma", [1e-3, 7.3846e-3, 0.03, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("mean", FAR)
def test_the_probabilities_of_all_levels_sum_to_one(mean: float, sigma: float):
    """256 numbers, each good to a few roundings of 1e-16."""
    assert of_all_levels(mean, 2 * math.log(sigma)).exp().sum().item() == pytest.approx(1, abs=1e-13)


@given(st.floats(-5, 5), st.floats(-3, 0.477))
def test_they_sum_to_one_for_any_mean_and_deviation(mean: float, log10_sigma: float):
    total = of_all_levels(mean, 2 * math.log(10) * log10_sigma).exp().sum().item()
    assert total == pytest.approx(1, abs=1e-13)


def test_only_the_first_and_the_last_level_take_a_tail():
    """A mean far out on one side leaves its neighbour level only a bin: 4 e-folds and more below the tail."""
    for mean, edge, beside in ((-1.5, 0, 1), (1.5, 255, 254)):
        found = of_all_levels(mean, 2 * math.log(0.1))
        assert found[edge].exp().item() == pytest.approx(1, abs=1e-6)
        assert found[beside] < found[edge] - 4
    flat = of_all_levels(0.0, 2 * math.log(3.0)).exp()
    tail = 0.5 * math.erfc((1 - 1 / 255) / 3 / math.sqrt(2))
    assert flat[[0, 255]].tolist() == pytest.approx([tail, tail], rel=1e-12)
    assert (flat[1:255] < 1.01 * 2 / 255 / 3 / math.sqrt(2 * math.pi)).all()  # density at 0 times the bin


def test_levels_mirror_each_other():
    """x = level / 127.5 - 1 is rounded to 1e-16 of itself, which 1 / sigma = 33 and the far tail's slope multiply."""
    found, mirrored = of_all_levels(0.3, 2 * math.log(0.03)), of_all_levels(-0.3, 2 * math.log(0.03)).flip(0)
    assert torch.allclose(found, mirrored, rtol=1e-12, atol=1e-12)


# ---- numbers of the paper sheet -------------------------------------------------------------------------------------


def test_a_perfect_mean_costs_what_the_first_variance_says():
    """Check 8 under the exact normal distribution function: an interior level, and the two with tails."""
    assert make_schedule().log_variance("large")[1] == pytest.approx(FIRST_LOG_VARIANCE, rel=1e-12)
    costs = [-of_all_levels(k / 127.5 - 1, FIRST_LOG_VARIANCE)[k].item() / math.log(2) for k in (128, 0, 255)]
    assert costs[0] == pytest.approx(1.30537765556172, abs=1e-12)
    assert costs[1:] == pytest.approx([0.5098250702149605] * 2, abs=1e-12)


def test_the_official_form_costs_a_little_more_than_the_exact_one():
    """+0.00029 bits inside and +0.00008 at the edges, and its own two numbers: the oracle is the official code."""
    for k, theirs in ((128, 1.3056651452870647), (0, 0.5099078789849965)):
        mean = k / 127.5 - 1
        assert -math.log2(official(k, mean, FIRST_LOG_VARIANCE)) == pytest.approx(theirs, abs=1e-12)
        ours = -of_all_levels(mean, FIRST_LOG_VARIANCE)[k].item() / math.log(2)
        assert theirs - ours == pytest.approx(0.00029 if k else 0.00008, abs=5e-6)


@pytest.mark.parametrize("sigma", [1e-3, 7.3846e-3, 0.1, 1.0])
@pytest.mark.parametrize("mean", [-1.3, -1.0, 0.0, 0.002, 0.7])
def test_official_probabilities_lie_within_the_error_of_their_tanh(mean: float, sigma: float):
    """1.79e-4 for one value of the distribution function, twice that for a difference of two."""
    ours = of_all_levels(mean, 2 * math.log(sigma)).exp()
    for level in range(256):
        limit = 1.8e-4 if level in (0, 255) else 3.6e-4
        assert abs(ours[level].item() - official(level, mean, 2 * math.log(sigma))) <= limit


def test_no_improbable_pixel_is_forgiven():
    """The official floor is 39.863 bits; here the price goes on rising with the square of the distance."""
    assert -math.log2(official(128, -1.0, FIRST_LOG_VARIANCE)) == pytest.approx(39.863, abs=5e-4)
    assert -of_all_levels(-1.0, FIRST_LOG_VARIANCE)[128].item() / math.log(2) > 13_000


# ---- far out --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigmas", [0, 1, 5, 20, 67, 400, 9000])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("sigma", [1e-3, 7.3846e-3, 0.1, 1.0, 3.0])
def test_log_probabilities_are_exact_at_any_distance(sigma: float, sign: int, sigmas: float):
    """Against 60 digits: a relative 1e-11, since a bin of 1 / 400 sigma is a difference of two nearly equal numbers."""
    log_variance = 2 * math.log(sigma)
    for level in (0, 1, 77, 254, 255):
        mean = level / 127.5 - 1 + sign * sigmas * sigma
        found = of_all_levels(mean, log_variance)[level].item()
        expected = exact(level, mean, log_variance)
        assert math.isfinite(found)
        assert found == pytest.approx(expected, rel=1e-11, abs=1e-13)


def everywhere(dtype: torch.dtype, reach: float, lowest: float) -> tuple[Tensor, Tensor, Tensor]:
    """Values and both gradients of every level, under means to +-reach and log-variances from the lowest to 10."""
    means = torch.tensor([*np.linspace(-2, 2, 41), -reach, -reach / 3, reach / 3, reach], dtype=dtype)
    log_variances = torch.linspace(lowest, 10, 25, dtype=dtype).reshape(1, 1, -1, 1)
    mean, log_variance = (
        v.expand(256, 45, 25, 1).clone().requires_grad_() for v in (means.reshape(1, -1, 1, 1), log_variances)
    )
    found = log_probability(Gaussian(mean, log_variance), images_to_x(ALL, dtype).expand_as(mean))
    found.sum().backward()
    assert mean.grad is not None
    assert log_variance.grad is not None
    assert found.dtype == dtype
    return found.detach(), mean.grad, log_variance.grad


@pytest.mark.parametrize(("dtype", "reach", "lowest"), [(torch.float32, 5, -12), (torch.float64, 300, -30)])
def test_values_and_gradients_are_finite_everywhere(dtype: torch.dtype, reach: float, lowest: float):
    """In one tensor with all that `where` leaves out, which must not hand back a NaN times zero."""
    found = everywhere(dtype, reach, lowest)
    assert all(torch.isfinite(values).all() for values in found)
    assert (found[0] <= 0).all()


def test_float32_gradients_are_finite_for_the_narrowest_learned_variances_too():
    """Log-variances of -20 come about where a pixel is always of level 0; then one is not."""
    assert all(torch.isfinite(values).all() for values in everywhere(torch.float32, 5, -20))


def slopes(level: int, mean: float, log_variance: float) -> tuple[float, float]:
    """Derivatives of ln p by the mean and the log-variance, from densities at the bin's edges, in 60 digits."""
    with mp.workdps(60):
        x, sigma = mpf(2 * level) / 255 - 1, mp.exp(mpf(log_variance) / 2)
        edges = [(x + side * mpf(1) / 255 - mpf(mean)) / sigma for side in (-1, 1)]
        density = [mp.exp(-(z**2) / 2) / mp.sqrt(2 * mp.pi) for z in edges]
        if level in (0, 255):
            density[0 if level == 0 else 1] = mpf(0)
        low, high = (-mp.inf if level == 0 else edges[0]), (mp.inf if level == 255 else edges[1])
        if low + high > 0:
            low, high = -high, -low
        mass = mp.erfc(-high / mp.sqrt(2)) / 2 - (mp.erfc(-low / mp.sqrt(2)) / 2 if low > -mp.inf else 0)
        by_mean = (density[0] - density[1]) / mass / sigma
        return float(by_mean), float((edges[0] * density[0] - edges[1] * density[1]) / mass / 2)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-9), (torch.float32, 1e-2)])
@pytest.mark.parametrize("sigma", [7.3846e-3, 0.05, 1.0])
@pytest.mark.parametrize("sigmas", [-30.0, -3.0, -0.4, 0.7, 5.0])
def test_gradients_are_those_of_the_exact_probability(dtype: torch.dtype, rel: float, sigma: float, sigmas: float):
    """Float32 rounds the difference of two log-probabilities as far apart as a bin, 1 / 127 sigma at the least."""
    for level in (0, 1, 130, 255):
        mean, log_variance = (
            torch.full((1, 1, 1, 1), value, dtype=dtype, requires_grad=True)
            for value in (level / 127.5 - 1 + sigmas * sigma, 2 * math.log(sigma))
        )
        log_probability(Gaussian(mean, log_variance), images_to_x(ALL[level : level + 1], dtype)).sum().backward()
        expected = slopes(level, mean.item(), log_variance.item())
        assert mean.grad.item() == pytest.approx(expected[0], rel=rel, abs=rel * 10)
        assert log_variance.grad.item() == pytest.approx(expected[1], rel=rel, abs=rel)


def test_one_log_variance_an_image_broadcasts():
    x0 = images_to_x(torch.tensor([[[[0, 40], [200, 255]]]] * 2, dtype=torch.uint8), torch.float64)
    mean = x0 + 0.01
    narrow = torch.tensor([-9.0, -4.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    found = log_probability(Gaussian(mean, narrow), x0)
    assert found.shape == x0.shape
    assert torch.equal(found, log_probability(Gaussian(mean, narrow.expand_as(x0)), x0))
