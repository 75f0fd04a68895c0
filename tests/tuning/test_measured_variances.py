"""What is measured is what is there: errors known in closed form, and decoder variances that nothing beats."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from ddpm.base.gaussians import Gaussian
from ddpm.base.units import images_to_x
from ddpm.diffusion.bound import step_term
from ddpm.diffusion.decoder import log_probability
from ddpm.diffusion.optimal_variance import Measured
from ddpm.diffusion.schedule import make_schedule
from ddpm.tuning.variances import COMMON, DECODER_LEVELS, FLOOR, calls_needed, measure
from scorings import Network, known_error, pixels, scoring_of

SHORT = make_schedule(steps=60, beta_start=1e-3, beta_end=0.3)


def test_the_table_is_the_known_error():
    """Per level each x 8 squared normal errors, sd sqrt(2 / n) of the value: below, n = 8 x 16 x 8; above, the window
    of 0.1 in ln t joins some neighbours but may not help at the first ones, n = 16 x 8. Five of them.

    Images are 2,000 Gaussian ones rounded to grey levels, which adds bin^2/12 = 5e-6 to a variance of 0.09.
    """
    each = 16
    found = measure(scoring_of(SHORT, pixels(2000)), each)
    ratio = found.squared_error[1:] / known_error(SHORT)[1:]
    assert found.squared_error[0] == 0
    assert np.abs(ratio[:DECODER_LEVELS] - 1).max() < 5 * (2 / (COMMON * each * 8)) ** 0.5
    assert np.abs(ratio[DECODER_LEVELS:] - 1).max() < 5 * (2 / (each * 8)) ** 0.5
    assert found.second_moment == pytest.approx(0.09, rel=5 * (2 / (8 * each * 8)) ** 0.5)


def test_above_the_first_levels_the_table_is_smoother_than_what_was_measured():
    """Neighbours within 0.1 in ln t share their noise: at level 900 of 1000 some 200 of them."""
    schedule, each = make_schedule(), 2
    found = measure(scoring_of(schedule, pixels(200)), each).squared_error
    relative = found[500:] / known_error(schedule)[500:] - 1
    assert np.abs(relative).max() < 5 * (2 / (each * 8 * 100)) ** 0.5
    assert np.abs(np.diff(relative)).max() < 0.01


@functools.cache
def measured(spread: float = 0.3) -> Measured:
    return measure(scoring_of(SHORT, pixels(200, spread=spread)), 64)


@pytest.mark.parametrize(("level", "spread"), [(1, 0.3), (2, 0.3), (7, 0.3), (32, 0.3), (1, 1.5), (2, 1.5), (7, 1.5)])
def test_no_other_variance_makes_the_decoder_cheaper(level: int, spread: float):
    """A dense search on noise of its own: both means come from thousands of pixels, so they agree to a few percent in
    the standard deviation, and the cost at the found variance exceeds the least one by 1e-3 nats at most (the cost is
    flat there: a relative slip d of the deviation costs about d^2 nats a pixel).

    With Gaussian errors the best deviation is their root mean square, which is one of those tried. Images mostly black
    and white, whose bins have no end, want more: 1.4 to 1.8 times as much at these levels, between those tried.
    """
    scoring, found = scoring_of(SHORT, pixels(200, spread=spread)), measured(spread)
    x0 = images_to_x(torch.from_numpy(scoring.images.read(np.arange(200))), torch.float64).repeat(50, 1, 1, 1)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = torch.full((len(x0),), level)
    xt = scoring.denoiser.process.q_sample(x0, steps, noise=noise)
    mean = scoring.denoiser.x0(xt, steps)

    def cost(log_variance: float) -> float:
        return -float(log_probability(Gaussian(mean, torch.tensor(log_variance).double()), x0).mean())

    dense = found.decoder_log_variance[level] + np.linspace(-1.5, 1.5, 61)
    best = min(cost(value) for value in dense)
    assert cost(found.decoder_log_variance[level]) < best + 1e-3
    # 512 calls of 8 pixels: the mean cost scatters by sqrt(1/2) per pixel at most; 5 standard errors
    assert found.decoder_nats[level] == pytest.approx(best, abs=5 * (0.5 / 4096) ** 0.5)


def test_decoders_are_fitted_at_the_first_levels_only():
    found = measure(scoring_of(SHORT, pixels(20)), 1)
    fitted = np.arange(61)[~np.isnan(found.decoder_log_variance)]
    assert (fitted == np.arange(1, DECODER_LEVELS + 1)).all()
    assert (np.isnan(found.decoder_nats) == np.isnan(found.decoder_log_variance)).all()


def test_a_perfect_network_stops_at_the_floor_and_it_is_reported():
    grey = np.full((3, 1, 2, 2), 100, np.uint8)

    def knows(x, time, labels=None):
        return torch.full_like(x, 100 / 127.5 - 1)

    perfect = scoring_of(SHORT, grey, denoiser={"network": knows, "prediction": "x0"})
    found = measure(perfect, 2)
    assert (found.squared_error < 1e-30).all()  # one rounding of 100 / 127.5 - 1 may differ
    assert found.decoder_log_variance[1:33] == pytest.approx(2 * np.log(FLOOR), rel=1e-12)
    assert found.decoder_nats[1:33].max() < 1e-3  # so low a floor costs next to nothing
    assert np.isfinite(found.decoder_nats[1:33]).all()
    assert np.isfinite(found.log_variance(SHORT)).all()


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("steps", [1, 5, 12, DECODER_LEVELS, DECODER_LEVELS + 1, 40])
def test_processes_of_any_length_take_the_calls_that_are_told_beforehand(steps: int, each: int):
    schedule = make_schedule(steps=steps, beta_start=0.01, beta_end=0.2)
    network, told = Network(schedule), []
    found = measure(
        scoring_of(schedule, pixels(5), denoiser={"network": network}, advance=told.append, batch_size=10), each
    )
    assert network.calls == sum(told) == calls_needed(steps, each)
    assert found.squared_error.shape == found.decoder_nats.shape == (steps + 1,)
    assert np.isfinite(found.squared_error).all()
    assert np.isfinite(found.log_variance(schedule)).all()


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_measurement_does_not_depend_on_the_batch_size(batch_size: int):
    """Float64 throughout; only the order of sums differs."""
    one = measure(scoring_of(SHORT, pixels(20)), 2)
    other = measure(scoring_of(SHORT, pixels(20), batch_size=batch_size), 2)
    assert_close(one, other, 1e-9)


def assert_close(one: Measured, other: Measured, rel: float) -> None:
    for name in ("squared_error", "decoder_log_variance", "decoder_nats"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rel)
    assert one.second_moment == pytest.approx(other.second_moment, rel=rel)


def test_another_seed_measures_anew():
    one, other = (measure(scoring_of(SHORT, pixels(20), seed=seed), 2) for seed in (0, 1))
    assert (one.squared_error[1:] != other.squared_error[1:]).all()


def test_the_network_is_told_each_images_class():
    """Flat images of three grey levels, told apart at level 1 (noise of 0.03) by eye."""
    levels, read = np.array([40, 128, 216]), []
    labels = np.arange(20) % 3
    images = np.broadcast_to(levels[labels].astype(np.uint8).reshape(-1, 1, 1, 1), (20, 1, 2, 4)).copy()
    plain = Network(SHORT)

    def network(x, time, labels=None):
        assert labels.shape == time.shape == x.shape[:1]
        clean = time == 0
        seen = (x[clean].mean((1, 2, 3)) + 1) * 127.5
        read.extend(zip(np.abs(seen.numpy()[:, None] - levels).argmin(1), labels[clean].tolist(), strict=True))
        return plain(x, time, labels)

    measure(scoring_of(SHORT, images, denoiser={"network": network}, labels=labels, batch_size=50), 2)
    assert len(read) == COMMON * 2
    assert all(by_eye == told for by_eye, told in read)
    assert len({told for _, told in read}) == 3


@pytest.mark.parametrize("variance", ["large", "small", "range", "learned"])
def test_models_of_every_variance_can_be_measured(variance: str):
    """The variance a network has of its own plays no part in its errors."""
    plain = Network(SHORT)

    def network(x, time, labels=None):
        said = plain(x, time, labels)
        return torch.cat([said, torch.full_like(said, -0.5)], 1) if variance in ("range", "learned") else said

    scoring = scoring_of(SHORT, pixels(20), denoiser={"network": network, "variance": variance})
    assert_close(measure(scoring, 2), measure(scoring_of(SHORT, pixels(20)), 2), 1e-12)


def test_the_measured_variances_cost_what_the_table_says():
    """The decoder at level 1, by the bound's own term on other noise: 4,000 draws of 8 pixels, 5 standard errors."""
    found = measured()
    tuned = scoring_of(SHORT, pixels(200), denoiser={"variance": "optimal", "measured": found})
    x0 = images_to_x(torch.from_numpy(pixels(200)), torch.float64).repeat(20, 1, 1, 1)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    term = step_term(tuned.denoiser, x0, torch.ones(len(x0), dtype=torch.int64), noise=noise, chain=SHORT)
    assert float(term.nats.mean()) / 8 == pytest.approx(
        found.decoder_nats[1], abs=5 * (0.5 / 4096 + 0.5 / 32000) ** 0.5
    )
