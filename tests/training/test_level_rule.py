"""What each level's losses count: in units, by min-SNR, by learned uncertainty; the optimum is the same for all."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import FAULTS, plant
from tests.training.test_learner import assert_same_state, batch, equal, restored, saved, small, speaking, weights_of
from torch import Tensor, nn

from ddpm.base.units import images_to_x
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.objectives import LEVEL_SAMPLING, WEIGHTINGS, simple_loss
from ddpm.diffusion.process import PREDICTIONS, Process
from ddpm.diffusion.schedule import make_schedule
from ddpm.model.recipe import Recipe
from ddpm.networks.linear import LinearDenoiser
from ddpm.training.learner import Learner
from ddpm.training.levels import KNOTS, MEMORY, LevelRule, Uncertainty

CPU = torch.device("cpu")
SOUND = torch.tensor(True)
STEPS = 6
PROCESS = {"steps": STEPS, "beta_start": 0.02, "beta_end": 0.7}
SCHEDULE = make_schedule(steps=STEPS, beta_start=0.02, beta_end=0.7)


def recipe_of(linear: str = "none", prediction: str = "eps", **objective: object) -> Recipe:
    network = {"linear": linear, "dropout": 0.0}
    training = {"warmup_images": 0}
    return small(process=PROCESS, network=network, training=training, objective={"prediction": prediction} | objective)


# ---- the optimum ----------------------------------------------------------------------------------------------------

NODES, SHARES = np.array([-(3**0.5), 0.0, 3**0.5]), np.array([1 / 6, 2 / 3, 1 / 6])
POWER = 0.3  # variance of the one pixel


class Gains(nn.Module):
    """x times a number for each level."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(STEPS, dtype=torch.float64))

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None, *, drops: Tensor | None = None) -> Tensor:
        return self.gain[time][:, None, None, None] * x


def best_gains(prediction: str) -> np.ndarray:
    """Of x_t in E[target | x_t], for an image N(0, POWER)."""
    a = SCHEDULE.alpha_bar[1:]
    signal, sigma = np.sqrt(a), np.sqrt(1 - a)
    whole = a * POWER + 1 - a
    clean, noise = signal * POWER / whole, sigma / whole
    beta = 1 - a / SCHEDULE.alpha_bar[:-1]
    mean = np.sqrt(SCHEDULE.alpha_bar[:-1]) * beta / (1 - a) * clean
    mean += np.sqrt(1 - beta) * (1 - SCHEDULE.alpha_bar[:-1]) / (1 - a)
    return {"x0": clean, "eps": noise, "v": signal * noise - sigma * clean, "mean": mean}[prediction]


CASES = [
    *itertools.product(("none",), WEIGHTINGS, PREDICTIONS, ("log-normal",)),
    *itertools.product(("corrected", "scalar"), WEIGHTINGS, ("eps",), ("uniform", "log-normal")),
]


@pytest.mark.parametrize(("linear", "weighting", "prediction", "levels"), CASES)
def test_the_optimum_of_every_weighted_objective_is_the_exact_denoiser(
    linear: str, weighting: str, prediction: str, levels: str
):
    """Images N(0, 0.3), a gain a level, expectations by quadrature that is exact for squares.

    A loss is a square in the gain: its least lies where two of its slopes say. The Gaussian to be corrected is wrong.
    """
    gains = Gains()
    network: nn.Module = gains
    if linear != "none":
        network = LinearDenoiser((1, 1, 1), SCHEDULE.log_snr[1:], gains).double()
        network.variance.fill_(0.1)
    rule = LevelRule(recipe_of(linear, prediction, weighting=weighting, levels=levels), network, CPU)
    if rule.uncertainty:
        rule.uncertainty.restore(torch.linspace(-2, 1, STEPS).double())
    t = torch.arange(1, STEPS + 1).repeat_interleave(9)
    x0, noise = (torch.from_numpy(np.tile(some, STEPS)) for some in (np.repeat(NODES, 3), np.tile(NODES, 3)))
    x0, noise = (POWER**0.5 * x0).reshape(-1, 1, 1, 1), noise.reshape(-1, 1, 1, 1)
    share = torch.from_numpy(np.tile(np.outer(SHARES, SHARES).ravel(), STEPS))
    denoiser = Denoiser(network, Process(SCHEDULE), prediction, dtype=torch.float64)
    slopes = []
    for gain in (0.0, 1.0):
        gains.gain.data.fill_(gain)
        losses = simple_loss(denoiser, x0, t, noise=noise, weight=rule.error_weights(t))
        slopes.append(torch.autograd.grad((rule.counted(t, share) * losses).sum(), gains.gain)[0])
    found = (slopes[0] / (slopes[0] - slopes[1])).numpy()
    if linear != "none":  # what the correction's gain makes of the whole
        x = torch.ones(STEPS, 1, 1, 1, dtype=torch.float64)
        gains.gain.data.copy_(torch.from_numpy(found))
        found = network(x, torch.arange(STEPS)).flatten().detach().numpy()
    np.testing.assert_allclose(found, best_gains(prediction), rtol=0, atol=1e-6)  # min-SNR is used in float32


# ---- units ----------------------------------------------------------------------------------------------------------


def images_seen(count: int = 64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(7).uniform(-1, 1, (count, 1, 4, 6)).cumsum(3) / 4)


@pytest.mark.parametrize("linear", ["corrected", "scalar"])
def test_a_unit_is_the_mean_squared_error_of_the_linear_prediction(linear: str):
    """Of 1,600 images of 24 pixels, within five standard errors; in closed form exactly."""
    learner = Learner(recipe_of(linear, weighting="unit"), CPU)
    learner.network.double().measure(images_seen())
    t = torch.arange(1, STEPS + 1)
    found = 1 / learner.levels.error_weights(t)
    power = SCHEDULE.snr[1:, None] * learner.network.variance.flatten().numpy()
    np.testing.assert_allclose(found, (power / (power + 1)).mean(1), rtol=1e-12)
    learner.network.correction = None
    alone = Denoiser(learner.network, Process(SCHEDULE), dtype=torch.float64)
    x0 = images_seen().repeat(25, 1, 1, 1)
    for level in (1, 3, 6):
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(level), dtype=torch.float64)
        losses = simple_loss(alone, x0, torch.full((len(x0),), level), noise=noise)
        error = losses.std().item() / len(x0) ** 0.5
        assert losses.mean().item() == pytest.approx(found[level - 1].item(), abs=5 * error)


def test_without_a_linear_prediction_a_unit_is_the_plain_error():
    assert LevelRule(recipe_of(weighting="unit"), Gains(), CPU).error_weights(torch.arange(1, 7)) is None


@pytest.mark.parametrize("weighting", ["unit", "uncertainty"])
def test_a_network_that_corrects_nothing_loses_one_at_every_level(weighting: str):
    """A new U-Net says almost nothing; what the log tells is the error in units, also where uncertainty weighs."""
    learner = Learner(recipe_of("corrected", weighting=weighting), CPU)
    pixels = torch.from_numpy(((images_seen(512).numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8))
    learner.network.measure(images_to_x(pixels))
    if learner.levels.uncertainty:
        learner.levels.uncertainty.restore(torch.full((STEPS,), 3.0).double())
    _, losses, loss = learner.gradient(replace(batch(0), images=pixels))
    assert loss.item() == pytest.approx(1, abs=5 * losses.std().item() / len(losses) ** 0.5)


# ---- learned uncertainty --------------------------------------------------------------------------------------------


def learned(steps: int, losses: np.ndarray, batches: int, count: int = 1) -> Uncertainty:
    """After batches that hold every level `count` times with each of its losses (T, N)."""
    uncertainty = Uncertainty(steps, CPU)
    t = torch.arange(1, steps + 1).repeat_interleave(losses.shape[1]).repeat(count)
    flat = torch.from_numpy(losses.ravel()).repeat(count)
    for _ in range(batches):
        uncertainty.learn(t, flat, SOUND)
    return uncertainty


@pytest.mark.parametrize(("batches", "count"), [(900, 1), (30, 1000)])
def test_uncertainty_comes_to_rest_where_each_level_counts_one(batches: int, count: int):
    """exp(u) = E loss, for losses over six orders that fluctuate; in small batches and in huge ones alike."""
    means = np.geomspace(1e-4, 1e2, 12)
    losses = means[:, None] * np.array([0.5, 1.0, 1.5])
    found = learned(12, losses, batches, count).weights(torch.arange(1, 13))
    np.testing.assert_allclose(found, 1 / means, rtol=1e-6)


def test_with_fewer_knots_than_levels_the_derivative_of_the_whole_loss_vanishes():
    """exp(-u) loss + u, summed over 200 levels, u linear between its knots: by NumPy's own interpolation."""
    losses = np.exp(np.sin(np.arange(200) / 9))[:, None]
    uncertainty = learned(200, losses, 100, 10)
    u = uncertainty.table().numpy()
    assert u.shape == (KNOTS,)
    knots, levels = np.linspace(1, 200, KNOTS), np.arange(1, 201)

    def whole(u: np.ndarray) -> float:
        here = np.interp(levels, knots, u)
        return float((np.exp(-here) * losses[:, 0] + here).sum())

    np.testing.assert_allclose(
        uncertainty.weights(torch.from_numpy(levels)), np.exp(-np.interp(levels, knots, u)), rtol=1e-12
    )
    slopes = [(whole(u + step) - whole(u - step)) / 2e-5 for step in 1e-5 * np.eye(KNOTS)]
    assert np.abs(slopes).max() < 1e-6


def test_uncertainty_forgets_over_fifty_images():
    one = Uncertainty(STEPS, CPU)
    one.learn(torch.tensor([1]), torch.tensor([51.0]), SOUND)
    assert one.weights(torch.tensor([1])).item() == pytest.approx(1 / 2, rel=1e-12)  # 1 + (51 - 1) / 50
    assert one.weights(torch.tensor([6])).item() == 1
    assert MEMORY == 50


@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_levels_share_the_knots_between_them_and_the_ends_have_their_own(steps: int):
    uncertainty = Uncertainty(steps, CPU)
    u = torch.arange(1.0, len(uncertainty.table()) + 1).double()
    uncertainty.restore(u)
    found = -uncertainty.weights(torch.arange(1, steps + 1)).log()
    assert found[[0, -1]].tolist() == pytest.approx([1, min(steps, KNOTS)], rel=1e-12)
    assert (found.diff() > 0).all()


@pytest.mark.parametrize("levels", LEVEL_SAMPLING)
def test_what_uncertainty_weighs_is_the_gradient_and_what_importance_remembers_but_not_the_loss_told(levels: str):
    """u = ln 2 at every level halves the gradient of "unit"."""
    found = {}
    for weighting in ("unit", "uncertainty"):
        learner = speaking(Learner(recipe_of("corrected", weighting=weighting, levels=levels), CPU), 0.1)
        learner.network.measure(images_seen())
        if learner.levels.uncertainty:
            learner.levels.uncertainty.restore(torch.full((STEPS,), 2.0).log().double())
        t, losses, loss = learner.gradient(batch(0))
        learner.levels.learn(t, losses, SOUND)
        found[weighting] = learner
        found[weighting, "loss"] = loss.item()
    assert found["unit", "loss"] == found["uncertainty", "loss"]
    for one, other in zip(*(found[name].network.parameters() for name in ("unit", "uncertainty")), strict=True):
        assert torch.allclose(0.5 * one.grad, other.grad, rtol=1e-5, atol=1e-7)
    if levels == "importance":
        plain, halved = (found[name].levels.history.table() for name in ("unit", "uncertainty"))
        np.testing.assert_allclose(0.5 * plain, halved, rtol=1e-6)
        assert torch.isfinite(plain).any()


# ---- going on -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("linear", "weighting", "levels"),
    [
        ("none", "min-snr", "uniform"),
        ("corrected", "unit", "importance"),
        ("corrected", "uncertainty", "log-normal"),
        ("scalar", "uncertainty", "importance"),
    ],
)
def test_a_restored_learner_goes_on_bit_equal_with_every_weighting(linear: str, weighting: str, levels: str):
    recipe = recipe_of(linear, weighting=weighting, levels=levels)
    whole = Learner(recipe, CPU)
    if linear != "none":
        whole.network.measure(images_seen())
    for number in range(3):
        whole.step(batch(number))
    second = restored(whole)
    for learner in (whole, second):
        learner.step(batch(3))
    assert equal(weights_of(whole), weights_of(second))
    assert_same_state(whole, second)
    assert (whole.state()["uncertainty"] is not None) == (weighting == "uncertainty")


def test_uncertainty_begins_afresh_where_it_did_not_weigh_before_and_lasts_where_it_did():
    plain, weighed = (Learner(recipe_of("corrected", weighting=name), CPU) for name in ("unit", "uncertainty"))
    for learner in (plain, weighed):
        learner.network.measure(images_seen())
        learner.step(batch(0))
    old = saved(plain)["state"]
    del old["uncertainty"]  # as an older version wrote it
    for state, expected in ((saved(plain)["state"], None), (old, None), (saved(weighed)["state"], weighed)):
        second = Learner(weighed.recipe, CPU)
        second.restore(plain.weights(), state)
        found = second.levels.uncertainty.table()
        assert torch.equal(found, expected.levels.uncertainty.table() if expected else torch.zeros(STEPS).double())
    assert (weighed.levels.uncertainty.table() != 0).any()


@pytest.mark.parametrize("masking", [(), ("cpu",)], ids=["the host reads the flag", "the device masks the step"])
def test_a_step_that_is_left_out_teaches_no_uncertainty(masking: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddpm.training.learner.MASKED", masking)
    plant(monkeypatch, FAULTS["a loss that is NaN"], lambda learner: learner.images_seen == 4)
    learner = Learner(recipe_of(weighting="uncertainty"), CPU)
    learner.step(batch(0))
    before = copy.deepcopy(learner.state()["uncertainty"])
    learner.step(batch(1))
    assert torch.equal(learner.state()["uncertainty"], before)
    learner.step(batch(2))
    assert not torch.equal(learner.state()["uncertainty"], before)
