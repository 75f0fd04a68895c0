"""The ancestral sampler against networks whose chains can be solved: the oracle, silence, the optimal linear network.

(What every sampler must do is tested in test_gaussian and test_solvers.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.process import PREDICTIONS, Process
from ddpm.diffusion.schedule import VARIANCES, Schedule, make_schedule
from ddpm.samplers.ancestral import ancestral
from ddpm.samplers.base import State
from ddpm.samplers.plan import SAMPLERS
from ddpm.samplers.spacing import spaced

T = 1000
SCHEDULE = make_schedule()
ALPHA_BAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, T))])

EVERY_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS)
EVERY_VARIANCE = pytest.mark.parametrize("variance", VARIANCES)
CHAINS = {"all": SCHEDULE, "50": spaced(SCHEDULE, "uniform", 50)}

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def build(network: Network, **options) -> Denoiser:
    return Denoiser(network, Process(SCHEDULE), dtype=torch.float64, **options)


def entry(table: np.ndarray, time: Tensor) -> Tensor:
    """The table at the level that a network's time (from 0) stands for."""
    return torch.from_numpy(table[time.numpy() + 1]).reshape(-1, 1, 1, 1)


def oracle(x0: Tensor, prediction: str) -> Network:
    """The network that knows the image: it says whatever means x0 (eqs. 4, 7)."""
    before = np.concatenate([[1.0], ALPHA_BAR[:-1]])

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        a, b = entry(ALPHA_BAR, time), entry(before, time)
        eps = (x - a.sqrt() * x0) / (1 - a).sqrt()
        mean = (b.sqrt() * (1 - a / b) * x0 + (a / b).sqrt() * (1 - b) * x) / (1 - a)
        return {"eps": eps, "x0": x0.expand_as(x), "v": a.sqrt() * eps - (1 - a).sqrt() * x0, "mean": mean}[prediction]

    return network


def optimal(variance: float) -> Network:
    """The best eps-network for data N(0, variance): E[eps | x_t] = sqrt(1 - A) x / (A variance + 1 - A)."""

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        a = entry(ALPHA_BAR, time)
        return (1 - a).sqrt() * x / (a * variance + 1 - a)

    return network


def silent(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
    return torch.zeros_like(x)


def seeded(seed: int, shape: tuple[int, ...]) -> Callable[[int], Tensor]:
    return lambda level: torch.from_numpy(np.random.default_rng([seed, level]).standard_normal(shape))


def states(sampler: str, denoiser: Denoiser, chain: Schedule, seed: int, shape=(3, 2, 2, 5)) -> list[State]:
    noise = seeded(seed, shape)
    return list(SAMPLERS[sampler](denoiser, noise(int(chain.levels[-1])), chain=chain, noise=noise))


@pytest.mark.parametrize(("prediction", "variance"), list(zip(PREDICTIONS, (*VARIANCES, *VARIANCES), strict=True)))
def test_a_network_that_knows_the_image_ends_all_thousand_levels_exactly_there(prediction: str, variance: str):
    """Whatever the noise: three images, each with its own. Other chains and samplers: test_gaussian."""
    x0 = torch.from_numpy(np.random.default_rng(5).uniform(-1, 1, (3, 2, 2, 5)))
    denoiser = build(oracle(x0, prediction), prediction=prediction, variance=variance)
    last = states("ancestral", denoiser, SCHEDULE, seed=0)[-1]
    assert last.level == 0
    assert (last.x - x0).abs().max() < 1e-11


@EVERY_SAMPLER
def test_the_same_noise_gives_the_same_states_bit_for_bit_and_other_noise_others(sampler):
    denoiser, chain = build(optimal(0.25), threshold="none"), CHAINS["50"]
    first, again, other = (states(sampler, denoiser, chain, seed)[-1].x for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert (first - other).abs().min() > 0


# ---- the ancestral sampler ------------------------------------------------------------------------------------------


def test_a_silent_network_without_noise_and_clipping_undoes_the_shrinking():
    """Each step divides by sqrt(1 - beta), together by sqrt(A_T): 157.41045725150062."""
    start = torch.tensor([1.0, -0.3], dtype=torch.float64).reshape(2, 1, 1, 1)
    quiet = build(silent, threshold="none")
    walk = ancestral(quiet, start, chain=SCHEDULE, noise=lambda level: torch.zeros_like(start))
    last = [state.x for state in walk][-1]
    assert (last / start).flatten().tolist() == pytest.approx([157.41045725150062] * 2, rel=1e-9)


@EVERY_VARIANCE
@pytest.mark.parametrize("chain", ["all", "50"])
def test_the_noise_of_a_step_has_the_standard_deviation_of_the_chain(variance, chain):
    """x = mean + sigma z, sigma^2 being beta or the posterior variance; the last step, from level 1, adds nothing."""
    chain, zero, one = CHAINS[chain], torch.zeros(1, 1, 1, 1).double(), torch.ones(1, 1, 1, 1).double()
    levels = chain.levels.tolist()
    for step in range(1, chain.steps + 1, 7 if chain.steps > 50 else 1):
        s, t = levels[step - 1], levels[step]
        one_step = Schedule(ALPHA_BAR[[0, s, t]] if s else ALPHA_BAR[[0, t]], np.array([0, s, t] if s else [0, t]))
        noise = {level: one if level == s else zero for level in (0, s)}
        state = next(ancestral(build(silent, variance=variance), zero, chain=one_step, noise=noise.__getitem__))
        beta = 1 - ALPHA_BAR[t] / ALPHA_BAR[s]
        expected = beta if variance == "large" else beta * (1 - ALPHA_BAR[s]) / (1 - ALPHA_BAR[t])
        assert state.x.item() == pytest.approx(math.sqrt(expected) if s else 0.0, rel=1e-9)


EXACT = [
    (1.0, "large", 0.999899999999999),
    (1.0, "small", 0.9910673763528224),
    (0.25, "large", 0.2507520750075313),
    (0.25, "small", 0.24612521136044788),
    (0.01, "large", 0.01015373821159755),
    (0.01, "small", 0.009275856377615342),
]


def output_variance(variance_of_data: float, chain: Schedule, **options) -> float:
    """The variance of the last state when x_T and all noise are N(0, 1) and the network is the optimal linear one.

    The chain is linear in its sources of randomness, so one run of it over a batch of unit impulses, each in another
    source, reads off all coefficients: the variance is the sum of their squares. No random number is drawn.
    """
    sources = {level: k for k, level in enumerate(chain.levels.tolist()[:0:-1])}

    def impulse(level: int) -> Tensor:
        x = torch.zeros(len(sources), 1, 1, 1, dtype=torch.float64)
        x[sources[level]] = 1
        return x

    walk = ancestral(
        build(optimal(variance_of_data), threshold="none", **options), impulse(T), chain=chain, noise=impulse
    )
    return float(([state.x for state in walk][-1] ** 2).sum())


@pytest.mark.parametrize(("data", "variance", "expected"), EXACT)
def test_variance_of_samples_of_gaussian_data_is_the_exact_one(data: float, variance: str, expected: float):
    assert {kind for _, kind, _ in EXACT} == set(VARIANCES)
    assert output_variance(data, SCHEDULE, variance=variance) == pytest.approx(expected, rel=1e-9)
