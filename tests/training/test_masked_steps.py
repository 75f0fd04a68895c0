"""A step whose loss or gradient is not finite changes nothing but the clock, on every device."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from planted import FAULTS, plant

from ddpm.data.stream import Batch
from ddpm.model.recipe import make_recipe
from ddpm.training.learner import Learner
from scorings import RECIPE, merged, pixels

CPU = torch.device("cpu")
SHORT = make_recipe(merged(RECIPE, {"batch_size": 4, "training": {"warmup_images": 8, "ema_decay": 0.9}}))
IMPORTANCE = make_recipe(merged(RECIPE, {"process": {"steps": 3}, "objective": {"levels": "importance"}}))


def batch(number: int) -> Batch:
    return Batch(torch.from_numpy(pixels(4, (1, 4, 4), number)), None, 4 * number, np.arange(4))


def learned(learner: Learner) -> dict[str, torch.Tensor]:
    """Weights, their EMA and the optimiser's numbers."""
    found = {f"{kind}/{name}": w for kind, state in learner.weights().items() for name, w in state.items()}
    moments = learner.optimiser.state_dict()["state"]
    found |= {f"{number}/{name}": value for number, state in moments.items() for name, value in state.items()}
    return copy.deepcopy(found)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(params=[(), ("cpu",)], ids=["the host reads the flag", "the device masks the step"])
def masked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddpm.training.learner.MASKED", request.param)


@pytest.mark.usefixtures("masked")
@pytest.mark.parametrize("name", FAULTS)
def test_such_a_step_leaves_weights_moments_and_ema_and_the_next_one_is_as_if_it_had_not_been(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    plant(monkeypatch, FAULTS[name], lambda learner: learner.images_seen == 12)
    learner = Learner(SHORT, CPU)
    for number in range(3):
        learner.step(batch(number))
    before = learned(learner)
    learner.step(batch(3))
    assert same(learned(learner), before)
    assert (learner.images_seen, learner.updates) == (16, 4)
    other = Learner(SHORT, CPU)
    state = learner.state() | {"losses": [], "norms": [], "faults": []}
    other.restore(copy.deepcopy(learner.weights()), copy.deepcopy(state))
    for each in (learner, other):
        each.step(batch(4))
    assert same(learned(learner), learned(other))
    assert not same(learned(learner), before)
    assert learner.finite()


@pytest.mark.usefixtures("masked")
def test_the_first_step_can_be_left_out_as_well(monkeypatch: pytest.MonkeyPatch):
    plant(monkeypatch, FAULTS["a gradient"], lambda learner: learner.images_seen == 0)
    learner = Learner(SHORT, CPU)
    before = learned(learner)
    learner.step(batch(0))
    after = learned(learner)
    assert all(torch.equal(after[name], before[name]) for name in before)
    learner.step(batch(1))
    learner.step(batch(2))
    assert learner.finite()


def test_steps_that_the_device_masks_are_those_of_the_host_up_to_rounding(monkeypatch: pytest.MonkeyPatch):
    """Adam's own rounding, and that of the EMA, on weights of size 1 and steps of 1e-3."""
    plain = Learner(SHORT, CPU)
    monkeypatch.setattr("ddpm.training.learner.MASKED", ("cpu",))
    fused = Learner(SHORT, CPU)
    assert (plain.fused, fused.fused) == (None, True)
    for number in range(6):
        for each in (plain, fused):
            each.step(batch(number))
    ours, theirs = learned(plain), learned(fused)
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < 1e-4
    assert not same(ours, learned(Learner(SHORT, CPU)))


@pytest.mark.parametrize("devices", [((), ("cpu",)), (("cpu",), ())], ids=["to a masking device", "from one"])
def test_a_run_moves_between_devices_of_both_kinds(devices: tuple, monkeypatch: pytest.MonkeyPatch):
    learners = []
    for masking in devices:
        monkeypatch.setattr("ddpm.training.learner.MASKED", masking)
        learners.append(Learner(SHORT, CPU))
    first, second = learners
    for number in range(2):
        first.step(batch(number))
    second.restore(first.weights(), first.state())
    before = learned(second)
    second.step(batch(2))
    assert not same(learned(second), before)
    assert second.optimiser.param_groups[0]["fused"] == second.fused


@pytest.mark.usefixtures("masked")
@pytest.mark.parametrize(
    ("name", "levels", "loss"),
    [("one image's loss", 1, "nan"), ("a gradient", 0, None), ("a loss that is infinite", 4, "inf")],
)
def test_what_was_left_out_is_told_with_images_levels_and_norm(
    name: str, levels: int, loss: str | None, monkeypatch: pytest.MonkeyPatch
):
    plant(monkeypatch, FAULTS[name], lambda learner: learner.images_seen in (4, 12))
    learner = Learner(SHORT, CPU)
    for number in range(5):
        learner.step(batch(number))
    faults = learner.faults()
    assert [fault["images"] for fault in faults] == [8, 16]
    for fault in faults:
        assert 1 <= len(fault["levels"]) <= levels if levels else fault["levels"] == []
        assert all(1 <= level <= 12 for level in fault["levels"])
        assert fault["gradient_norm"] in ("nan", "inf")
        assert fault["loss"] == loss if loss else math.isfinite(fault["loss"])
    kept = [float(loss) for loss in learner.losses if math.isfinite(loss)]
    assert learner.mean_loss() == pytest.approx(np.mean(kept), rel=1e-12)
    restored = Learner(SHORT, CPU)
    restored.restore(learner.weights(), learner.state())
    assert restored.faults() == faults
    assert restored.mean_norm() == learner.mean_norm()
    learner.take_loss()
    assert learner.faults() == []
    assert len(faults) == 2


def test_on_a_masking_device_what_is_kept_of_steps_stays_small(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddpm.training.learner.MASKED", ("cpu",))
    monkeypatch.setattr("ddpm.training.learner.KEPT_STEPS", 3)
    plant(monkeypatch, FAULTS["a loss that is NaN"], lambda learner: learner.images_seen == 4)
    learner = Learner(SHORT, CPU)
    for number in range(5):
        learner.step(batch(number))
        assert len(learner._steps) < 3
    assert [fault["images"] for fault in learner.faults()] == [8]


@pytest.mark.usefixtures("masked")
def test_levels_are_not_drawn_by_losses_that_were_left_out(monkeypatch: pytest.MonkeyPatch):
    plant(monkeypatch, FAULTS["a gradient"], lambda learner: learner.images_seen == 4)
    learner = Learner(IMPORTANCE, CPU)
    learner.step(batch(0))
    before = learner.levels.history.table()
    learner.step(batch(1))
    np.testing.assert_array_equal(learner.levels.history.table(), before)


@pytest.mark.parametrize("kind", ["raw", "ema"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_weight_that_is_no_number_is_noticed(kind: str, value: float):
    learner = Learner(SHORT, CPU)
    assert learner.finite()
    list(learner.weights()[kind].values())[-1].view(-1)[-1] = value
    assert not learner.finite()
