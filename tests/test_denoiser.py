"""What the network's output becomes: its clock, its dtype, clipping, and the reverse Gaussian."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.denoiser import Denoiser
from ddpm.process import PREDICTIONS, Process
from ddpm.schedule import VARIANCES, make_schedule

T = 1000
SCHEDULE = make_schedule()
PROCESS = Process(SCHEDULE)
ALPHA_BAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, T))])

EVERY_PREDICTION = pytest.mark.parametrize("prediction", PREDICTIONS)
SHAPE = (3, 2, 4, 6)


class Says:
    """A network that always says the same, and remembers what it was asked."""

    def __init__(self, output: Tensor) -> None:
        self.said = output
        self.asked: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        self.asked.append((x, time, labels))
        return self.said.to(x.dtype)


def normal(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(SHAPE)).to(dtype)


def output_for(prediction: str, x0: Tensor, xt: Tensor, t: int) -> Tensor:
    """What a network must say at level t to mean x0, from the definitions."""
    a, before = ALPHA_BAR[t], ALPHA_BAR[t - 1]
    eps = (xt - math.sqrt(a) * x0) / math.sqrt(1 - a)
    beta = 1 - a / before
    mean = math.sqrt(before) * beta / (1 - a) * x0 + math.sqrt(1 - beta) * (1 - before) / (1 - a) * xt
    return {"eps": eps, "x0": x0, "v": math.sqrt(a) * eps - math.sqrt(1 - a) * x0, "mean": mean}[prediction]


def posterior_mean(x0: Tensor, xt: Tensor, s: int, t: int) -> Tensor:
    """The mean of q(x_s | x_t, x_0) for any two levels s < t, from the precisions of its two factors."""
    if s == 0:
        return x0
    here, rest = ALPHA_BAR[s], ALPHA_BAR[t] / ALPHA_BAR[s]
    precision = 1 / (1 - here) + rest / (1 - rest)
    return (math.sqrt(here) / (1 - here) * x0 + math.sqrt(rest) / (1 - rest) * xt) / precision


# ---- what the network is asked --------------------------------------------------------------------------------------


def test_the_network_counts_its_times_from_zero():
    network = Says(normal(0))
    denoiser = Denoiser(network, PROCESS)
    denoiser.output(normal(1), torch.tensor([1, 500, 1000]))
    assert network.asked[-1][1].tolist() == [0, 499, 999]
    for step in (1, 2, 1000):
        denoiser.reverse(normal(1), step, chain=SCHEDULE)
        assert network.asked[-1][1].tolist() == [step - 1] * 3


def test_on_a_strided_chain_the_network_hears_the_level_of_the_full_process():
    network = Says(normal(0))
    Denoiser(network, PROCESS).reverse(normal(1), 2, chain=SCHEDULE.subset([7, 401]))
    assert network.asked[-1][1].tolist() == [400] * 3


def test_labels_reach_the_network_as_they_are():
    network, labels = Says(normal(0)), torch.tensor([4, 0, 9])
    denoiser, t = Denoiser(network, PROCESS), torch.tensor([5, 6, 7])
    denoiser.output(normal(1), t, labels)
    denoiser.x0(normal(1), t, labels)
    denoiser.reverse(normal(1), 3, chain=SCHEDULE, labels=labels)
    assert all(torch.equal(heard, labels) for _, _, heard in network.asked)
    denoiser.output(normal(1), t)
    assert network.asked[-1][2] is None


@pytest.mark.parametrize("inside", [torch.float32, torch.float64])
@pytest.mark.parametrize("outside", [torch.float32, torch.float64])
def test_the_network_works_in_its_own_dtype_and_the_chain_in_that_of_the_state(inside, outside):
    network, xt = Says(normal(0)), normal(1, outside)
    step = Denoiser(network, PROCESS, dtype=inside).reverse(xt, 1000, chain=SCHEDULE)
    assert network.asked[-1][0].dtype == inside
    assert torch.equal(network.asked[-1][0], xt.to(inside))
    assert step.x0.dtype == step.gaussian.mean.dtype == step.gaussian.sample(xt).dtype == outside


def test_a_float32_network_still_gives_float64_arithmetic_around_it():
    """Its output is rounded once; x0 = 157 xt - 157 eps afterwards is exact to 1e-13, not to float32's 1e-5."""
    xt, eps = normal(1), normal(2)
    x0 = Denoiser(Says(eps), PROCESS, clip=False).x0(xt, torch.full((3,), T))
    a = ALPHA_BAR[T]
    assert (x0 - (xt - math.sqrt(1 - a) * eps.float().double()) / math.sqrt(a)).abs().max() < 1e-10


# ---- what its output means ------------------------------------------------------------------------------------------


@EVERY_PREDICTION
@pytest.mark.parametrize("t", [1, 2, 500, 1000])
def test_every_prediction_is_read_as_the_image_it_means(prediction: str, t: int):
    x0, xt = normal(3).clamp(-1, 1), normal(4)
    denoiser = Denoiser(Says(output_for(prediction, x0, xt, t)), PROCESS, prediction, dtype=torch.float64)
    assert (denoiser.x0(xt, torch.full((3,), t)) - x0).abs().max() < 1e-10


@EVERY_PREDICTION
@pytest.mark.parametrize("clip", [False, True])
def test_the_predicted_image_is_clipped_only_when_asked(prediction: str, clip: bool):
    x0, xt = 2 * normal(5), normal(6)
    denoiser = Denoiser(Says(output_for(prediction, x0, xt, 300)), PROCESS, prediction, clip=clip, dtype=torch.float64)
    expected = x0.clamp(-1, 1) if clip else x0
    assert (denoiser.x0(xt, torch.full((3,), 300)) - expected).abs().max() < 1e-10
    assert (denoiser.reverse(xt, 300, chain=SCHEDULE).x0 - expected).abs().max() < 1e-10


@EVERY_PREDICTION
@pytest.mark.parametrize("levels", [(1, 2), (1,), (499, 500), (250, 500), (2, 1000), (1000,)])
def test_the_image_is_clipped_before_the_posterior_mean_is_formed_and_the_mean_is_not(prediction: str, levels):
    """The mean lies outside [-1, 1] where x_t does. A network that says the mean itself is believed, if the chain
    takes the very step that it means; over a longer step its image is solved for, and clipped like the others.
    """
    x0, xt = 2 * normal(7), 3 * normal(8)
    s, t = (0, *levels)[-2:]
    denoiser = Denoiser(Says(output_for(prediction, x0, xt, t)), PROCESS, prediction, dtype=torch.float64)
    found = denoiser.reverse(xt, len(levels), chain=SCHEDULE.subset(levels)).gaussian.mean
    believed = prediction == "mean" and t - s == 1
    assert (found - posterior_mean(x0 if believed else x0.clamp(-1, 1), xt, s, t)).abs().max() < 1e-10
    if s and t < T:
        assert found.abs().max() > 1


def test_a_network_that_says_the_mean_is_believed_bit_for_bit():
    said = normal(9)
    step = Denoiser(Says(said), PROCESS, "mean", dtype=torch.float64).reverse(normal(8), 77, chain=SCHEDULE)
    assert torch.equal(step.gaussian.mean, said)


@pytest.mark.parametrize("variance", VARIANCES)
def test_reverse_variances_are_the_chains_own(variance: str):
    """beta or the posterior variance between the chain's levels; step 1 takes the posterior variance of step 2."""
    levels = [0, 1, 2, 3, 400, 1000]
    chain, denoiser = SCHEDULE.subset(levels), Denoiser(Says(normal(0)), PROCESS, variance=variance)
    for step in range(1, len(levels)):
        s, t = (levels[step - 1], levels[step]) if step > 1 else (levels[1], levels[2])
        beta = 1 - ALPHA_BAR[t] / ALPHA_BAR[s]
        small = beta * (1 - ALPHA_BAR[s]) / (1 - ALPHA_BAR[t])
        found = denoiser.reverse(normal(1), step, chain=chain).gaussian.log_variance.exp()
        assert found.flatten().tolist() == pytest.approx(
            [beta if variance == "large" and step > 1 else small] * 3, rel=1e-9
        )


@EVERY_PREDICTION
def test_translation_leaves_gradients_to_the_network(prediction: str):
    """Training and later editing differentiate through it; clipping is off, as in training."""
    said = normal(0).requires_grad_()
    denoiser = Denoiser(Says(said), PROCESS, prediction, clip=False, dtype=torch.float64)
    denoiser.x0(normal(1), torch.tensor([1, 400, 1000])).sum().backward()
    assert said.grad is not None
    assert (said.grad != 0).all()
