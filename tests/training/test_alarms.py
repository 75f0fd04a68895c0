"""What a run names and does not stop for: silent on every shipped recipe, and heard where a fault was planted."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import Fault, plant

import ddpm
from ddpm.base.progress import Progress
from ddpm.model.recipe import make_recipe, recipe_names
from ddpm.training.learner import Learner
from ddpm.training.loop import train
from ddpm.training.run_folder import RunFolder
from ddpm.training.watch import BLOCK, BLOCKS, GROWTH, KEPT, LEAST, LOOK_BACK, RISE, VARIATION, new_alarms
from scorings import RECIPE, image_set, merged, pixels

pytestmark = pytest.mark.usefixtures("quick_runs")

PROJECT = Path(__file__).resolve().parents[2]
IMAGES = image_set(pixels(20, (1, 4, 4)))
EVERY = {"train_images": 800, "training": {"log_images": 40}}


class Warned(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def say(self, sentence: str) -> None:
        if sentence.startswith("Warning"):
            self.warnings.append(sentence)


def lines(losses: Sequence[float | None], **more: Sequence[float]) -> list[dict[str, Any]]:
    found = [{"images": 10 * k, "loss": loss} for k, loss in enumerate(losses, 1)]
    return [line | {key: values[k] for key, values in more.items()} for k, line in enumerate(found)]


def alarms(found: list[dict[str, Any]], warmup: int = 0) -> list[tuple[int, str]]:
    """Every alarm of a run with its line's images, as the run would give it from the lines it keeps."""
    heard = []
    for k in range(1, len(found) + 1):
        heard += [(found[k - 1]["images"], sentence) for sentence in new_alarms(found[:k][-KEPT:], warmup)]
    return heard


# ---- the thresholds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_a_loss_is_a_sudden_rise_beyond_twice_the_largest_of_the_lines_before(factor: float):
    steady = [0.1, 0.11, 0.1, 0.09, 0.1, 0.1]
    heard = alarms(lines([*steady, 0.11 * RISE * factor, 0.3, 0.3, 0.3]))
    assert [images for images, _ in heard] == ([70] if factor > 1 else [])  # it stays up, and is named once
    assert all("the loss rose to" in sentence for _, sentence in heard)


def test_a_noisy_loss_rises_by_more_than_its_noise():
    noise = np.random.default_rng(0).lognormal(0, 0.3, 2000)  # lines of one batch of a few images vary like this
    assert alarms(lines(noise.tolist())) == []
    assert len(alarms(lines([*noise[:20].tolist(), 6.0]))) == 1


def test_a_loss_is_not_judged_by_too_few_lines_nor_where_there_was_none():
    assert alarms(lines([0.1] * (LEAST - 1) + [9.0])) == []
    assert alarms(lines([None] * 8 + [9.0])) == []
    assert alarms(lines([0.1] * 6 + [None])) == []


def test_an_output_is_constant_below_its_threshold_and_after_the_warm_up():
    flat = [0.9 * VARIATION] * LOOK_BACK
    stds = [1.0, *flat, *flat, 1.0, *flat[1:], 1.1 * VARIATION]
    found = lines([1.0] * len(stds), prediction_std=stds)
    assert [images for images, _ in alarms(found)] == [10 * (1 + LOOK_BACK)]
    assert "predicts the same everywhere at 90 images" in alarms(found)[0][1]
    assert alarms(found[: 1 + LOOK_BACK], warmup=20) == []


@pytest.mark.parametrize(("growth", "heard"), [(1.05 * GROWTH, 1), (0.95 * GROWTH, 0)])
def test_a_gradient_norm_grows_steadily_if_every_block_is_above_the_one_before(growth: float, heard: int):
    count = BLOCK * BLOCKS
    steps = [growth ** (k // BLOCK / (BLOCKS - 1)) for k in range(count)]
    found = alarms(lines([1.0] * count, gradient_norm=steps))
    assert len(found) == heard
    assert all("grows steadily" in sentence for _, sentence in found)
    assert alarms(lines([1.0] * count, gradient_norm=steps), warmup=10) == []
    level = [*steps[: 2 * BLOCK], *steps[:BLOCK], *steps[-BLOCK:]]
    assert alarms(lines([1.0] * count, gradient_norm=level)) == []


def test_lines_of_older_versions_are_judged_by_what_they_have():
    assert alarms(lines([0.1] * 30)) == []


# ---- planted faults -------------------------------------------------------------------------------------------------


def grown(learner: Learner, losses: torch.Tensor) -> torch.Tensor:
    return losses * 1.04 ** (learner.images_seen / 8)


def blown_up(learner: Learner, losses: torch.Tensor) -> torch.Tensor:
    """The next step meets other weights."""
    for parameter in learner.network.parameters():
        parameter.data.add_(3.0)
    return losses


def dead(learner: Learner, losses: torch.Tensor) -> torch.Tensor:
    """From the next step on the last layer meets nothing but zeros."""
    learner.network.conv_out.register_forward_pre_hook(lambda layer, given: (0 * given[0],))
    return losses


PLANTED: dict[str, tuple[Fault, int, str]] = {
    "weights that are blown up": (blown_up, 400, "the loss rose to"),
    "an output that is dead": (dead, 400, "predicts the same everywhere"),
    "a gradient that grows": (grown, 0, "norm grows steadily"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_named_once_written_down_and_does_not_stop_the_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fault, begin, words = PLANTED[name]
    until = math.inf if fault is grown else begin + 8
    plant(monkeypatch, fault, lambda learner: begin <= learner.images_seen < until)
    heard = Warned()
    train(make_recipe(merged(RECIPE, EVERY)), IMAGES, tmp_path / "run", progress=heard)
    found = [sentence for sentence in heard.warnings if words in sentence]
    assert len(found) == 1
    told = [line for line in RunFolder(tmp_path / "run").metrics.lines() if "warnings" in line]
    assert any(words in sentence for line in told for sentence in line["warnings"])
    assert all(line["images"] > begin for line in told)


def steeper(learner: Learner, losses: torch.Tensor) -> torch.Tensor:
    """The same losses, with gradients that grow."""
    return losses.detach() + grown(learner, losses - losses.detach())


def test_a_gradient_may_grow_where_learned_uncertainty_divides_by_losses_that_fall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plant(monkeypatch, steeper, lambda learner: True)
    heard, changes = Warned(), {"objective": {"weighting": "uncertainty"}}
    train(make_recipe(merged(merged(RECIPE, EVERY), changes)), IMAGES, tmp_path / "run", progress=heard)
    norms = [line["gradient_norm"] for line in RunFolder(tmp_path / "run").metrics.lines()]
    assert len(alarms(lines([1.0] * len(norms), gradient_norm=norms))) == 1
    assert heard.warnings == []


def test_a_rate_that_moves_nothing_is_named(tmp_path: Path):
    heard = Warned()
    train(make_recipe(merged(RECIPE, EVERY) | {"learning_rate": 1e-12}), IMAGES, tmp_path / "run", progress=heard)
    (warning,) = heard.warnings
    assert "predicts the same everywhere" in warning
    assert "learning_rate" in warning


def test_a_resumed_run_does_not_name_it_again(tmp_path: Path):
    quiet = merged(RECIPE, EVERY) | {"learning_rate": 1e-12}
    train(make_recipe(quiet | {"train_images": 400}), IMAGES, tmp_path / "run")
    heard = Warned()
    train(make_recipe(quiet), IMAGES, tmp_path / "run", progress=heard)
    assert heard.warnings == []


# ---- silence --------------------------------------------------------------------------------------------------------


def test_the_curves_of_runs_that_were_measured_are_silent():
    curve = json.loads((PROJECT / "results" / "fashion-mnist.json").read_text(encoding="utf-8"))["loss_curve"]
    assert len(curve) > 100
    assert alarms([{"images": images, "loss": loss} for images, loss in curve]) == []


def short(name: str, steps: int) -> tuple[Any, int]:
    """A shipped recipe on digits: its own rate, EMA and objective; a short warm-up, a narrow network."""
    batch, levels = 16, len(ddpm.recipe(name).network.multipliers)
    log = 3 * batch
    changes = {
        "data": "digits:train",
        "size": str(max(8, 2 ** (levels - 1))),
        "device": "cpu",
        "train_images": steps * batch,
        "batch_size": batch,
        "image": {"channels": 1},
        "network": {"channels": 8, "groups": 4, "space_to_depth": 1, "classes": 0, "blocks": 1},
        "training": {"warmup_images": steps * batch // 10, "log_images": log, "sample_images": 10**9},
    }
    return ddpm.recipe(name, **changes), steps * batch // log


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "digits" else pytest.mark.slow) for name in recipe_names()]
)
def test_short_versions_of_the_shipped_recipes_are_silent(name: str, tmp_path: Path):
    found, count = short(name, 60 if name == "digits" else 500)
    heard = Warned()
    ddpm.train(found, out=tmp_path / "run", progress=heard)
    told = RunFolder(tmp_path / "run").metrics.lines()
    assert len(told) == count
    assert heard.warnings == []
    assert told[-1]["prediction_std"] > 30 * VARIATION
