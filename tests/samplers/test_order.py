"""The order of every deterministic sampler, as a slope against solutions of the probability-flow ODE that are known.

For data of one Gaussian the ODE is solved by a formula; for a mixture in two dimensions by the classical Runge-Kutta
method, whose error is far below any sampler's. A chain runs between two fixed levels, T and 20, over N steps that
shrink in the log-SNR; what is judged is the state that arrives at level 20, one step before the end (at level 0 the
log-SNR is infinite, and the last step is the same for all). Nothing here is taken from ddpm but the samplers, the
levels of their chains, and the translation of eps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.process import Process
from ddpm.diffusion.schedule import Schedule, make_schedule
from ddpm.samplers.plan import SAMPLERS

ORDERS = {"ddim": 1, "heun": 2, "dpm++": 2, "unipc": 3}
STOCHASTIC = {"ancestral", "dpm++sde"}

T, END = 1000, 20
SCHEDULE = make_schedule()
TABLE = np.cumprod(1 - np.linspace(1e-4, 0.02, T))  # alpha_bar at levels 1..T
LOG_SNR = np.log(TABLE / (1 - TABLE))

# Long steps that follow short ones show whether a multistep method knows the lengths of both. The longest step is about
# the same in both, 0.2 in the half log-SNR, where the next order of the error still bends the slope by up to a tenth.
STEPS = {"even": (40, 80, 160, 320), "alternating": (80, 160, 320, 640)}
SLACK = 0.15

EVERY_SOLVER = pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in STOCHASTIC])
EVERY_GRID = pytest.mark.parametrize("grid", STEPS)

Curve = Callable[[np.ndarray, float], np.ndarray]


def alpha_bar(level: float) -> float:
    """At a real level; the log-SNR is linear between whole ones."""
    return float(1 / (1 + np.exp(-np.interp(level, np.arange(1, T + 1), LOG_SNR))))


def chain(steps: int, grid: str) -> Schedule:
    """From T to END in steps that are equal in the log-SNR, or short and long in turn."""
    sizes = np.ones(steps) if grid == "even" else np.where(np.arange(steps) % 2, 1.4, 0.6)
    places = np.concatenate([[0.0], np.cumsum(sizes)[:-1] / sizes.sum()])
    log_snr = LOG_SNR[-1] + places * (LOG_SNR[END - 1] - LOG_SNR[-1])
    between = np.interp(log_snr[1:], LOG_SNR[::-1], np.arange(T, 0, -1))
    return SCHEDULE.at([END, *between.tolist(), T])


def arrivals(sampler: str, denoised: Curve, x: np.ndarray, grid: str) -> list[np.ndarray]:
    """Where the points x (B, D) at level T arrive at level END, for each number of steps.

    denoised  (points (B, D), alpha_bar) -> the mean of x0 given them
    """

    def network(xt: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        a = alpha_bar(float(time[0]) + 1)
        points = xt.reshape(len(xt), -1).numpy()
        return torch.from_numpy((points - math.sqrt(a) * denoised(points, a)) / math.sqrt(1 - a)).reshape(xt.shape)

    def noise(level: float) -> Tensor:
        raise AssertionError("a solver of the ODE asked for noise")

    denoiser = Denoiser(network, Process(SCHEDULE), threshold="none", dtype=torch.float64)
    start, found = torch.from_numpy(x).reshape(len(x), 1, 1, -1), []
    for steps in STEPS[grid]:
        *_, arrived, _ = SAMPLERS[sampler](denoiser, start, chain=chain(steps, grid), noise=noise)
        assert arrived.level == END
        found.append(arrived.x.reshape(x.shape).numpy())
    return found


def order(found: list[np.ndarray], exact: np.ndarray, grid: str) -> float:
    """The slope of the line of least squares through the logarithms of steps and errors (over all points)."""
    errors = [math.sqrt(((points - exact) ** 2).mean()) for points in found]
    return -float(np.polyfit(np.log(STEPS[grid]), np.log(errors), 1)[0])


def test_every_sampler_has_an_order_or_is_stochastic():
    assert {*ORDERS} | STOCHASTIC == {*SAMPLERS}
    assert not {*ORDERS} & STOCHASTIC


# ---- one Gaussian ---------------------------------------------------------------------------------------------------

MEAN = 0.3
VARIANCES = np.array([0.1, 0.25, 1.0, 4.0])  # near 0.05 two orders of an error cancel at 40 steps: no slope to see yet


@EVERY_SOLVER
@EVERY_GRID
def test_order_against_the_formula_for_gaussians(sampler: str, grid: str):
    """x_s = sqrt(A_s) m + sqrt(v_s / v_t) (x_t - sqrt(A_t) m), with v = A variance + 1 - A: the ODE keeps quantiles."""
    x = np.array([-2.0, 0.1, 0.7, 1.5])
    data, x = (axis.reshape(-1, 1) for axis in np.meshgrid(VARIANCES, x, indexing="ij"))

    def denoised(points: np.ndarray, a: float) -> np.ndarray:
        return MEAN + math.sqrt(a) * data / (a * data + 1 - a) * (points - math.sqrt(a) * MEAN)

    a, b = TABLE[-1], TABLE[END - 1]
    exact = math.sqrt(b) * MEAN + np.sqrt((b * data + 1 - b) / (a * data + 1 - a)) * (x - math.sqrt(a) * MEAN)
    found = arrivals(sampler, denoised, x, grid)
    for variance in VARIANCES:
        rows = data[:, 0] == variance
        slope = order([points[rows] for points in found], exact[rows], grid)
        assert slope == pytest.approx(ORDERS[sampler], abs=SLACK), variance


# ---- a mixture in two dimensions ------------------------------------------------------------------------------------

CENTRES = np.array([[-0.7, -0.2], [0.6, 0.5], [0.3, -0.8]])
WEIGHTS = np.array([0.5, 0.3, 0.2])
SPREADS = np.array([0.02, 0.05, 0.1])  # variances


def mixture(points: np.ndarray, a: float) -> np.ndarray:
    """The mean of x0 given points (B, 2): each component's, weighed by how likely the component is."""
    v = a * SPREADS + 1 - a
    away = points[:, None] - math.sqrt(a) * CENTRES
    log = np.log(WEIGHTS / v) - (away**2).sum(-1) / (2 * v)
    share = np.exp(log - log.max(1, keepdims=True))
    means = CENTRES + (math.sqrt(a) * SPREADS / v)[:, None] * away
    return ((share / share.sum(1, keepdims=True))[..., None] * means).sum(1)


def runge_kutta(denoised: Curve, x: np.ndarray, steps: int) -> np.ndarray:
    """The ODE from T to END: with l = ln(SNR) / 2 and y = x / sigma it is dy / dl = exp(l) E[x0 | x]."""
    start, end = LOG_SNR[-1] / 2, LOG_SNR[END - 1] / 2
    h = (end - start) / steps

    def slope(y: np.ndarray, half_log_snr: float) -> np.ndarray:
        a = 1 / (1 + math.exp(-2 * half_log_snr))
        return math.exp(half_log_snr) * denoised(math.sqrt(1 - a) * y, a)

    y = x / math.sqrt(1 - TABLE[-1])
    for here in start + h * np.arange(steps):
        k1 = slope(y, here)
        k2 = slope(y + h / 2 * k1, here + h / 2)
        k3 = slope(y + h / 2 * k2, here + h / 2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3, here + h))
    return y * math.sqrt(1 - TABLE[END - 1])


POINTS = np.random.default_rng(0).standard_normal((16, 2))


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    """What the ODE's end is to 1e-10: fifteen of every sixteen parts of the error go when steps halve, and the least
    error that is judged below is 3e-8."""
    coarse, fine = (runge_kutta(mixture, POINTS, steps) for steps in (1000, 2000))
    assert np.abs(coarse - fine).max() < 1e-9
    return fine


@EVERY_SOLVER
@EVERY_GRID
def test_order_against_runge_and_kutta_for_a_mixture(sampler: str, grid: str, reference: np.ndarray):
    assert order(arrivals(sampler, mixture, POINTS, grid), reference, grid) == pytest.approx(ORDERS[sampler], abs=SLACK)
