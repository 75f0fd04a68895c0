"""What every sampler of SAMPLERS must do, whatever its formula: calls, levels, chains, thresholds, dtypes; convergence.

Their formulas are judged in test_gaussian, test_order and test_against_diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.diffusion.denoiser import THRESHOLDS, Denoiser
from ddpm.diffusion.process import Process
from ddpm.diffusion.schedule import Schedule, make_schedule
from ddpm.samplers.base import State
from ddpm.samplers.plan import SAMPLERS, Sampling, Tuned, plan
from ddpm.samplers.spacing import SPACINGS

T = 1000
SCHEDULE = make_schedule()
ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, T))
LOG_SNR = np.log(ALPHA_BAR / (1 - ALPHA_BAR))
SHAPE = (3, 2, 4, 5)

CHAINS = {
    "1 level": SCHEDULE.subset([1000]),
    "1 real level": SCHEDULE.at([700.5]),
    "2 levels": SCHEDULE.subset([1, 1000]),
    "2 levels, not 1": SCHEDULE.subset([300, 1000]),
    "3 levels": SCHEDULE.subset([1, 600, 1000]),
    "3 neighbours": SCHEDULE.subset([1, 2, 3]),
    "real levels": SCHEDULE.at([1.25, 4.5, 13, 40.75, 98, 160.5, 333, 410.5, 481, 600.1, 777, 998.9]),
    "50 levels": SCHEDULE.subset(np.rint(np.linspace(1, T, 50)).astype(int).tolist()),
}
EVERY_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS)
EVERY_CHAIN = pytest.mark.parametrize("chain", CHAINS)


def smooth(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
    """Near the best network of N(0, 0.25), with something of its own that mixes pixels; labels shift it."""
    a = torch.from_numpy(1 / (1 + np.exp(-np.interp(time.numpy() + 1, np.arange(1, T + 1), LOG_SNR)))).to(x.dtype)
    a = a.reshape(-1, 1, 1, 1)
    shift = 0 if labels is None else labels.reshape(-1, 1, 1, 1).to(x.dtype)
    return (1 - a).sqrt() * x / (0.25 * a + 1 - a) + 0.2 * (1 - a).sqrt() * torch.sin(2 * x.roll(1, -1) + a + shift)


def seeded(dtype: torch.dtype = torch.float64) -> Callable[[float], Tensor]:
    return lambda level: torch.from_numpy(np.random.default_rng(int(1e6 * level)).standard_normal(SHAPE)).to(dtype)


def walk(
    sampler: str, chain: Schedule, network=smooth, *, labels: Tensor | None = None, noise=None, **options
) -> Iterator[State]:
    noise = noise or seeded()
    denoiser = Denoiser(network, Process(SCHEDULE), **{"dtype": torch.float64, "threshold": "none"} | options)
    return SAMPLERS[sampler](denoiser, noise(T), chain=chain, noise=noise, labels=labels)


# ---- calls, levels, ends --------------------------------------------------------------------------------------------


@EVERY_SAMPLER
@EVERY_CHAIN
def test_network_is_asked_once_a_level_and_by_heun_twice_but_at_the_ends(sampler: str, chain: str):
    asked: list[float] = []

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        assert len({*time.tolist()}) == 1, "one level for all images"
        asked.append(time[0].item())
        return smooth(x, time)

    chain = CHAINS[chain]
    list(walk(sampler, chain, network))
    assert {*asked} == {*(chain.levels[1:] - 1).tolist()}
    assert asked == sorted(asked, reverse=True)
    assert len(asked) == (2 * chain.steps - 1 if sampler == "heun" else chain.steps)


@EVERY_SAMPLER
@pytest.mark.parametrize("spacing", [*SPACINGS, None])
def test_a_plan_tells_how_many_calls_it_costs(sampler: str, spacing: str):
    """None are levels that were tuned, which every sampler takes."""
    for steps in (1, 2, 3, 20):
        asked: list[float] = []

        def network(x: Tensor, time: Tensor, labels: Tensor | None = None, asked: list[float] = asked) -> Tensor:
            asked.append(time[0].item())
            return smooth(x, time)

        chosen = plan(
            Sampling(sampler, steps, spacing), SCHEDULE, Tuned(tuple(np.linspace(1.5, 990.5, steps).tolist()))
        )
        denoiser, noise = Denoiser(network, Process(SCHEDULE), dtype=torch.float64), seeded()
        states = list(chosen.sampler(denoiser, noise(T), chain=chosen.chain, noise=noise))
        assert len(states) == steps
        assert len(asked) == chosen.calls


@EVERY_SAMPLER
@EVERY_CHAIN
def test_states_walk_the_chains_levels_down_and_the_last_is_the_last_prediction(sampler: str, chain: str):
    levels = CHAINS[chain].levels.tolist()
    states = list(walk(sampler, CHAINS[chain]))
    assert [(state.start, state.level) for state in states] == list(zip(levels[:0:-1], levels[-2::-1], strict=True))
    assert states[-1].level == 0
    assert torch.equal(states[-1].x, states[-1].x0)
    assert all(state.x.isfinite().all() and state.x0.isfinite().all() for state in states)


@EVERY_SAMPLER
def test_a_chain_of_one_level_is_one_prediction(sampler: str):
    """x0 = (x - sqrt(1 - A) eps) / sqrt(A), and no noise."""
    x, a = seeded()(T), ALPHA_BAR[-1]
    (state,) = walk(sampler, CHAINS["1 level"])
    eps = smooth(x, torch.full((3,), T - 1))
    assert (state.x - (x - np.sqrt(1 - a) * eps) / np.sqrt(a)).abs().max() < 1e-11  # rounding, times 157


@EVERY_SAMPLER
def test_chains_on_real_levels_join_those_on_whole_ones(sampler: str):
    """Levels that move by 1e-9 move the log-SNR by at most 1e-9, and states by no more than 1e-8, at fifty levels."""
    whole = CHAINS["50 levels"].levels[1:]
    moved = whole + np.where(np.arange(50) % 2, 1e-9, -1e-9) * (whole > 1) * (whole < T)
    first, other = (
        list(walk(sampler, SCHEDULE.at(levels.tolist()), noise=lambda level: seeded()(round(level))))
        for levels in (whole, moved)
    )
    assert [state.start for state in other] == moved[::-1].tolist()
    for one, two in zip(first, other, strict=True):
        assert (one.x - two.x).abs().max() < 1e-8


# ---- convergence ----------------------------------------------------------------------------------------------------

STEPS = (10, 20, 40, 80, 160)


@cache
def images(sampler: str) -> dict[int, Tensor]:
    """The images that a solver ends at from one start, by the number of levels from 1 to T, even in the log-SNR."""
    found = {}
    for steps in (*STEPS, 320, 640):
        between = np.interp(np.linspace(LOG_SNR[-1], LOG_SNR[0], steps)[1:-1], LOG_SNR[::-1], np.arange(T, 0, -1))
        *_, last = walk(sampler, SCHEDULE.at([1, *between.tolist(), T]))
        found[steps] = last.x
    return found


# What is not named here and draws noise all the same fails in test_gaussian.
DETERMINISTIC = [sampler for sampler in SAMPLERS if sampler not in ("ancestral", "dpm++sde")]


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_images_of_a_solver_converge(sampler: str):
    """To its own at 640 levels: twice the steps leave at most half of an error of order one; 1.5 for what is not yet
    settled at ten."""
    found = images(sampler)
    errors = [(found[steps] - found[640]).abs().max().item() for steps in STEPS]
    assert all(late < early / 1.5 for early, late in pairwise(errors)), errors


def test_all_solvers_converge_to_the_same_images():
    """What is left of an error that at least halves with twice the steps is at most the last change; half of it more
    for an order that has not quite settled."""
    for one, other in combinations(DETERMINISTIC, 2):
        left = sum((images(name)[640] - images(name)[320]).abs().max() for name in (one, other))
        assert (images(one)[640] - images(other)[640]).abs().max() <= 1.5 * left, (one, other)


# ---- thresholds -----------------------------------------------------------------------------------------------------


@EVERY_SAMPLER
@EVERY_CHAIN
@pytest.mark.parametrize("threshold", [threshold for threshold in THRESHOLDS if threshold != "none"])
def test_thresholds_keep_every_prediction_and_the_image_in_range(sampler: str, chain: str, threshold: str):
    """Even of a network that talks nonsense."""

    def nonsense(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        return 3 * torch.sin(50 * x)

    states = list(walk(sampler, CHAINS[chain], nonsense, threshold=threshold))
    assert all(state.x0.abs().max() <= 1 for state in states)
    assert states[-1].x.abs().max() <= 1
    assert any(state.x0.abs().max() > 1 for state in walk(sampler, CHAINS[chain], nonsense))


@EVERY_SAMPLER
def test_thresholds_are_silent_when_nothing_leaves_the_range(sampler: str):
    """Bit for bit."""
    found = [
        list(
            walk(
                sampler, CHAINS["50 levels"], lambda *of: torch.tanh(smooth(*of)), prediction="x0", threshold=threshold
            )
        )
        for threshold in THRESHOLDS
    ]
    for states in zip(*found, strict=True):
        assert all(torch.equal(state.x, states[0].x) and torch.equal(state.x0, states[0].x0) for state in states)


def predicted(x0: Tensor, threshold: str) -> Tensor:
    """What is made of a prediction x0 at level 500."""
    denoiser = Denoiser(lambda *_: x0, Process(SCHEDULE), "x0", threshold=threshold, dtype=torch.float64)
    return denoiser.x0(torch.zeros_like(x0), 500)


def test_dynamic_thresholding_of_an_example_by_hand():
    """Saharia et al. 2022, sec. 2.3: s is the 99.5th percentile of |x0|, image by image; if s > 1, clip to [-s, s] and
    divide by s. Of 400 pixels two may lie above: s is the third largest, and the second here, in case
    one interpolates."""
    far = torch.full((400,), 0.5, dtype=torch.float64)
    far[[3, 77, 150, 280, 399]] = torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0], dtype=torch.float64)
    far[200] = -8.0  # s = 2
    rare = torch.full((400,), -0.5, dtype=torch.float64)
    rare[[0, 9]] = torch.tensor([5.0, -1.5], dtype=torch.float64)  # s = 0.5, which is not above 1
    expected_far = torch.full((400,), 0.25, dtype=torch.float64)
    expected_far[[3, 77, 150, 280, 399]] = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    expected_far[200] = -1.0
    expected_rare = torch.full((400,), -0.5, dtype=torch.float64)
    expected_rare[[0, 9]] = torch.tensor([1.0, -1.0], dtype=torch.float64)
    found = predicted(torch.stack([far, rare]).reshape(2, 1, 20, 20), "dynamic").reshape(2, 400)
    assert torch.equal(found, torch.stack([expected_far, expected_rare]))


@pytest.mark.parametrize("pixels", [1, 3, 199, 200, 201, 784, 3072])
def test_dynamic_thresholding_leaves_as_many_pixels_alone_as_it_says(pixels: int):
    """s is the least of the |x0| that 99.5 % do not exceed; NumPy calls that quantile inverted_cdf."""
    x0 = 3 * np.random.default_rng(pixels).standard_normal((4, 1, 1, pixels))
    s = np.maximum(np.quantile(np.abs(x0), 0.995, axis=(1, 2, 3), keepdims=True, method="inverted_cdf"), 1)
    found = predicted(torch.from_numpy(x0), "dynamic").numpy()
    assert np.array_equal(found, np.clip(x0, -s, s) / s)


# ---- labels, graphs, dtypes -----------------------------------------------------------------------------------------


@EVERY_SAMPLER
def test_labels_reach_every_call_of_the_network(sampler: str):
    labels, seen = torch.tensor([2, 0, 1]), []

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        seen.append(labels)
        return smooth(x, time, labels)

    *_, last = walk(sampler, CHAINS["3 levels"], network, labels=labels)
    assert len(seen) >= 3
    assert all(torch.equal(each, labels) for each in seen)
    *_, without = walk(sampler, CHAINS["3 levels"])
    assert (last.x - without.x).abs().flatten(1).max(1).values.gt(0).tolist() == [True, False, True]


@EVERY_SAMPLER
def test_no_graph_is_built_and_gradients_stay_on_for_the_caller(sampler: str):
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    for state in walk(sampler, CHAINS["3 levels"], lambda x, time, labels: weight * smooth(x, time)):
        assert not state.x.requires_grad
        assert not state.x0.requires_grad
        assert torch.is_grad_enabled()


@EVERY_SAMPLER
def test_states_stay_what_they_were_when_the_chain_walks_on(sampler: str):
    start = seeded()(T)
    seen = [
        (state, state.x.clone(), state.x0.clone())
        for state in walk(sampler, CHAINS["50 levels"], noise=lambda _: start)
    ]
    assert torch.equal(start, seeded()(T))
    assert all(torch.equal(state.x, x) and torch.equal(state.x0, x0) for state, x, x0 in seen)


@EVERY_SAMPLER
@pytest.mark.parametrize("inside", [torch.float32, torch.float64])
@pytest.mark.parametrize("chain", ["50 levels", "real levels"])
def test_states_keep_the_dtype_of_the_noise_whatever_the_networks(sampler: str, inside: torch.dtype, chain: str):
    """And float32 rounds, no more: x0 is a difference 157 times as large as itself at T, of numbers known to 6e-8."""

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        assert x.dtype == inside
        return smooth(x, time)

    single = list(walk(sampler, CHAINS[chain], network, noise=seeded(torch.float32), dtype=inside))
    double = list(walk(sampler, CHAINS[chain], noise=lambda level: seeded(torch.float32)(level).double()))
    for one, two in zip(single, double, strict=True):
        assert one.x.dtype == one.x0.dtype == torch.float32
        assert (one.x - two.x).abs().max() < 1e-4
