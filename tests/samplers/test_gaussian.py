"""Samplers on data of one Gaussian, N(0, variance), and on one known image: everything is linear, nothing is random.

The variance of a sampler's images is read off by impulses, one in each source of randomness, and held against the
recursion that the published update gives by hand; then against the data's, which it must reach as the steps shrink.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.diffusion.denoiser import OPTIMAL, THRESHOLDS, Denoiser
from ddpm.diffusion.optimal_variance import Measured
from ddpm.diffusion.process import PREDICTIONS, Process
from ddpm.diffusion.schedule import VARIANCES, Schedule, make_schedule
from ddpm.samplers.dpm import weighted_centre
from ddpm.samplers.plan import ETA, SAMPLERS

T = 1000
SCHEDULE = make_schedule()
ALPHA_BAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, T))])
LOG_SNR = np.log(ALPHA_BAR[1:] / (1 - ALPHA_BAR[1:]))

CHAINS = {
    "100": SCHEDULE.subset(range(10, T + 1, 10)),
    "50": SCHEDULE.subset(np.rint(np.linspace(1, T, 50)).astype(int).tolist()),
    "without level 1": SCHEDULE.subset([40, 41, 333, 1000]),
    "2": SCHEDULE.subset([500, T]),
    "1": SCHEDULE.subset([T]),
    "real": SCHEDULE.at([2.5, 17.1, 200, 433.3, 434, 999.9]),
}
STOCHASTIC = ("ancestral", "dpm++sde")  # unless they are asked not to be; DDIM is if it is asked to be
EVERY_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS)
EVERY_CHAIN = pytest.mark.parametrize("chain", CHAINS)


def alpha_bar(level: float) -> float:
    """At a real level; the log-SNR is linear between whole ones. 1 at level 0."""
    return float(1 / (1 + np.exp(-np.interp(level, np.arange(1, T + 1), LOG_SNR)))) if level else 1.0


def even(steps: int) -> Schedule:
    """Levels from T to 1 whose steps in the log-SNR are equal."""
    between = np.interp(np.linspace(LOG_SNR[-1], LOG_SNR[0], steps)[1:-1], LOG_SNR[::-1], np.arange(T, 0, -1))
    return SCHEDULE.at([1, *between.tolist(), T])


def build(network: Callable[..., Tensor], **options) -> Denoiser:
    return Denoiser(network, Process(SCHEDULE), dtype=torch.float64, **options)


def optimal(data: float) -> Callable[..., Tensor]:
    """The best eps-network: E[eps | x_t] = sqrt(1 - A) x / (A data + 1 - A)."""

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        a = alpha_bar(float(time[0]) + 1)
        return math.sqrt(1 - a) * x / (a * data + 1 - a)

    return network


def measured(data: float) -> Measured:
    """What its x0 is wrong by at each level: the variance of x0 given x_t."""
    error = data * (1 - ALPHA_BAR) / (ALPHA_BAR * data + 1 - ALPHA_BAR)
    return Measured(error, np.full(T + 1, np.nan), np.full(T + 1, np.nan), data)


def silence(level: float) -> Tensor:
    raise AssertionError("this sampler was not to ask for noise")


def seeded(seed: int, shape: tuple[int, ...]) -> Callable[[float], Tensor]:
    return lambda level: torch.from_numpy(np.random.default_rng([seed, int(1e6 * level)]).standard_normal(shape))


# ---- the recursion of each way to draw ------------------------------------------------------------------------------


def known(data: float, a: float) -> float:
    """E[x0 | x] = known * x."""
    return math.sqrt(a) * data / (a * data + 1 - a)


def ancestral_by_hand(variance: str, data: float, levels: list[float]) -> float:
    """Ho et al. 2020, eq. 7 and sec. 3.2: x_s = c0 x0 + c1 x_t + sigma z; "optimal" adds c0^2 Var(x0 | x_t)."""
    v = 1.0
    for t, s in zip(levels, [*levels[1:], 0], strict=True):
        a, b = alpha_bar(t), alpha_bar(s)
        beta = 1 - a / b
        c0, c1 = math.sqrt(b) * beta / (1 - a), math.sqrt(1 - beta) * (1 - b) / (1 - a)
        small = beta * (1 - b) / (1 - a)
        error = data * (1 - a) / (a * data + 1 - a)
        added = {"large": beta, "small": small, "optimal": small + c0**2 * error}[variance]
        v = (c0 * known(data, a) + c1) ** 2 * v + (added if s else 0.0)
    return v


def ddim_by_hand(eta: float, data: float, levels: list[float]) -> float:
    """Song et al. 2021, eqs. 12 and 16: x_s = sqrt(B) x0 + sqrt(1 - B - sigma^2) eps + sigma z."""
    v = 1.0
    for t, s in zip(levels, [*levels[1:], 0], strict=True):
        a, b = alpha_bar(t), alpha_bar(s)
        sigma = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
        eps = (1 - math.sqrt(a) * known(data, a)) / math.sqrt(1 - a)
        v = (math.sqrt(b) * known(data, a) + math.sqrt(1 - b - sigma**2) * eps) ** 2 * v + sigma**2
    return v


def dpm_sde_by_hand(eta: float, data: float, levels: list[float]) -> float:
    """SDE-DPM-Solver++(2M) as a recursion of the covariance of (x, the x0 before): with g = (1 + eta) h and

    x_s = (sigma_s / sigma_t) e^(-eta h) x_t + alpha_s (1 - e^-g) (x0 + k (x0 - before)) + sigma z, with
    k = c(g) h / h_before,

    sigma^2 = sigma_s^2 (1 - e^(-2 eta h)), and c(g) = 1 / (1 - e^-g) - 1 / g where a line weighted by e^(g u) has its
    mean; eta = 1 is Lu et al. 2022b, other eta as in k-diffusion (Crowson 2022).
    """
    covariance, h_before = np.diag([1.0, 0.0]), math.inf
    for t, s in pairwise(levels):
        a, b = alpha_bar(t), alpha_bar(s)
        h = math.log(b / (1 - b)) / 2 - math.log(a / (1 - a)) / 2
        weight = math.sqrt(b) * (1 - math.exp(-(1 + eta) * h))
        g = (1 + eta) * h
        share = (1 / (1 - math.exp(-g)) - 1 / g) * h / h_before
        keep = math.sqrt((1 - b) / (1 - a)) * math.exp(-eta * h) + weight * (1 + share) * known(data, a)
        step = np.array([[keep, -weight * share], [known(data, a), 0.0]])
        covariance = step @ covariance @ step.T
        covariance[0, 0] += (1 - b) * (1 - math.exp(-2 * eta * h))
        h_before = h
    return float(known(data, alpha_bar(levels[-1])) ** 2 * covariance[0, 0])


@dataclass(frozen=True)
class Way:
    """One way to draw: what it is asked for, its recursion, and the order of its error of the variance in the steps.

    An order of 0 means that there is no error, whatever the steps.
    """

    sampler: str
    by_hand: Callable[[float, list[float]], float]
    order: int
    variance: str = "large"
    options: dict[str, float] = field(default_factory=dict)


WAYS = {
    "ancestral, large": Way("ancestral", partial(ancestral_by_hand, "large"), 1, variance="large"),
    "ancestral, small": Way("ancestral", partial(ancestral_by_hand, "small"), 1, variance="small"),
    "ancestral, optimal": Way("ancestral", partial(ancestral_by_hand, "optimal"), 0, variance="optimal"),
    "ddim, 0": Way("ddim", partial(ddim_by_hand, 0.0), 1, options={"eta": 0.0}),
    "ddim, 0.3": Way("ddim", partial(ddim_by_hand, 0.3), 1, options={"eta": 0.3}),
    "ddim, 1": Way("ddim", partial(ddim_by_hand, 1.0), 1, options={"eta": 1.0}),
    "dpm++sde, 0": Way("dpm++sde", partial(dpm_sde_by_hand, 0.0), 2, options={"eta": 0.0}),
    "dpm++sde, 0.4": Way("dpm++sde", partial(dpm_sde_by_hand, 0.4), 2, options={"eta": 0.4}),
    "dpm++sde, 1": Way("dpm++sde", partial(dpm_sde_by_hand, 1.0), 2, options={"eta": 1.0}),
    "dpm++sde, 2": Way("dpm++sde", partial(dpm_sde_by_hand, 2.0), 2, options={"eta": 2.0}),
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS)


def output_variance(way: str, data: float, chain: Schedule, start: float = 1.0) -> float:
    """The variance of the last state when x_T is N(0, start), all noise N(0, 1) and the network the optimal one.

    The state is linear in its sources of randomness, so one run over a batch of impulses, each in another source,
    reads off all coefficients: the variance is the sum of their squares. Level 0 is no source.
    """
    sources = {level: k for k, level in enumerate(chain.levels.tolist()[:0:-1])}

    def impulse(level: float) -> Tensor:
        x = torch.zeros(len(sources), 1, 1, 1, dtype=torch.float64)
        x[sources[level]] = 1
        return x

    options = {"threshold": "none", "measured": measured(data), "variance": WAYS[way].variance}
    first = math.sqrt(start) * impulse(chain.levels[-1].item())
    walk = SAMPLERS[WAYS[way].sampler](
        build(optimal(data), **options), first, chain=chain, noise=impulse, **WAYS[way].options
    )
    *_, last = walk
    return float((last.x**2).sum())


@EVERY_SAMPLER
def test_a_sampler_draws_noise_for_every_arrival_but_the_last_or_none(sampler: str):
    asked: list[float] = []

    def noise(level: float) -> Tensor:
        asked.append(level)
        return torch.zeros(1, 1, 1, 1, dtype=torch.float64)

    start = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    list(SAMPLERS[sampler](build(optimal(1.0)), start, chain=CHAINS["without level 1"], noise=noise))
    assert asked == ([333, 41, 40] if sampler in STOCHASTIC else [])


def test_every_sampler_that_draws_noise_has_its_recursion_here():
    """With every variance, and with both ends of every range of eta."""
    assert {way.sampler for way in WAYS.values()} == {*STOCHASTIC, *ETA}
    assert {way.variance for way in WAYS.values() if way.sampler == "ancestral"} == {*VARIANCES, OPTIMAL}
    for sampler, ends in ETA.items():
        assert {way.options.get("eta") for way in WAYS.values() if way.sampler == sampler} > {*ends}, sampler


@EVERY_WAY
@pytest.mark.parametrize("data", [0.25, 1.0])
@EVERY_CHAIN
def test_variance_of_images_follows_the_published_update(way: str, data: float, chain: str):
    """1e-9: at the lowest levels 1 - A is known to 1e-12 only, and it divides."""
    chain = CHAINS[chain]
    if WAYS[way].variance == OPTIMAL:  # measured at whole levels
        chain = SCHEDULE.subset(np.rint(chain.levels).astype(int).tolist())
    by_hand = WAYS[way].by_hand(data, chain.levels.tolist()[:0:-1])
    assert output_variance(way, data, chain) == pytest.approx(by_hand, rel=1e-9)


DDIM = [
    (0.25, 1000, 0.2484975471693302),
    (0.25, 100, 0.2361771118128707),
    (0.25, 10, 0.13997212986631818),
    (1.0, 1000, 0.9962521062682083),
    (1.0, 100, 0.9640310613449397),
    (1.0, 10, 0.6917180315333207),
]


@pytest.mark.parametrize(("data", "steps", "expected"), DDIM)
def test_variance_of_ddim_is_the_exact_one(data: float, steps: int, expected: float):
    """Levels 1, 1 + T / steps, ...: numbers that another program gave."""
    chain = SCHEDULE.subset(range(1, T + 1, T // steps))
    assert output_variance("ddim, 0", data, chain) == pytest.approx(expected, rel=1e-9)


# ---- towards the data's variance ------------------------------------------------------------------------------------


def of_the_last(data: float, level: float) -> float:
    """The variance of E[x0 | x] at the chain's first level, when x is as it should be: known^2 (A data + 1 - A).

    At level 1 that is the data's but for 1e-4 / data of it.
    """
    a = alpha_bar(level)
    return (a * data + 1 - a) * known(data, a) ** 2


def of_the_first(data: float) -> float:
    return float(ALPHA_BAR[T] * data + 1 - ALPHA_BAR[T])


@pytest.mark.parametrize("way", [name for name, way in WAYS.items() if way.order])
@pytest.mark.parametrize("data", [0.25, 2.0])
def test_variance_of_images_tends_to_the_datas(way: str, data: float):
    """From N = 200 to 400 steps, even in the log-SNR, the error falls as 1 / N, for the multistep SDE as 1 / N^2. The
    slope is within 0.15: a next order of the error that is a tenth of it at 200 steps bends it by so much."""
    found = [output_variance(way, data, even(steps), of_the_first(data)) for steps in (200, 400)]
    before, after = np.abs(np.array(found) - of_the_last(data, 1)).tolist()
    assert after < 0.05 * data
    assert math.log2(before / after) == pytest.approx(WAYS[way].order, abs=0.15)


@pytest.mark.parametrize("way", [name for name, way in WAYS.items() if not way.order])
@pytest.mark.parametrize("data", [0.25, 2.0])
@pytest.mark.parametrize("chain", ["50", "without level 1", "1"])
def test_optimal_variances_leave_no_error_in_the_variance_of_images(way: str, data: float, chain: str):
    """For a Gaussian the reverse steps are Gaussians, and the optimal ones are the true ones, however long the step."""
    expected = of_the_last(data, CHAINS[chain].levels[1])
    assert output_variance(way, data, CHAINS[chain], of_the_first(data)) == pytest.approx(expected, rel=1e-9)


# ---- one known image ----------------------------------------------------------------------------------------------

IMAGE = torch.from_numpy(np.random.default_rng(5).uniform(-1, 1, (3, 2, 2, 5)))


def oracle(prediction: str) -> Callable[..., Tensor]:
    """The network that knows the image: it says whatever means it (Ho et al. 2020, eqs. 4 and 7)."""

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        level = float(time[0]) + 1
        a, b = alpha_bar(level), alpha_bar(level - 1) if level == round(level) else math.nan
        eps = (x - math.sqrt(a) * IMAGE) / math.sqrt(1 - a)
        mean = (math.sqrt(b) * (1 - a / b) * IMAGE + math.sqrt(a / b) * (1 - b) * x) / (1 - a)
        v = math.sqrt(a) * eps - math.sqrt(1 - a) * IMAGE
        return {"eps": eps, "x0": IMAGE, "v": v, "mean": mean}[prediction]

    return network


# Every sampler, in each of its ways.
PATHS = [(way.sampler, way.variance, way.options) for way in WAYS.values()]
PATHS += [(sampler, "large", {}) for sampler in SAMPLERS if sampler not in {name for name, *_ in PATHS}]


@pytest.mark.parametrize(("sampler", "variance", "options"), PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_network_that_knows_the_image_ends_every_chain_exactly_there(sampler, variance, options, prediction):
    """Whatever the noise. The last step starts at level 1 (or 40, or T), where solving for x0 amplifies rounding by
    1.0001 (or 2, or 157): 1e-11 leaves room for a hundredfold."""
    denoiser = build(oracle(prediction), prediction=prediction, variance=variance, measured=measured(1.0))
    noise = seeded(0, IMAGE.shape)
    for name, chain in CHAINS.items():
        if prediction == "mean" and name == "real":
            continue
        *_, last = SAMPLERS[sampler](denoiser, noise(T), chain=chain, noise=noise, **options)
        assert last.level == 0
        assert (last.x - IMAGE).abs().max() < 1e-11, name


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in STOCHASTIC])
@EVERY_CHAIN
def test_solvers_of_the_ode_walk_straight_to_a_known_image(sampler: str, chain: str):
    """When x0 is the same from everywhere, x = sqrt(A) x0 + sqrt(1 - A) eps with the eps of the start solves the ODE,
    and every method is exact."""
    chain, start = CHAINS[chain], seeded(0, IMAGE.shape)(T)
    top = chain.alpha_bar[-1]
    eps = (start - math.sqrt(top) * IMAGE) / math.sqrt(1 - top)
    for state in SAMPLERS[sampler](build(oracle("eps")), start, chain=chain, noise=silence):
        a = alpha_bar(state.level)
        assert (state.x - math.sqrt(a) * IMAGE - math.sqrt(1 - a) * eps).abs().max() < 1e-11, state.level


# ---- with noise and without ------------------------------------------------------------------------------------------


def lively(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
    """The optimal network of N(0, 0.25), and something of its own that leads x0 beyond [-1, 1] everywhere."""
    return optimal(0.25)(x, time) + 0.2 * torch.sin(3 * x + time.reshape(-1, 1, 1, 1) / 100)


@EVERY_CHAIN
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_ddim_with_all_its_noise_is_the_ancestral_sampler_with_the_small_variance(chain: str, threshold: str):
    """State by state, 1e-12 of the largest."""
    shape = (4, 1, 3, 5)
    noise, denoiser = seeded(1, shape), build(lively, variance="small", threshold=threshold)
    chain = CHAINS[chain]
    first, other = (
        list(sampler(denoiser, noise(T), chain=chain, noise=noise))
        for sampler in (SAMPLERS["ancestral"], partial(SAMPLERS["ddim"], eta=1.0))
    )
    largest = max(state.x.abs().max() for state in first)
    for one, two in zip(first, other, strict=True):
        assert (one.level, one.start) == (two.level, two.start)
        assert (one.x - two.x).abs().max() < 1e-12 * largest
        assert (one.x0 - two.x0).abs().max() < 1e-12 * max(largest, one.x0.abs().max())


@pytest.mark.parametrize("sampler", ETA)
def test_without_eta_no_noise_is_asked_for_and_with_it_images_depend_on_its_strength(sampler: str):
    shape = (2, 1, 3, 5)

    def drawn(noise: Callable[[float], Tensor], eta: float) -> tuple[float, ...]:
        *_, last = SAMPLERS[sampler](build(lively), seeded(1, shape)(T), chain=CHAINS["50"], noise=noise, eta=eta)
        return tuple(last.x.flatten().tolist())

    assert len({drawn(silence, 0.0), drawn(seeded(2, shape), 0.3), drawn(seeded(2, shape), 1.0)}) == 3


@pytest.mark.parametrize("z", [1e-9, 0.9e-4, 1.1e-4, 0.1, 1.0, 8.0, 40.0])
def test_the_weighted_centre_is_the_mean_of_u_under_e_to_the_zu(z: float):
    """By Gauss-Legendre with 100 nodes. Below 1e-4 a series stands for a difference of numbers near 1 / z: 1e-11."""
    nodes, weights = np.polynomial.legendre.leggauss(100)
    u, weights = (nodes + 1) / 2, weights * np.exp(z * (nodes - 1) / 2)
    assert weighted_centre(z) == pytest.approx((weights @ u) / weights.sum(), rel=1e-11)
