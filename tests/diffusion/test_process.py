"""The forward process against plain NumPy and the Gaussian algebra written out; the numbers are the paper's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddpm.base.gaussians import Gaussian
from ddpm.diffusion.process import PREDICTIONS, Process
from ddpm.diffusion.schedule import BETAS, make_schedule
from ddpm.errors import InputError

T = 1000
BETA = np.linspace(1e-4, 0.02, T)  # eq. 2; entry t - 1 belongs to level t
ALPHA_BAR = np.cumprod(1 - BETA)

PROCESS = Process(make_schedule())


def posterior(x0: torch.Tensor, xt: torch.Tensor, t: torch.Tensor) -> Gaussian:
    """q(x_{t-1} | x_t, x_0) (eqs. 6 and 7)."""
    variance = torch.from_numpy(PROCESS.schedule.posterior_variance[t.numpy()]).reshape(-1, 1, 1, 1)
    return Gaussian(PROCESS.posterior_mean(x0, xt, t), variance.log())


EVERY_PREDICTION = pytest.mark.parametrize("prediction", PREDICTIONS)


def images(seed: int, count: int = 64, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Uniform in [-1, 1], rectangular and of two channels."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (count, 2, 5, 3))).to(dtype)


def noises(seed: int, count: int = 64, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1000 + seed).standard_normal((count, 2, 5, 3))).to(dtype)


def spread(count: int = 64) -> torch.Tensor:
    """Levels from 1 to T, both ends included."""
    return torch.from_numpy(np.linspace(1, T, count).astype(np.int64))


def posterior_by_hand(x0: np.ndarray, xt: np.ndarray, t: int) -> tuple[np.ndarray, float]:
    """Multiply N(x_s; sqrt(A_s) x0, 1 - A_s) and N(xt; sqrt(a) x_s, beta): precisions add (s = t - 1 > 0)."""
    before, beta = ALPHA_BAR[t - 2], BETA[t - 1]
    precision = 1 / (1 - before) + (1 - beta) / beta
    return (math.sqrt(before) / (1 - before) * x0 + math.sqrt(1 - beta) / beta * xt) / precision, 1 / precision


# ---- forward --------------------------------------------------------------------------------------------------------


def test_a_jump_to_level_t_is_the_chain_of_single_steps():
    """Without noise the image shrinks by sqrt(1 - beta) a step; the noise's variance goes to (1 - beta) v + beta."""
    signal, variance = 1.0, 0.0
    one, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    for t, beta in enumerate(BETA, start=1):
        signal, variance = signal * math.sqrt(1 - beta), (1 - beta) * variance + beta
        level = torch.tensor([t])
        assert PROCESS.q_sample(one, level, noise=zero).item() == pytest.approx(signal, rel=1e-11)
        assert PROCESS.q_sample(zero, level, noise=one).item() == pytest.approx(math.sqrt(variance), rel=1e-11)


def test_each_image_of_a_batch_goes_to_its_own_level():
    x0, t, noise = images(0), spread(), noises(0)
    found = PROCESS.q_sample(x0, t, noise=noise).numpy()
    for k, level in enumerate(t.tolist()):
        a = ALPHA_BAR[level - 1]
        expected = math.sqrt(a) * x0[k].numpy() + math.sqrt(1 - a) * noise[k].numpy()
        assert abs(found[k] - expected).max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_level_zero_is_the_image_itself_bit_for_bit(dtype: torch.dtype):
    x0 = images(1, dtype=dtype)
    assert torch.equal(PROCESS.q_sample(x0, torch.zeros(64, dtype=torch.int64), noise=noises(1, dtype=dtype)), x0)


def test_coefficients_are_rounded_to_float32_once_and_not_computed_there():
    """1 - A[0] computed in float32 is 1.0001665e-4, off by 1.7e-4; rounded from float64 it is off by 6e-8 at most."""
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    sigma = PROCESS.q_sample(zero, torch.tensor([1]), noise=one).item()
    assert sigma == pytest.approx(0.01, rel=1.2e-7)


# ---- the posterior --------------------------------------------------------------------------------------------------


def test_posterior_is_the_product_of_forward_step_and_marginal():
    x0, xt, t = images(2), noises(2), spread()
    found = posterior(x0, xt, t)
    assert found.log_variance.shape == (64, 1, 1, 1)
    for k, level in enumerate(t.tolist()):
        if level > 1:
            mean, variance = posterior_by_hand(x0[k].numpy(), xt[k].numpy(), level)
            assert abs(found.mean[k].numpy() - mean).max() < 1e-10
            assert found.log_variance[k].exp().item() == pytest.approx(variance, rel=1e-10)


def test_posterior_at_level_one_is_the_image_with_no_variance():
    x0, xt = images(3, 1), noises(3, 1)
    found = posterior(x0, xt, torch.tensor([1]))
    assert torch.equal(found.mean, x0)
    assert found.log_variance.item() == -math.inf
    assert torch.equal(found.sample(torch.randn(1, 2, 5, 3, dtype=torch.float64)), x0)


def test_posterior_samples_of_a_noised_image_have_the_law_of_one_level_less():
    """Marginalising q(x_s | x_t, x_0) over x_t gives q(x_s | x_0): mean and variance of 200,000 draws, four errors."""
    rng, t, draws = np.random.default_rng(4), 300, 200_000
    x0 = torch.full((1, 1, 1, draws), 0.7, dtype=torch.float64)
    noise, again = (torch.from_numpy(rng.standard_normal((1, 1, 1, draws))) for _ in range(2))
    level = torch.tensor([t])
    xs = posterior(x0, PROCESS.q_sample(x0, level, noise=noise), level).sample(again)
    a = ALPHA_BAR[t - 2]
    assert xs.mean().item() == pytest.approx(math.sqrt(a) * 0.7, abs=4 * math.sqrt((1 - a) / draws))
    assert xs.var().item() == pytest.approx(1 - a, rel=4 * math.sqrt(2 / draws))


# ---- what a network may predict -------------------------------------------------------------------------------------


@EVERY_PREDICTION
@pytest.mark.parametrize("name", BETAS)
def test_clean_image_is_recovered_from_the_target_of_every_prediction(prediction: str, name: str):
    """1e-10 in float64, the paper's schedule amplifying by 7,791; the constant one amplifies by 1 / c1 = 1.2e6."""
    process = Process(make_schedule(name))
    x0, t, noise = images(5), spread(), noises(5)
    xt = process.q_sample(x0, t, noise=noise)
    found = process.x0_from(prediction, process.target(prediction, x0, t, noise=noise), xt, t)
    assert (found - x0).abs().max() < (1e-10 if name == "linear" else 5e-9)


@pytest.mark.parametrize(("prediction", "limit"), [("eps", 5e-4), ("mean", 2e-2), ("v", 1e-6), ("x0", 0)])
def test_float32_recovers_the_clean_image_at_the_last_level_within_the_papers_limits(prediction: str, limit: float):
    """sqrt(1 / A - 1) = 157 amplifies float32 rounding for eps, 1 / c1 = 7791 for the mean; v and x0 by at most 1."""
    x0, noise = images(6, dtype=torch.float32), noises(6, dtype=torch.float32)
    t = torch.full((64,), T)
    xt = PROCESS.q_sample(x0, t, noise=noise)
    found = PROCESS.x0_from(prediction, PROCESS.target(prediction, x0, t, noise=noise), xt, t)
    assert found.dtype == torch.float32
    assert (found - x0).abs().max() <= limit


def test_targets_are_what_their_names_say():
    x0, t, noise = images(7), spread(), noises(7)
    targets = {prediction: PROCESS.target(prediction, x0, t, noise=noise).numpy() for prediction in PREDICTIONS}
    for k, level in enumerate(t.tolist()):
        a = ALPHA_BAR[level - 1]
        clean, eps = x0[k].numpy(), noise[k].numpy()
        expected = {"eps": eps, "x0": clean, "v": math.sqrt(a) * eps - math.sqrt(1 - a) * clean, "mean": clean}
        if level > 1:
            expected["mean"], _ = posterior_by_hand(clean, math.sqrt(a) * clean + math.sqrt(1 - a) * eps, level)
        assert set(expected) == set(PREDICTIONS)
        for prediction, value in expected.items():
            assert abs(targets[prediction][k] - value).max() < 1e-10, (prediction, level)


def test_posterior_mean_written_with_the_noise_is_equation_11():
    """mu = (x_t - beta / sqrt(1 - A) eps) / sqrt(1 - beta)."""
    x0, t, noise = images(8), spread(), noises(8)
    xt = PROCESS.q_sample(x0, t, noise=noise)
    found = PROCESS.posterior_mean(PROCESS.x0_from("eps", noise, xt, t), xt, t)
    beta, a = (torch.from_numpy(table[t.numpy() - 1]).reshape(-1, 1, 1, 1) for table in (BETA, ALPHA_BAR))
    assert (found - (xt - beta / torch.sqrt(1 - a) * noise) / torch.sqrt(1 - beta)).abs().max() < 1e-10


@given(level=st.integers(1, T), x0=st.floats(-1, 1), xt=st.floats(-6, 6))
def test_predictions_of_the_same_image_agree_at_any_level(level: int, x0: float, xt: float):
    """Whatever the pair (x0, xt), the eps, v and mean that belong to it lead back to x0."""
    a = ALPHA_BAR[level - 1]
    eps = (xt - math.sqrt(a) * x0) / math.sqrt(1 - a)
    outputs = {"x0": x0, "eps": eps, "v": math.sqrt(a) * eps - math.sqrt(1 - a) * x0}
    for prediction, output in outputs.items():
        value, there = (torch.full((1, 1, 1, 1), number, dtype=torch.float64) for number in (output, xt))
        assert PROCESS.x0_from(prediction, value, there, torch.tensor([level])).item() == pytest.approx(x0, abs=1e-10)


def test_an_unknown_prediction_is_refused_with_the_known_ones():
    x = images(0, 1)
    with pytest.raises(InputError, match="eps, x0, v, mean"):
        PROCESS.target("score", x, torch.tensor([1]), noise=x)
    with pytest.raises(InputError, match="eps, x0, v, mean"):
        PROCESS.x0_from("score", x, x, torch.tensor([1]))
