"""Optimal variances: no others cost less, and the table gives each chain its own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ddpm.diffusion.optimal_variance import Measured
from ddpm.diffusion.schedule import VARIANCES, Schedule, make_schedule
from ddpm.samplers.spacing import spaced
from scorings import closed_form_nats

T = 1000
SCHEDULE = make_schedule()
ALPHA_BAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, T))])
SNR = ALPHA_BAR[1:] / (1 - ALPHA_BAR[1:])
CHAINS = {
    "all levels": SCHEDULE,
    "a few": SCHEDULE.subset([7, 8, 300, 999]),
    "fifty": spaced(SCHEDULE, "uniform", 50),
    "one": spaced(SCHEDULE, "uniform", 1),
}


def errors() -> np.ndarray:
    """Of no network in particular: rising with the level, with a ripple that tells the levels apart."""
    t = np.arange(T + 1)
    return 1e-4 + 0.3 * (t / T) ** 2 * (1 + 0.3 * np.sin(t))


def measured(decoder: dict[int, float] | None = None) -> Measured:
    """With decoders fitted at some levels."""
    fitted = np.full(T + 1, np.nan)
    for level, log_variance in (decoder or {}).items():
        fitted[level] = log_variance
    return Measured(
        squared_error=errors(), decoder_log_variance=fitted, decoder_nats=np.full(T + 1, np.nan), second_moment=0.25
    )


@pytest.mark.parametrize("name", CHAINS)
def test_variances_are_the_posteriors_and_what_the_error_adds(name: str):
    """beta~ + c^2 MSE between the chain's own neighbours, from the product of the two Gaussians it is made of."""
    chain = CHAINS[name]
    found = measured().log_variance(chain)
    assert found.shape == (chain.steps + 1,)
    assert found[0] == 0
    for step in range(2, chain.steps + 1):
        s, t = chain.levels[step - 1], chain.levels[step]
        here, rest = ALPHA_BAR[s], ALPHA_BAR[t] / ALPHA_BAR[s]
        posterior = 1 / (1 / (1 - here) + rest / (1 - rest))
        weight = posterior * math.sqrt(here) / (1 - here)
        assert math.exp(found[step]) == pytest.approx(posterior + weight**2 * errors()[t], rel=1e-9, abs=0)


@pytest.mark.parametrize("name", CHAINS)
def test_the_last_step_takes_the_decoder_of_its_level_or_else_the_error_there(name: str):
    chain = CHAINS[name]
    first = int(chain.levels[1])
    assert measured().log_variance(chain)[1] == pytest.approx(math.log(errors()[first]), rel=1e-12)
    assert measured({first: -7.5}).log_variance(chain)[1] == -7.5
    elsewhere = measured({first + 1 if first < T else first - 1: -7.5})
    assert elsewhere.log_variance(chain)[1] == pytest.approx(math.log(errors()[first]), rel=1e-12)
    assert (measured({first: -7.5}).log_variance(chain)[2:] == measured().log_variance(chain)[2:]).all()


def test_each_term_is_then_half_the_log_of_one_plus_the_gain_times_the_error():
    """1/2 ln(1 + (SNR_{t-1} - SNR_t) MSE_t); the closed form subtracts numbers near 1, hence 1e-15 absolute."""
    found = closed_form_nats(SCHEDULE, errors(), measured().log_variance(SCHEDULE))
    assert (found[:2] == 0).all()
    expected = 0.5 * np.log1p((SNR[:-1] - SNR[1:]) * errors()[2:])
    np.testing.assert_allclose(found[2:], expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ["all levels", "a few", "fifty"])
def test_no_other_variances_cost_less(name: str):
    """Any shift of a log-variance costs 1/4 of its square and more or less a third power: 1e-4 is seen everywhere."""
    chain = CHAINS[name]
    error = errors()[chain.levels]
    best = measured().log_variance(chain)
    least = closed_form_nats(chain, error, best)
    for shift in (-1.0, -0.01, -1e-4, 1e-4, 0.01, 1.0):
        more = closed_form_nats(chain, error, best + shift) - least
        assert (more[2:] > 0).all()
        assert more[2:] == pytest.approx(0.5 * (math.expm1(-shift) + shift), rel=1e-4, abs=0)
    for variance in VARIANCES:
        assert (closed_form_nats(chain, error, chain.log_variance(variance))[2:] >= least[2:]).all()


def test_a_perfect_network_has_the_posteriors_variance():
    perfect = Measured(
        squared_error=np.zeros(T + 1),
        decoder_log_variance=np.full(T + 1, -9.0),
        decoder_nats=np.full(T + 1, 1.0),
        second_moment=0.25,
    )
    small = Schedule(SCHEDULE.alpha_bar, SCHEDULE.levels).log_variance("small")
    np.testing.assert_allclose(perfect.log_variance(SCHEDULE)[2:], small[2:], rtol=1e-14)
