"""Tables of weights and probabilities by level, and what a weight does to a loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.diffusion.test_objectives import ALPHA_BAR, LEVELS, PROCESS, drawn, images, saying

from ddpm.diffusion.objectives import GAMMA, hybrid_loss, log_normal, min_snr, simple_loss
from ddpm.diffusion.process import PREDICTIONS
from ddpm.diffusion.schedule import BETAS, make_schedule

SNR = ALPHA_BAR[1:] / (1 - ALPHA_BAR[1:])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_is_the_papers_formula_for_each_prediction(prediction: str):
    """Hang et al. 2023: min(SNR, 5) over 1 for the clean image, over SNR for noise, over SNR + 1 for v."""
    before, after = ALPHA_BAR[:-1], ALPHA_BAR[1:]
    share = np.sqrt(before) * (1 - after / before) / (1 - after)  # of the clean image in the posterior's mean
    over = {"x0": 1, "eps": SNR, "v": SNR + 1, "mean": share**2}[prediction]
    found = min_snr(PROCESS, prediction)
    assert found[0] == 0
    np.testing.assert_allclose(found[1:], np.minimum(SNR, 5) / over, rtol=1e-9)
    assert GAMMA == 5


def normal_cdf(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.5, 0.3)])
def test_log_normal_probabilities_are_those_of_the_normal_distribution_around_each_level(
    name: str, mean: float, std: float
):
    schedule = make_schedule(name, steps=50)
    log_sigma = [0.5 * math.log((1 - a) / a) for a in schedule.alpha_bar[1:]]
    found = log_normal(schedule, mean, std)
    for k, here in enumerate(log_sigma):
        low = normal_cdf(((log_sigma[k - 1] + here) / 2 - mean) / std) if k else 0.0
        high = normal_cdf(((log_sigma[k + 1] + here) / 2 - mean) / std) if k < 49 else 1.0
        assert found[k] == pytest.approx(high - low, rel=1e-9, abs=1e-15)
    assert found.sum() == pytest.approx(1, abs=1e-14)


def test_log_normal_levels_have_the_moments_asked_for():
    """Of the thousand levels of the cosine schedule; a grid's own spread is far smaller."""
    schedule = make_schedule("cosine")
    log_sigma = -schedule.log_snr[1:] / 2
    p = log_normal(schedule, -1.2, 1.2)
    mean = (p * log_sigma).sum()
    assert mean == pytest.approx(-1.2, abs=0.01)
    assert math.sqrt((p * (log_sigma - mean) ** 2).sum()) == pytest.approx(1.2, abs=0.01)


@pytest.mark.parametrize(("mean", "last"), [(-100.0, 0.0), (100.0, 1.0)])
def test_log_normal_levels_beyond_the_schedule_are_its_ends(mean: float, last: float):
    p = log_normal(make_schedule(), mean, 1e-3)
    assert (p[0], p[-1]) == (1 - last, last)
    assert log_normal(make_schedule(steps=1), mean, 1e-3).tolist() == [1]


def test_a_weight_multiplies_the_squared_error_alone():
    """In the hybrid the bound of the variance counts as ever."""
    weight = torch.tensor([0.5, 1.0, 3.0, 100.0], dtype=torch.float64)
    denoiser = saying(drawn(3), 0.3 * drawn(4), variance="range")
    simple, hybrid = (
        [loss(denoiser, images(1), LEVELS, noise=drawn(2), weight=some) for some in (None, weight)]
        for loss in (simple_loss, hybrid_loss)
    )
    assert torch.equal(simple[1], weight * simple[0])
    assert torch.allclose(hybrid[1] - hybrid[0], (weight - 1) * simple[0], rtol=1e-12, atol=1e-12)
