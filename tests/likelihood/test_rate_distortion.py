"""Rate and distortion hang together as the paper says, and errors are those of textbook statistics."""

from __future__ import annotations

import numpy as np
import pytest

from ddpm.base.units import bits
from ddpm.diffusion.schedule import Schedule, make_schedule
from ddpm.errors import InputError
from ddpm.likelihood.estimate import estimate_bound
from ddpm.likelihood.monte_carlo import Calls
from ddpm.likelihood.rate_distortion import RateDistortion, RunningMoments, estimate_rate_distortion
from scorings import Network, pixels, scoring_of

SHORT = make_schedule(steps=40, beta_start=2e-3, beta_end=0.4)
CHAINS = {"all levels": SHORT, "a few": SHORT.subset([1, 3, 9, 20, 33, 40])}


def made_up(chain: Schedule, seed: int = 0) -> RateDistortion:
    random, size = np.random.default_rng(seed), chain.steps + 1
    error = np.concatenate([[0.0], random.random(size - 1)])
    return RateDistortion(chain.levels, random.random(size), random.random(size), error, random.random(size))


# ---- rate and distortion --------------------------------------------------------------------------------------------


def test_rate_is_what_was_received_before_and_the_first_row_is_the_whole_bound():
    """R_t = L_T + sum over s > t of L_{s-1}; sums in another order, hence 1e-12."""
    profile = made_up(SHORT)
    for i in range(41):
        assert profile.rate[i] == pytest.approx(profile.bits[0] + profile.bits[i + 1 :].sum(), rel=1e-12)
    assert profile.rate[0] == pytest.approx(profile.bits.sum(), rel=1e-12)
    assert profile.rate[40] == profile.bits[0]


@pytest.mark.parametrize("name", CHAINS)
def test_the_measured_rate_only_grows_towards_the_image(name: str):
    """Every term is a divergence, so even its estimate is at least 0."""
    scoring = scoring_of(SHORT, pixels(10), chain=CHAINS[name], wobble=0.2)
    profile = estimate_rate_distortion(scoring, 400)
    assert (np.diff(profile.rate) <= 0).all()
    assert profile.rate[0] == pytest.approx(profile.bits.sum(), rel=1e-12)


@pytest.mark.parametrize("name", CHAINS)
def test_small_variances_turn_distortion_into_bits(name: str):
    """Check 24: with the posterior variance a term is 1/2 (SNR_{i-1} - SNR_i) MSE_i nats a pixel, call by call."""
    chain = CHAINS[name]
    profile = estimate_rate_distortion(scoring_of(SHORT, pixels(10), chain=chain, wobble=0.2), 400)
    gain = chain.snr[1:-1] - chain.snr[2:]
    np.testing.assert_allclose(profile.bits[2:], bits(1.0) * 0.5 * gain * profile.squared_error[2:], rtol=1e-9)
    np.testing.assert_allclose(profile.bits_error[2:], bits(1.0) * 0.5 * gain * profile.squared_error_error[2:], 1e-7)


def test_distortion_is_a_root_mean_square_in_grey_levels():
    profile = made_up(SHORT)
    np.testing.assert_allclose((profile.distortion / 127.5) ** 2, profile.squared_error, rtol=1e-12)
    assert profile.distortion[0] == 0
    np.testing.assert_allclose(  # d sqrt(m) = dm / (2 sqrt(m))
        profile.distortion_error[1:],
        127.5 * profile.squared_error_error[1:] / (2 * np.sqrt(profile.squared_error[1:])),
        rtol=1e-12,
    )


# ---- rows -----------------------------------------------------------------------------------------------------------


def test_a_thousand_levels_give_the_rows_of_table_4():
    rows = made_up(make_schedule()).rows()
    assert [row["t"] for row in rows] == [1, 101, 201, 301, 401, 501, 601, 701, 801, 901]
    assert [row["reverse_steps"] for row in rows] == [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]


@pytest.mark.parametrize("steps", [*range(1, 31), 50, 250, 999, 4000])
def test_processes_of_any_length_have_ten_rows_or_all_their_steps(steps: int):
    profile = made_up(make_schedule(steps=steps))
    rows = profile.rows()
    levels = [row["t"] for row in rows]
    assert len(rows) == min(10, steps)
    assert levels == sorted(set(levels))
    assert levels[0] == 1
    for row in rows:
        assert row["reverse_steps"] == steps - row["t"] + 1
        assert row["rate"] == profile.rate[row["t"]]
        assert row["rmse"] == profile.distortion[row["t"]]
    if steps >= 10:  # evenly spread
        assert max(np.diff(levels)) - min(np.diff(levels)) <= 1


def test_rows_and_table_of_a_chain_name_levels_of_the_full_process():
    profile = made_up(CHAINS["a few"])
    assert [row["t"] for row in profile.rows()] == [1, 3, 9, 20, 33, 40]
    assert [row["reverse_steps"] for row in profile.rows()] == [6, 5, 4, 3, 2, 1]
    assert [row["t"] for row in profile.table()] == [1, 3, 9, 20, 33, 40]
    assert [row["term"] for row in profile.table()] == profile.bits[1:].tolist()
    assert [row["term_error"] for row in profile.table()] == profile.bits_error[1:].tolist()


# ---- the measurement ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(5,), (1, 1), (3, 4, 1), (0, 7, 2)])
def test_moments_of_chunks_are_numpys_of_the_whole(sizes: tuple[int, ...]):
    rows = 3 + np.random.default_rng(0).standard_normal((sum(sizes), 4))
    moments = RunningMoments(4)
    for chunk in np.split(rows, np.cumsum(sizes)[:-1]):
        moments.add(chunk)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.error, rows.std(0, ddof=1) / len(rows) ** 0.5, rtol=1e-10)


def test_a_single_row_has_no_error():
    moments = RunningMoments(3)
    moments.add(np.array([[1.0, 2.0, 3.0]]))
    assert moments.mean.tolist() == [1, 2, 3]
    assert np.isnan(moments.error).all()
    profile = estimate_rate_distortion(scoring_of(SHORT, pixels(3)), 40)
    assert np.isnan(profile.bits_error[1:]).all()
    assert np.isnan(profile.distortion_error[1:]).all()
    assert np.isfinite(profile.rate).all()


@pytest.mark.parametrize("calls", [40, 79, 80, 500])
def test_every_step_is_called_equally_often_within_the_budget(calls: int):
    network, told = Network(SHORT), []
    estimate_rate_distortion(scoring_of(SHORT, pixels(3), denoiser={"network": network}, advance=told.append), calls)
    assert network.calls == sum(told) == calls // 40 * 40


def test_too_few_calls_to_reach_every_step_are_refused():
    with pytest.raises(InputError, match="calls must be at least 40"):
        estimate_rate_distortion(scoring_of(SHORT, pixels(3)), 39)


def test_the_profile_agrees_with_the_calls_it_is_made_of():
    """Means and standard errors of the very calls, taken by hand."""
    scoring = scoring_of(SHORT, pixels(5), wobble=0.2)
    profile = estimate_rate_distortion(scoring, 200)
    found = []
    for step in range(1, 41):
        numbers = np.arange(5) * 40 + step - 1
        found.append(scoring.terms(Calls(np.arange(5), np.full(5, step), numbers), "profile noise").squared_error)
    # the images are dealt out by chance, so only the noise is the same: equal within five of the two's errors
    by_hand = np.array(found).mean(1)
    apart = np.abs(by_hand - profile.squared_error[1:]) / (np.sqrt(2) * profile.squared_error_error[1:])
    assert np.median(apart) < 2


def test_profile_and_estimate_agree():
    """Each within five of their joint errors."""
    scoring = scoring_of(SHORT, pixels(10), wobble=0.2)
    profile, bound = estimate_rate_distortion(scoring, 4000), estimate_bound(scoring, 2000)
    error = np.sqrt((profile.bits_error[1:] ** 2).sum() + bound.total.error**2)
    assert profile.rate[0] == pytest.approx(bound.total.value, abs=5 * error)
    assert profile.bits[1] == pytest.approx(bound.decoder.value, abs=5 * (bound.decoder.error + profile.bits_error[1]))
    assert profile.bits[0] == pytest.approx(bound.prior.value, abs=5 * bound.prior.error)
