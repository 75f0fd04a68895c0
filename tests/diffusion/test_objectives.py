"""What is learned: L_simple, the bound and their hybrid, against their definitions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddpm.diffusion.bound import step_term
from ddpm.diffusion.denoiser import LEARNED, Denoiser
from ddpm.diffusion.objectives import (
    HYBRID_WEIGHT,
    LEVEL_SAMPLING,
    LOSSES,
    WEIGHTINGS,
    bound_loss,
    hybrid_loss,
    simple_loss,
)
from ddpm.diffusion.optimal_variance import Measured
from ddpm.diffusion.process import PREDICTIONS, Process
from ddpm.diffusion.schedule import VARIANCES, make_schedule

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
def test_a_network_that_knows_the_image_loses_nothing(prediction: str):
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
    denoiser = Denoiser(lambda x, time, labels: torch.full_like(x, 100.0), PROCESS, "x0", threshold="static")
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


# ---- the bound and the hybrid ---------------------------------------------------------------------------------------

TRAINABLE = [
    (loss, variance)
    for loss, variance in itertools.product(LOSSES, (*VARIANCES, *LEARNED))
    if (loss != "simple" or variance in VARIANCES) and (loss != "hybrid" or variance in LEARNED)
]
EVERY_LEARNED = pytest.mark.parametrize("variance", LEARNED)


def images(seed: int) -> Tensor:
    """Grey levels on [-1, 1], as the decoder at t = 1 wants them."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, SHAPE) / 127.5 - 1)


def saying(prediction: Tensor, spread: Tensor | None = None, kind: str = "eps", variance: str = "large") -> Denoiser:
    """A denoiser whose network says these, in float64, with clipping on as everywhere by default."""
    said = prediction if spread is None else torch.cat([prediction, spread], dim=1)
    return Denoiser(lambda x, time, labels: said, PROCESS, kind, variance, dtype=torch.float64)


def test_the_lists_of_choices_are_what_the_recipes_offer():
    by_name = dict(LOSSES)
    assert by_name == {"simple": simple_loss, "bound": bound_loss, "hybrid": hybrid_loss}
    assert set(LEVEL_SAMPLING) == {"uniform", "importance", "log-normal"}
    assert set(WEIGHTINGS) == {"none", "unit", "min-snr", "uncertainty"}


@EVERY_PREDICTION
@pytest.mark.parametrize("variance", [*VARIANCES, *LEARNED])
def test_the_bounds_loss_is_one_term_in_bits_a_dimension_and_never_clipped(prediction: str, variance: str):
    """Against step_term without clipping; the network is far enough off for a clip to show."""
    x0, noise = images(1), drawn(2)
    denoiser = saying(2 * drawn(3), 0.3 * drawn(4), prediction, variance)
    assert denoiser.threshold == "static"
    found = bound_loss(denoiser, x0, LEVELS, noise=noise)
    chain, unclipped = PROCESS.schedule, replace(denoiser, threshold="none")
    expected = step_term(unclipped, x0, LEVELS, noise=noise, chain=chain).nats / (30 * math.log(2))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-14)
    if prediction != "mean":  # whose mean is believed as it is
        clipped = step_term(denoiser, x0, LEVELS, noise=noise, chain=chain).nats / (30 * math.log(2))
        assert (found != clipped).any()


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_mean_of_the_bounds_loss_over_all_levels_is_the_bound_over_t(variance: str):
    """A network that is right: 999 constants and the decoder, (C_2 + ... + C_T + 1.30538 bits) / 1000 (check 9)."""
    x0 = torch.full((T, 1, 1, 1), 128 / 127.5 - 1, dtype=torch.float64)
    denoiser = saying(x0, kind="x0", variance=variance)
    noise = torch.from_numpy(np.random.default_rng(5).standard_normal((T, 1, 1, 1)))
    found = bound_loss(denoiser, x0, torch.arange(1, T + 1), noise=noise).mean().item()
    extra = 0.4864192300440932 if variance == "large" else 0.0
    assert found == pytest.approx((extra + 1.30537765556172) / T, rel=1e-9, abs=0)


def gradients(loss: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss.sum(), of, allow_unused=True))


@EVERY_PREDICTION
@EVERY_LEARNED
def test_the_hybrid_teaches_the_mean_by_the_simple_loss_alone_and_exactly(prediction: str, variance: str):
    """No part of the bound reaches the prediction, and what reaches the spread is a thousandth of the whole bound."""
    x0, noise = images(1), drawn(2)
    said, spread = drawn(3).requires_grad_(), (0.3 * drawn(4)).requires_grad_()
    denoiser = saying(said, spread, prediction, variance)
    loss = hybrid_loss(denoiser, x0, LEVELS, noise=noise)
    simple = simple_loss(denoiser, x0, LEVELS, noise=noise)
    bound = bound_loss(denoiser, x0, LEVELS, noise=noise)
    assert loss.tolist() == pytest.approx((simple + 1e-3 * T * bound).tolist(), rel=1e-12)
    assert HYBRID_WEIGHT == 1e-3
    by_said, by_spread = gradients(loss, said, spread)
    assert torch.equal(by_said, gradients(simple, said)[0])
    (bound_by_spread,) = gradients(bound, spread)
    assert torch.allclose(by_spread, 1e-3 * T * bound_by_spread, rtol=1e-12, atol=0)
    assert (by_spread != 0).all()


def test_the_hybrids_weight_goes_with_the_number_of_levels():
    process = Process(make_schedule(steps=10, beta_start=0.01, beta_end=0.5))
    denoiser = replace(saying(drawn(3), 0.3 * drawn(4), variance="range"), process=process)
    t = torch.tensor([1, 2, 7, 10])
    losses = (hybrid_loss, simple_loss, bound_loss)
    found, simple, bound = (loss(denoiser, images(1), t, noise=drawn(2)) for loss in losses)
    assert (found - simple).tolist() == pytest.approx((1e-2 * bound).tolist(), rel=1e-9)


@EVERY_PREDICTION
@pytest.mark.parametrize("variance", [*VARIANCES, *LEARNED])
def test_the_bound_teaches_the_mean_and_a_learned_variance(prediction: str, variance: str):
    said, spread = drawn(3).requires_grad_(), (0.3 * drawn(4)).requires_grad_()
    loss = bound_loss(saying(said, spread, prediction, variance), images(1), LEVELS, noise=drawn(2))
    by_said, by_spread = gradients(loss, said, spread)
    assert (by_said != 0).all()
    assert bool((by_spread != 0).any()) == bool((by_spread != 0).all()) == (variance in LEARNED)


@EVERY_PREDICTION
@pytest.mark.parametrize(("loss", "variance"), TRAINABLE)
def test_every_trainable_choice_gives_finite_float32_losses_and_gradients(loss: str, variance: str, prediction: str):
    """The start of a training: a network that says almost nothing, at the first and the last level and between."""
    said, spread = ((1e-5 * drawn(k)).float().requires_grad_() for k in (3, 4))
    denoiser = replace(saying(said, spread, prediction, variance), dtype=torch.float32)
    found = LOSSES[loss](denoiser, images(1).float(), LEVELS, noise=drawn(2).float())
    assert found.shape == (4,)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert all(torch.isfinite(g).all() for g in gradients(found, said, spread) if g is not None)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_calls_the_network_once_and_hands_on_labels(loss: str):
    heard: list[tuple[list[int], Tensor | None]] = []

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        heard.append((time.tolist(), labels))
        return torch.zeros(4, 6, 2, 5, dtype=x.dtype)

    labels = torch.tensor([3, 1, 2, 0])
    variance = "large" if loss == "simple" else "range"
    LOSSES[loss](Denoiser(network, PROCESS, variance=variance), images(1), LEVELS, noise=drawn(2), labels=labels)
    assert heard == [([0, 1, 399, 999], labels)]


# ---- learned variances ----------------------------------------------------------------------------------------------

FEW = Process(make_schedule(steps=20, beta_start=0.01, beta_end=0.5))
NODES, WEIGHTS = np.array([-math.sqrt(3), 0.0, math.sqrt(3)]), np.array([1 / 6, 2 / 3, 1 / 6])


class OnlySpread(nn.Module):
    """The best mean for data N(0, lam), frozen, and one learnable spread a level."""

    def __init__(self, lam: float) -> None:
        super().__init__()
        self.lam = lam
        self.spread = nn.Parameter(torch.zeros(20, dtype=torch.float64))

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        a = torch.from_numpy(FEW.schedule.alpha_bar[time.numpy() + 1]).reshape(-1, 1, 1, 1)
        return torch.cat([a.sqrt() * self.lam * x / (a * self.lam + 1 - a), self.spread[time].reshape(-1, 1, 1, 1)], 1)


@pytest.mark.parametrize("lam", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("loss", [name for name, variance in TRAINABLE if variance == "range"])
@EVERY_LEARNED
def test_a_learned_variance_under_a_frozen_mean_becomes_the_optimal_one(variance: str, loss: str, lam: float):
    """Gradient descent on exact expectations ends at beta~ + c^2 MSE, to 1e-6 of a log-variance, at every t > 1.

    Nine Gauss-Hermite nodes make the expectations over x_0 and the noise exact. The optimum is the large variance for
    lam = 1, lies inside the range for 0.25, and beyond it for 4. Steps are scaled by each level's curvature, so that
    each takes away half of what is left.
    """
    network, schedule = OnlySpread(lam), FEW.schedule
    denoiser = Denoiser(network, FEW, "x0", variance, dtype=torch.float64)
    x0, noise = (v.ravel() for v in np.meshgrid(math.sqrt(lam) * NODES, NODES, indexing="ij"))
    x0, noise = (torch.from_numpy(np.tile(v, 20)).reshape(-1, 1, 1, 1) for v in (x0, noise))
    t, weight = torch.arange(1, 21).repeat_interleave(9), torch.from_numpy(np.outer(WEIGHTS, WEIGHTS).ravel())
    low, high = torch.from_numpy(schedule.log_variance("small")[1:]), torch.from_numpy(np.log(schedule.beta[1:]))
    slope = (high - low) / 2 if variance == "range" else torch.ones(20, dtype=torch.float64)
    step = math.log(2) / slope**2 / (HYBRID_WEIGHT * 20 if loss == "hybrid" else 1)
    for _ in range(70):
        losses = LOSSES[loss](denoiser, x0, t, noise=noise).reshape(20, 9) @ weight
        (gradient,) = torch.autograd.grad(losses[1:].sum(), network.spread)
        with torch.no_grad():
            network.spread -= step * gradient
    spread = network.spread.detach()
    found = low + (spread + 1) * slope if variance == "range" else spread
    a = schedule.alpha_bar[1:]
    error = lam * (1 - a) / (a * lam + 1 - a)
    nothing = np.full(21, np.nan)
    best = Measured(
        squared_error=np.concatenate([[0], error]),
        decoder_log_variance=nothing,
        decoder_nats=nothing,
        second_moment=lam,
    ).log_variance(schedule)
    np.testing.assert_allclose(found[1:].numpy(), best[2:], rtol=0, atol=1e-6)
    if variance == "range":
        places = spread[1:]
        within = {0.25: abs(places) < 1, 1.0: abs(places - 1) < 1e-4, 4.0: places > 1}
        assert within[lam].all()


@EVERY_LEARNED
def test_at_the_last_step_a_learned_variance_fits_the_decoder(variance: str):
    """Predictions off by +-0.02 at t = 1: the best sigma of the discretised likelihood, by golden section with erf."""
    spread = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    x0 = torch.full((2, 1, 1, 1), 100 / 127.5 - 1, dtype=torch.float64)
    said = x0 + torch.tensor([0.02, -0.02]).reshape(2, 1, 1, 1)

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.cat([said, spread.expand(2, 1, 1, 1)], 1)

    denoiser = Denoiser(network, PROCESS, "x0", variance, dtype=torch.float64)
    t = torch.ones(2, dtype=torch.int64)
    low, high = PROCESS.schedule.log_variance("small")[1], math.log(1e-4)
    slope = (high - low) / 2 if variance == "range" else 1.0
    for _ in range(100):
        (gradient,) = torch.autograd.grad(bound_loss(denoiser, x0, t, noise=torch.zeros_like(x0)).mean(), spread)
        with torch.no_grad():
            spread -= (math.log(2) * gradient / slope**2).clamp(-1 / slope, 1 / slope)
    found = low + (spread.item() + 1) * slope if variance == "range" else spread.item()

    def price(log_variance: float) -> float:
        scale = math.exp(log_variance / 2) * math.sqrt(2)
        return -math.log(math.erf((0.02 + 1 / 255) / scale) - math.erf((0.02 - 1 / 255) / scale))

    left, right, golden = -12.0, -4.0, (math.sqrt(5) - 1) / 2
    while right - left > 1e-9:
        one, two = right - golden * (right - left), left + golden * (right - left)
        left, right = (left, two) if price(one) < price(two) else (one, right)
    assert found == pytest.approx((left + right) / 2, abs=1e-6)
