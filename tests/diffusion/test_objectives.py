"""What is learned: L_simple, the bound and their hybrid, against their definitions; and the levels it is learned at."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddpm.base.noise import stream_keys
from ddpm.diffusion.bound import step_term
from ddpm.diffusion.denoiser import LEARNED, Denoiser
from ddpm.diffusion.objectives import (
    HYBRID_WEIGHT,
    LEVEL_SAMPLING,
    LOSSES,
    REMEMBERED,
    UNIFORM_SHARE,
    LossHistory,
    bound_loss,
    draw_levels,
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
    assert set(LEVEL_SAMPLING) == {"uniform", "importance"}


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


SOUND = torch.tensor(True)

# ---- levels ---------------------------------------------------------------------------------------------------------


def keys(count: int, seed: int = 0, first: int = 0) -> torch.Tensor:
    """Streams of images number `first` on."""
    return stream_keys("level", seed, torch.arange(first, first + count))


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_levels_are_uniform_over_one_to_the_last(steps: int):
    """Chi-square over all levels, its mean steps - 1 and variance 2 (steps - 1), within four deviations."""
    count = 200 * steps
    levels, weights = draw_levels(keys(count), steps)
    assert levels.dtype == torch.int64
    assert levels.shape == (count,)
    assert (levels.min(), levels.max()) == (1, steps)
    assert torch.equal(weights, torch.ones(count))
    found = torch.bincount(levels, minlength=steps + 1)[1:].double()
    chi_square = ((found - 200) ** 2 / 200).sum().item()
    assert chi_square == pytest.approx(steps - 1, abs=4 * (2 * steps) ** 0.5)


def test_levels_of_a_batch_are_independent_and_repeat_with_their_images():
    first, again, other = (draw_levels(keys(50_000, first=p), T)[0].double() for p in (0, 0, 50_000))
    assert torch.equal(first, again)
    for a, b in ((first, other), (first[1:], first[:-1])):
        correlation = torch.corrcoef(torch.stack([a, b]))[0, 1]
        assert abs(correlation) < 4 / 50_000**0.5


def history_of(table: np.ndarray) -> LossHistory:
    history = LossHistory(len(table), torch.device("cpu"))
    history.restore(torch.from_numpy(table))
    return history


def full_history(steps: int, seed: int = 0) -> np.ndarray:
    """Losses of sizes from 0.001 to 1, as those of the bound."""
    rng = np.random.default_rng(seed)
    return np.geomspace(1, 1e-3, steps)[:, None] * rng.uniform(0.5, 1.5, (steps, REMEMBERED))


@pytest.mark.parametrize("steps", [2, 7, 50])
def test_levels_are_drawn_with_the_probabilities_given_and_weighted_by_their_inverse(steps: int):
    """Chi-square as above; weights are 1 / (T p) in float32."""
    probabilities = history_of(full_history(steps)).probabilities()
    p, count = probabilities.numpy(), 40_000 * steps
    levels, weights = draw_levels(keys(count, 1), steps, probabilities)
    assert levels.dtype == torch.int64
    assert weights.dtype == torch.float32
    assert (levels.min(), levels.max()) == (1, steps)
    expected = count * p
    found = np.bincount(levels.numpy(), minlength=steps + 1)[1:]
    assert ((found - expected) ** 2 / expected).sum() == pytest.approx(steps - 1, abs=4 * (2 * steps) ** 0.5)
    np.testing.assert_allclose(weights.numpy(), 1 / (steps * p[levels.numpy() - 1]), rtol=1e-6)


def test_the_weighted_mean_of_losses_is_their_uniform_mean():
    """Exactly in expectation, sum_t p_t w_t f_t = mean f; and of 100,000 draws within four standard errors."""
    history, steps = full_history(30), 30
    f, p = history[:, 0], history_of(history).probabilities()
    t, weights = draw_levels(keys(100_000, 2), steps, p)
    one_each = dict(zip(t.tolist(), weights.tolist(), strict=True))
    assert sorted(one_each) == list(range(1, steps + 1))
    assert sum(float(p[k - 1]) * w * f[k - 1] for k, w in one_each.items()) == pytest.approx(f.mean(), rel=1e-6)
    values = weights.double().numpy() * f[t.numpy() - 1]
    assert abs(values.mean() - f.mean()) < 4 * values.std() / 100_000**0.5
    plain = f[draw_levels(keys(100_000, 2), steps)[0].numpy() - 1]
    assert values.std() < plain.std() / 2  # what it is for


def test_importance_needs_every_level_to_have_its_full_history():
    """Uniform before, exactly; one missing loss of one level is enough."""
    for table in (np.full((6, REMEMBERED), np.nan), full_history(6), np.zeros((6, REMEMBERED))):
        if table.any():
            table[3, 0] = np.nan
        p = history_of(table).probabilities()
        np.testing.assert_allclose(p, 1 / 6, rtol=1e-14)
        assert torch.equal(draw_levels(keys(5, 3), 6, p)[1], torch.ones(5))


def test_a_full_history_gives_the_roots_of_the_mean_squares_and_a_thousandth_to_all():
    history = full_history(12, seed=4)
    history[5] *= -1  # densities give negative losses; their size counts
    root = np.array([math.sqrt(sum(x * x for x in row) / 10) for row in history])
    found = history_of(history).probabilities().numpy()
    np.testing.assert_allclose(found, 0.999 * root / root.sum() + 0.001 / 12, rtol=1e-12)
    assert found.sum() == pytest.approx(1, abs=1e-14)
    assert UNIFORM_SHARE == 1e-3
    history[2] = 0
    assert float(history_of(history).probabilities()[2]) == pytest.approx(0.001 / 12, rel=1e-12)  # never left out


def test_a_history_begins_empty_and_keeps_the_last_ten_losses_of_each_level():
    history = LossHistory(4, torch.device("cpu"))
    assert history.table().shape == (4, 10)
    assert history.table().isnan().all()
    for number in range(12):
        history.remember(torch.tensor([1, 4]), torch.tensor([float(number), 100.0 + number]), SOUND)
        history.remember(torch.tensor([2]), torch.tensor([1.0]), ~SOUND)
    found = history.table().numpy()
    np.testing.assert_array_equal(found[0], np.arange(2.0, 12))
    np.testing.assert_array_equal(found[3], np.arange(102.0, 112))
    assert np.isnan(found[1:3]).all()


def test_a_level_met_twice_in_a_batch_remembers_both_losses_in_order():
    history = LossHistory(2, torch.device("cpu"))
    history.remember(torch.tensor([2, 1, 2, 2]), torch.tensor([5.0, 6.0, 7.0, 8.0]), SOUND)
    np.testing.assert_array_equal(history.table()[1], [*[np.nan] * 7, 5, 7, 8])
    np.testing.assert_array_equal(history.table()[0], [*[np.nan] * 9, 6])


def test_a_history_is_that_of_losses_added_one_by_one():
    """Batches of random levels, some met more often than a ring holds, some left out; restored half-way."""
    rng, history, plain = (
        np.random.default_rng(0),
        LossHistory(3, torch.device("cpu")),
        [[np.nan] * 10 for _ in range(3)],
    )
    for number in range(40):
        t, losses = rng.integers(1, 4, size=rng.integers(1, 50)), rng.standard_normal(50)
        history.remember(torch.from_numpy(t), torch.from_numpy(losses[: len(t)]), torch.tensor(number % 5 != 4))
        for level, loss in zip(t, losses[: len(t)] if number % 5 != 4 else [], strict=False):
            plain[level - 1] = [*plain[level - 1][1:], loss]
        np.testing.assert_array_equal(history.table(), plain)
        if number == 20:
            history = history_of(history.table().numpy())


@pytest.mark.parametrize("part", [1, 7, 64])
def test_levels_do_not_depend_on_the_split_of_a_batch(part: int):
    whole, p = keys(64), history_of(full_history(20)).probabilities()
    for probabilities in (None, p):
        drawn = [draw_levels(some, 20, probabilities)[0] for some in (whole, *whole.split(part))]
        assert torch.equal(drawn[0], torch.cat(drawn[1:]))
