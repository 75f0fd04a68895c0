"""L_simple: a mean over each image of the squared error against the right target, at levels drawn fairly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.denoiser import Denoiser
from ddpm.objectives import draw_levels, simple_loss
from ddpm.process import PREDICTIONS, Process
from ddpm.schedule import make_schedule
from ddpm.seeding import generator

T = 1000
PROCESS = Process(make_schedule())
ALPHA_BAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, T))])
SHAPE = (4, 3, 2, 5)
LEVELS = torch.tensor([1, 2, 400, 1000])

EVERY_PREDICTION = pytest.mark.parametrize("prediction", PREDICTIONS)


def drawn(seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(SHAPE))


def target_by_hand(prediction: str, x0: np.ndarray, eps: np.ndarray, t: int) -> np.ndarray:
    a, before = ALPHA_BAR[t], ALPHA_BAR[t - 1]
    beta = 1 - a / before
    xt = math.sqrt(a) * x0 + math.sqrt(1 - a) * eps
    mean = (math.sqrt(before) * beta * x0 + math.sqrt(1 - beta) * (1 - before) * xt) / (1 - a)
    return {"eps": eps, "x0": x0, "v": math.sqrt(a) * eps - math.sqrt(1 - a) * x0, "mean": mean}[prediction]


@EVERY_PREDICTION
def test_the_loss_of_each_image_is_the_mean_of_its_squared_errors(prediction: str):
    x0, noise, said = drawn(1), drawn(2), drawn(3)
    denoiser = Denoiser(lambda x, time, labels: said.to(x.dtype), PROCESS, prediction, dtype=torch.float64)
    losses = simple_loss(denoiser, x0, LEVELS, noise=noise)
    assert losses.shape == (4,)
    for k, t in enumerate(LEVELS.tolist()):
        target = target_by_hand(prediction, x0[k].numpy(), noise[k].numpy(), t)
        assert losses[k].item() == pytest.approx(((target - said[k].numpy()) ** 2).mean(), rel=1e-10)


@EVERY_PREDICTION
def test_a_network_that_knows_the_picture_loses_nothing(prediction: str):
    """It solves for its target from x_t, amplifying rounding by at most 1 / sqrt(1 - A_1) = 100: (1e-14)^2."""
    x0, noise = drawn(1), drawn(2)

    def perfect(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        said = []
        for k, t in enumerate((time + 1).tolist()):
            eps = (x[k].numpy() - math.sqrt(ALPHA_BAR[t]) * x0[k].numpy()) / math.sqrt(1 - ALPHA_BAR[t])
            said.append(torch.from_numpy(target_by_hand(prediction, x0[k].numpy(), eps, t)))
        return torch.stack(said)

    losses = simple_loss(Denoiser(perfect, PROCESS, prediction, dtype=torch.float64), x0, LEVELS, noise=noise)
    assert losses.max() < 1e-24


def test_training_does_not_clip_what_the_network_means():
    """A network far off is told how far: clipping its image would make the loss flat."""
    denoiser = Denoiser(lambda x, time, labels: torch.full_like(x, 100.0), PROCESS, "x0", clip=True)
    losses = simple_loss(denoiser, torch.zeros(SHAPE), LEVELS, noise=drawn(2).float())
    assert losses.tolist() == pytest.approx([1e4] * 4)


def test_the_network_sees_the_noised_image_its_time_and_its_label():
    x0, noise, labels = drawn(1), drawn(2), torch.tensor([3, 1, 2, 0])
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        seen.append((x, time, labels))
        return torch.zeros_like(x)

    simple_loss(Denoiser(network, PROCESS, dtype=torch.float64), x0, LEVELS, noise=noise, labels=labels)
    ((xt, time, heard),) = seen
    assert time.tolist() == [0, 1, 399, 999]
    assert heard is labels
    for k, t in enumerate(LEVELS.tolist()):
        expected = math.sqrt(ALPHA_BAR[t]) * x0[k] + math.sqrt(1 - ALPHA_BAR[t]) * noise[k]
        assert (xt[k] - expected).abs().max() < 1e-12


def test_a_bfloat16_network_is_scored_in_float32():
    denoiser = Denoiser(lambda x, time, labels: x, PROCESS, dtype=torch.bfloat16)
    assert simple_loss(denoiser, drawn(1).float(), LEVELS, noise=drawn(2).float()).dtype == torch.float32


# ---- levels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_levels_are_uniform_over_one_to_the_last(steps: int):
    """Chi-square over all levels, its mean steps - 1 and variance 2 (steps - 1), within four deviations."""
    count = 200 * steps
    levels = draw_levels(generator("level", 0), count, steps)
    assert levels.dtype == torch.int64
    assert levels.shape == (count,)
    assert (levels.min(), levels.max()) == (1, steps)
    found = torch.bincount(levels, minlength=steps + 1)[1:].double()
    chi_square = ((found - 200) ** 2 / 200).sum().item()
    assert chi_square == pytest.approx(steps - 1, abs=4 * (2 * steps) ** 0.5)


def test_levels_of_a_batch_are_independent_and_repeat_with_the_generator():
    first, again, other = (draw_levels(generator("level", 0, p), 50_000, 1000).double() for p in (0, 0, 128))
    assert torch.equal(first, again)
    for a, b in ((first, other), (first[1:], first[:-1])):
        correlation = torch.corrcoef(torch.stack([a, b]))[0, 1]
        assert abs(correlation) < 4 / 50_000**0.5
