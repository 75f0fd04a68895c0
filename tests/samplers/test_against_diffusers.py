"""Every sampler against diffusers' scheduler of the same name: the same network, noise and levels, state by state.

The schedulers are given our float64 table in place of their float32 one, and our levels in place of their own; their
formulas are theirs. They count times from 0, and those that think in sigmas have sigma = sqrt((1 - A) / A).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.process import Process
from ddpm.diffusion.schedule import make_schedule
from ddpm.samplers.plan import SAMPLERS

T = 1000
SCHEDULE = make_schedule()
ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, T))  # at times 0..T - 1
TIMES = {
    "even": [900, 800, 700, 600, 500, 400, 300, 200, 100, 0],
    "uneven": [999, 849, 612, 399, 221, 110, 39, 11, 2, 0],  # a multistep method must know the length of both steps
}
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs

PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
SHAPE = (2, 1, 4, 4)

EXACT = 1e-12  # of the largest state, for float64 beside float64
SINGLE = 1e-6  # for DPMSolverMultistepScheduler, which rounds each state to float32


@dataclass(frozen=True)
class Run:
    """What a scheduler is to be run on."""

    times: Sequence[int]
    network: Callable[[Tensor, Tensor], Tensor]
    start: Tensor
    noise: dict[int, Tensor]  # by the time it is drawn at
    options: dict[str, object]  # of every scheduler
    clip: bool

    def asked(self, x: Tensor, time: int) -> Tensor:
        return self.network(x, torch.full((len(x),), time))

    @property
    def sigmas(self) -> Tensor:
        a = ALPHA_BAR[list(self.times)]
        return torch.from_numpy(np.append(np.sqrt((1 - a) / a), 0.0))


def on_our_table(scheduler):
    scheduler.alphas_cumprod = torch.from_numpy(ALPHA_BAR.copy())
    return scheduler


def ddpm(run: Run, variance_type: str) -> Iterator[Tensor]:
    scheduler = on_our_table(DDPMScheduler(variance_type=variance_type, clip_sample=run.clip, **run.options))
    scheduler.set_timesteps(timesteps=list(run.times))
    generator, x = torch.Generator().manual_seed(0), run.start  # see `drawn`
    for time in run.times:
        x = scheduler.step(run.asked(x, time), time, x, generator=generator).prev_sample
        yield x


def ddim(run: Run, eta: float) -> Iterator[Tensor]:
    """Its only door for levels is their distance, T // num_inference_steps; a fraction says any."""
    scheduler = on_our_table(DDIMScheduler(clip_sample=run.clip, **run.options))
    x = run.start
    for time, following in zip(run.times, [*run.times[1:], -1], strict=True):
        scheduler.num_inference_steps = Fraction(T, time - following)
        said, noise = run.asked(x, time), run.noise[time] if eta else None
        x = scheduler.step(said, time, x, eta, use_clipped_model_output=True, variance_noise=noise).prev_sample
        yield x


def heun(run: Run) -> Iterator[Tensor]:
    """It walks x / sqrt(A), and each step between two levels is two of its own."""
    scheduler = on_our_table(HeunDiscreteScheduler(clip_sample=run.clip, **run.options))
    scheduler.timesteps = torch.tensor([run.times[0], *np.repeat(run.times[1:], 2)])
    scheduler.sigmas = torch.cat([run.sigmas[:1], run.sigmas[1:-1].repeat_interleave(2), run.sigmas[-1:]])
    y = run.start / math.sqrt(ALPHA_BAR[run.times[0]])
    for k, time in enumerate(scheduler.timesteps):
        y = scheduler.step(run.asked(scheduler.scale_model_input(y, time), int(time)), time, y).prev_sample
        if scheduler.state_in_first_order:
            yield y / math.sqrt(scheduler.sigmas[k + 1] ** 2 + 1)
    yield y


def multistep(run: Run, scheduler, **options) -> Iterator[Tensor]:
    """With sample_max_value 1, its default, dynamic thresholding is a clip to [-1, 1]."""
    scheduler = on_our_table(scheduler(solver_order=2, thresholding=run.clip, **options, **run.options))
    scheduler.set_timesteps(len(run.times))
    scheduler.timesteps, scheduler.sigmas = torch.tensor(run.times), run.sigmas
    x = run.start
    for time in run.times:
        noise = {"variance_noise": run.noise[time]} if "sde" in options.get("algorithm_type", "") else {}
        x = scheduler.step(run.asked(x, time), time, x, **noise).prev_sample
        yield x


def dpm(run: Run, algorithm: str, solver: str) -> Iterator[Tensor]:
    return multistep(run, DPMSolverMultistepScheduler, algorithm_type=algorithm, solver_type=solver)


def unipc(run: Run) -> Iterator[Tensor]:
    return multistep(run, UniPCMultistepScheduler, solver_type="bh2", predict_x0=True)


@dataclass(frozen=True)
class Pair:
    """A sampler and its double."""

    sampler: str
    double: Callable[[Run], Iterator[Tensor]]
    variance: str = "large"
    options: dict[str, float] = field(default_factory=dict)
    tolerance: float = EXACT


PAIRS = {
    "ancestral, large": Pair("ancestral", lambda run: ddpm(run, "fixed_large"), variance="large"),
    "ancestral, small": Pair("ancestral", lambda run: ddpm(run, "fixed_small"), variance="small"),
    "ddim, 0": Pair("ddim", lambda run: ddim(run, 0.0)),
    "ddim, 0.3": Pair("ddim", lambda run: ddim(run, 0.3), options={"eta": 0.3}),
    "ddim, 1": Pair("ddim", lambda run: ddim(run, 1.0), options={"eta": 1.0}),
    "heun": Pair("heun", heun),
    "dpm++": Pair("dpm++", lambda run: dpm(run, "dpmsolver++", "midpoint"), tolerance=SINGLE),
    "dpm++sde": Pair("dpm++sde", lambda run: dpm(run, "sde-dpmsolver++", "heun"), tolerance=SINGLE),
    "unipc": Pair("unipc", unipc),
}


def drawn(times: Sequence[int]) -> dict[int, Tensor]:
    """The noise in the order in which DDPMScheduler draws it from a generator of its own."""
    generator = torch.Generator().manual_seed(0)
    return {time: torch.randn(SHAPE, generator=generator, dtype=torch.float64) for time in times}


def lively(prediction: str) -> Callable[..., Tensor]:
    """A network near the best one for N(0, 0.25), with something of its own that leads x0 beyond [-1, 1]."""

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        assert not time.is_floating_point()
        a = torch.from_numpy(ALPHA_BAR[time.numpy()]).reshape(-1, 1, 1, 1)
        eps = (1 - a).sqrt() * x / (0.25 * a + 1 - a) + 0.2 * torch.sin(3 * x + time.reshape(-1, 1, 1, 1) / 100)
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        return {"eps": eps, "x0": x0, "v": a.sqrt() * eps - (1 - a).sqrt() * x0}[prediction]

    return network


def test_every_sampler_has_a_double():
    assert {pair.sampler for pair in PAIRS.values()} == {*SAMPLERS}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("threshold", ["none", "static"])
def test_states_are_those_of_diffusers(pair: str, times: str, prediction: str, threshold: str):
    pair, times, network = PAIRS[pair], TIMES[times], lively(prediction)
    start, noise = torch.from_numpy(np.random.default_rng(1).standard_normal(SHAPE)), drawn(times)

    options = {"num_train_timesteps": T, "prediction_type": PREDICTIONS[prediction]}
    theirs = list(pair.double(Run(times, network, start, noise, options, threshold == "static")))

    denoiser = Denoiser(
        network, Process(SCHEDULE), prediction, variance=pair.variance, threshold=threshold, dtype=torch.float64
    )
    levels = [time + 1 for time in times]
    arriving = dict(zip(levels[1:], noise.values(), strict=False))  # ours is named by the level it is drawn for
    ours = list(
        SAMPLERS[pair.sampler](
            denoiser, start, chain=SCHEDULE.subset(levels), noise=arriving.__getitem__, **pair.options
        )
    )
    assert len(ours) == len(theirs) == 10
    furthest = max(state.x0.abs().max() for state in ours)
    assert furthest == 1 if threshold == "static" else furthest > 1, "there is something to clip"
    largest = max(state.x.abs().max() for state in ours)
    for state, x in zip(ours, theirs, strict=True):
        assert (state.x - x).abs().max() <= pair.tolerance * largest, state.level
