"""The bound written a second time, pixel by pixel in plain Python from the paper's formulas, against ours.

The oracle has its own betas, posterior, divergence, decoder and reading of the network; it shares with ours only the
network, a U-Net in float64 with weights at random. All 60 levels, every prediction, every variance, clip on and off.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.diffusion.bound import prior_nats, step_term
from ddpm.diffusion.denoiser import LEARNED, REVERSE_VARIANCES, Denoiser
from ddpm.diffusion.optimal_variance import Measured
from ddpm.diffusion.process import PREDICTIONS, Process
from ddpm.diffusion.schedule import make_schedule
from ddpm.networks.unet import UNet

T, CHANNELS, HEIGHT, WIDTH = 60, 2, 2, 3
THRESHOLD = {False: "none", True: "static"}
SHAPE = (2, CHANNELS, HEIGHT, WIDTH)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, SHAPE)
IMAGES[0, 0, 0, :2] = 0, 255
NOISE = RNG.standard_normal((T, *SHAPE))
ERRORS = [0.0, *(1e-4 + 0.4 * (t / T) ** 2 for t in range(1, T + 1))]
FITTED = -8.8

FIRST_BETA, LAST_BETA = 1e-4, 0.3  # so that the last level keeps as little signal as the paper's: alpha_bar = 4e-5
BETA = [0.0, *(FIRST_BETA + (LAST_BETA - FIRST_BETA) * k / (T - 1) for k in range(T))]
ALPHA_BAR = [1.0]
for _beta in BETA[1:]:
    ALPHA_BAR.append(ALPHA_BAR[-1] * (1 - _beta))

SCHEDULE = make_schedule(steps=T, beta_start=FIRST_BETA, beta_end=LAST_BETA)

Pixel = tuple[int, float, float, float]
"""Its grey level, x_t, and what the network says of it: prediction and spread."""


# ---- the oracle -----------------------------------------------------------------------------------------------------


def log_tail(z: float) -> float:
    """ln P(N(0, 1) > z): erfc, or beyond its range its asymptotic series, of relative error 1e-13 at z = 20."""
    if z < 20:
        return math.log(0.5 * math.erfc(z / math.sqrt(2)))
    series, term = 1.0, 1.0
    for k in range(1, 12):
        term *= -(2 * k - 1) / z**2
        series += term
    return -z * z / 2 - math.log(z * math.sqrt(2 * math.pi)) + math.log(series)


def decoder(level: int, mean: float, sigma: float) -> float:
    """-ln p(level), eq. 13."""
    x = 2 * level / 255 - 1
    low, high = (x - 1 / 255 - mean) / sigma, (x + 1 / 255 - mean) / sigma
    if level == 0:
        return -log_tail(-high)
    if level == 255:
        return -log_tail(low)
    if low + high < 0:
        low, high = -high, -low
    near, far = log_tail(low), log_tail(high)
    return -(near + math.log1p(-math.exp(far - near)))


def divergence(m1: float, v1: float, m2: float, v2: float) -> float:
    return 0.5 * (math.log(v2 / v1) + (v1 + (m1 - m2) ** 2) / v2 - 1)


@dataclass(frozen=True)
class Level:
    """What the paper says of one t, in numbers."""

    t: int

    @property
    def posterior_variance(self) -> float:
        """Of q(x_{t-1} | x_t, x_0), by adding precisions; only for t > 1."""
        return 1 / (1 / (1 - ALPHA_BAR[self.t - 1]) + (1 - BETA[self.t]) / BETA[self.t])

    def posterior_mean(self, x0: float, xt: float) -> float:
        if self.t == 1:
            return x0
        back = math.sqrt(ALPHA_BAR[self.t - 1]) / (1 - ALPHA_BAR[self.t - 1]) * x0
        return self.posterior_variance * (back + math.sqrt(1 - BETA[self.t]) / BETA[self.t] * xt)

    def x0(self, prediction: str, said: float, xt: float, clip: bool) -> float:
        a = ALPHA_BAR[self.t]
        if prediction == "eps":
            x0 = xt / math.sqrt(a) - math.sqrt(1 / a - 1) * said
        elif prediction == "x0":
            x0 = said
        elif prediction == "v":
            x0 = math.sqrt(a) * xt - math.sqrt(1 - a) * said
        else:  # the posterior mean is linear in x0
            at_zero, at_one = self.posterior_mean(0.0, xt), self.posterior_mean(1.0, xt)
            x0 = (said - at_zero) / (at_one - at_zero)
        return min(max(x0, -1.0), 1.0) if clip else x0

    def variance(self, kind: str, spread: float) -> float:
        """Of p(x_{t-1} | x_t)."""
        small = Level(max(self.t, 2)).posterior_variance
        if kind == "small" or (kind == "large" and self.t == 1):
            return small
        if kind == "large":
            return BETA[self.t]
        if kind == "learned":
            return math.exp(spread)
        if kind == "range":
            share = (spread + 1) / 2
            return math.exp(share * math.log(BETA[self.t]) + (1 - share) * math.log(small))
        if self.t == 1:
            return math.exp(FITTED)
        weight = small * math.sqrt(ALPHA_BAR[self.t - 1]) / (1 - ALPHA_BAR[self.t - 1])
        return small + weight**2 * ERRORS[self.t]

    def term(self, prediction: str, kind: str, clip: bool, pixel: Pixel) -> tuple[float, float]:
        """(nats, squared error of x0) of one pixel."""
        level, xt, said, spread = pixel
        true = 2 * level / 255 - 1
        x0 = self.x0(prediction, said, xt, clip)
        mean = said if prediction == "mean" else self.posterior_mean(x0, xt)
        variance = self.variance(kind, spread)
        if self.t == 1:
            return decoder(level, mean, math.sqrt(variance)), (x0 - true) ** 2
        nats = divergence(self.posterior_mean(true, xt), self.posterior_variance, mean, variance)
        return nats, (x0 - true) ** 2


# ---- the network both share -----------------------------------------------------------------------------------------


@functools.cache
def unet() -> UNet:
    """Four output channels: the second half speaks of the variance. Its last layer, nearly zero at first, speaks up."""
    network = UNet(CHANNELS, 2 * CHANNELS, channels=8, multipliers=(1,), blocks=1, attention_levels=(), groups=4)
    network = network.double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


@functools.cache
@torch.no_grad()
def all_pixels() -> list[list[list[Pixel]]]:
    """By level from 1, and by image."""
    noised = np.empty((T, *SHAPE))
    for t in range(1, T + 1):
        for index in np.ndindex(*SHAPE):
            x = 2 * IMAGES[index] / 255 - 1
            noised[t - 1][index] = math.sqrt(ALPHA_BAR[t]) * x + math.sqrt(1 - ALPHA_BAR[t]) * NOISE[t - 1][index]
    times = torch.arange(T).repeat_interleave(2)
    said = unet()(torch.from_numpy(noised.reshape(-1, *SHAPE[1:])), times).numpy().reshape(T, 2, 2 * CHANNELS, -1)
    assert said[:, :, :CHANNELS].std() > 0.1
    assert said[:, :, CHANNELS:].std() > 0.1
    halves = said[:, :, :CHANNELS].reshape(T, 2, -1), said[:, :, CHANNELS:].reshape(T, 2, -1)
    rows = zip(noised.reshape(T, 2, -1), *halves, strict=True)
    levels = IMAGES.reshape(2, -1).tolist()
    return [[list(zip(levels[k], *(part[k].tolist() for part in row), strict=True)) for k in range(2)] for row in rows]


class Heard:
    """The network, called once for all 120 noised images; later calls with the same inputs repeat its output."""

    def __init__(self) -> None:
        self.asked: tuple[Tensor, Tensor] | None = None
        self.said = torch.empty(0)

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.asked is None or not all(map(torch.equal, self.asked, (x, time))):
            self.asked, self.said = (x, time), unet()(x, time)
        return self.said


HEARD = Heard()


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", REVERSE_VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@torch.no_grad()
def test_every_term_at_every_level_is_the_oracles(prediction: str, variance: str, clip: bool):
    """Relative 1e-9: at the last level a prediction of noise is multiplied by 157."""
    chain = SCHEDULE
    table = np.full(T + 1, math.nan)
    table[1] = FITTED
    measured = Measured(
        squared_error=np.array(ERRORS), decoder_log_variance=table, decoder_nats=table, second_moment=0.25
    )
    denoiser = Denoiser(HEARD, Process(chain), prediction, variance, THRESHOLD[clip], torch.float64, measured)
    x0 = torch.from_numpy(IMAGES / 127.5 - 1).repeat(T, 1, 1, 1)
    noise = torch.from_numpy(NOISE.reshape(-1, *SHAPE[1:]))
    found = step_term(denoiser, x0, torch.arange(1, T + 1).repeat_interleave(2), noise=noise, chain=chain)
    expected = np.empty((T, 2, 2))
    for t in range(1, T + 1):
        level = Level(t)
        for k in range(2):
            terms = [level.term(prediction, variance, clip, pixel) for pixel in all_pixels()[t - 1][k]]
            expected[t - 1, k] = math.fsum(n for n, _ in terms), math.fsum(e for _, e in terms) / len(terms)
    np.testing.assert_allclose(found.nats.numpy().reshape(T, 2), expected[..., 0], rtol=1e-9)
    np.testing.assert_allclose(found.squared_error.numpy().reshape(T, 2), expected[..., 1], rtol=1e-9)


def test_the_oracle_covers_what_is_learned_and_what_is_clipped():
    """Otherwise the comparison above would say less than it seems to."""
    assert set(LEARNED) < set(REVERSE_VARIANCES)
    pixels = [(t, pixel) for t in (1, 30, 60) for image in all_pixels()[t - 1] for pixel in image]
    for prediction in ("eps", "x0", "v"):
        assert any(abs(Level(t).x0(prediction, said, xt, False)) > 1 for t, (_, xt, said, _) in pixels)
    assert any(abs(spread) > 0.1 for _, (_, _, _, spread) in pixels)


def test_the_prior_is_the_oracles():
    found = prior_nats(torch.from_numpy(IMAGES / 127.5 - 1), SCHEDULE)
    a = ALPHA_BAR[T]
    for k in range(2):
        expected = [divergence(math.sqrt(a) * (2 * v / 255 - 1), 1 - a, 0, 1) for v in IMAGES[k].ravel().tolist()]
        assert found[k].item() == pytest.approx(math.fsum(expected), rel=1e-9, abs=0)
