"""What may differ when a run is resumed: freely, with --allow-change, or never."""

from __future__ import annotations

import contextlib
import functools
import operator
from pathlib import Path
from typing import Any

import pytest
import torch
from crashing import contents, saved
from planted import first_of
from typer.testing import CliRunner

import ddpm
from ddpm.base.fields import _keys
from ddpm.base.progress import Progress
from ddpm.cli import app
from ddpm.data.stream import batches
from ddpm.errors import InputError
from ddpm.model.checkpoint import read_config, read_kinds, read_training
from ddpm.model.recipe import Recipe, changed, make_recipe
from ddpm.training.changes import AFTERWARDS, CHANGEABLE, FREE, why_not
from ddpm.training.learner import Learner
from ddpm.training.loop import train
from ddpm.training.run_folder import RunFolder
from scorings import RECIPE, image_set, merged, pixels

pytestmark = pytest.mark.usefixtures("quick_runs")

IMAGES, HELD_OUT = image_set(pixels(20, (1, 4, 4))), image_set(pixels(5, (1, 4, 4), 1), name="held out")
BEGUN = make_recipe(merged(RECIPE, {"train_images": 24, "training": {"ema_decay": 0.9, "checkpoint_images": 16}}))


def table(key: str, value: Any) -> dict[str, Any]:
    """A dotted key as a nested table."""
    *above, last = key.split(".")
    return {above[0]: {last: value}} if above else {last: value}


def longer(**changes: Any) -> Recipe:
    return changed(BEGUN, merged({"train_images": 48}, changes))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of 24 images."""
    train(BEGUN, IMAGES, tmp_path / "run")
    return RunFolder(tmp_path / "run")


# ---- freely ---------------------------------------------------------------------------------------------------------

OTHERS = {
    "device": "auto",
    "validation": "elsewhere",
    "micro_batch": 2,
    "checkpointing": True,
    "compile": "off",
    "training.log_images": 8,
    "training.sample_images": 16,
    "training.checkpoint_images": 8,
    "training.validate_images": 8,
    "training.validation_calls": 512,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the uninterrupted run learned, the list of losses since a log line aside."""
    folder = tmp_path_factory.mktemp("changes") / "whole"
    train(longer(), IMAGES, folder)
    return learned(folder)


def learned(run: Path) -> dict[str, Any]:
    kept = ("/weights/", "/training/optimiser/state", "/training/images_seen", "/training/updates")
    return {name: value for name, value in contents(saved(run)[-1]).items() if name.startswith(kept)}


@pytest.mark.parametrize("key", first_of(OTHERS, ("validation", "training.log_images", "training.checkpoint_images")))
def test_keys_that_change_nothing_of_what_is_learned_change_freely(key: str, run: RunFolder, whole: dict[str, Any]):
    train(longer(**table(key, OTHERS[key])), IMAGES, run.path, held_out=HELD_OUT if key == "validation" else None)
    found = learned(run.path)
    if key == "micro_batch":  # sums in another order: test_parts_of_a_batch says how far apart
        found, whole = (
            {name: one[name] for name in one if "seen" in name or "updates" in name} for one in (found, whole)
        )
    assert found == whole
    assert not run.changes.file.exists()


# ---- with --allow-change --------------------------------------------------------------------------------------------

CHANGED = {
    "seed": 7,
    "batch_size": 6,
    "learning_rate": 2e-3,
    "precision": "bfloat16",
    "network.dropout": 0.2,
    "objective.loss": "bound",
    "objective.weighting": "uncertainty",
    "objective.levels": "importance",
    "objective.level_mean": -1.0,
    "objective.level_std": 1.5,
    "training.warmup_images": 100,
    "training.cooldown": 0.25,
    "training.clip_norm": 0.1,
    "training.flip": True,
    "training.ema_decay": 0.5,
    "training.ema_ramp": False,
    "training.ema_lengths": [0.1],
}


@pytest.mark.parametrize("key", first_of(CHANGED, ("seed", "batch_size", "learning_rate", "objective.weighting")))
def test_a_key_that_changes_what_is_learned_is_refused_unless_that_is_wanted_and_then_written_down(
    key: str, run: RunFolder
):
    """What follows is what a learner at that checkpoint learns by the new recipe from the stream at 24 images."""
    wanted = longer(**table(key, CHANGED[key]))
    with pytest.raises(InputError, match=rf"holds a run with {key} = .*; --allow-change goes on") as refused:
        train(wanted, IMAGES, run.path)
    assert f", not {CHANGED[key]}; " in str(refused.value)
    assert not run.changes.file.exists()
    learner = Learner(wanted, torch.device("cpu"))
    learner.restore(*held(run))
    stream = batches(IMAGES, seed=wanted.seed, position=24, batch_size=wanted.batch_size, flip=wanted.training.flip)
    with contextlib.closing(stream):
        while learner.images_seen < 48:
            learner.step(next(stream))
    heard: list[str] = []
    hearing = Progress()
    hearing.say = heard.append  # type: ignore[method-assign]
    train(wanted, IMAGES, run.path, allow_change=True, progress=hearing)
    old = functools.reduce(operator.getitem, key.split("."), BEGUN.model_dump(mode="json"))
    (line,) = run.changes.lines()
    assert line == {"images": 24, "key": key, "from": old, "to": CHANGED[key], "by": "--allow-change"}
    assert f"{key} = {CHANGED[key]} from here on, {old} before{AFTERWARDS.get(key, '')}." in heard
    assert saved(run.path)[-1].name == "0000000048"
    found, _ = held(run)
    for kind, weights in learner.weights().items():
        assert all(torch.equal(found[kind][name], weight) for name, weight in weights.items())


def held(run: RunFolder) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Weights and training state of the newest checkpoint."""
    config = read_config(saved(run.path)[-1])
    return read_kinds(saved(run.path)[-1], config), read_training(saved(run.path)[-1], config)


def test_a_changed_key_is_the_runs_own_from_then_on(run: RunFolder):
    train(longer(learning_rate=2e-3), IMAGES, run.path, allow_change=True)
    train(longer(learning_rate=2e-3, train_images=56), IMAGES, run.path)
    assert len(run.changes.lines()) == 1
    with pytest.raises(InputError, match="--allow-change"):
        train(longer(train_images=64), IMAGES, run.path)


def test_a_change_that_was_never_saved_is_replaced_by_the_next_one(run: RunFolder):
    """Two calls from one checkpoint: the first one died before it saved."""
    run.record_changes(BEGUN, longer(learning_rate=5e-3), 24)
    run.begin(longer(learning_rate=5e-3), IMAGES, 24)
    train(longer(learning_rate=4e-3), IMAGES, run.path, allow_change=True)
    assert [(line["images"], line["to"]) for line in run.changes.lines()] == [(24, 4e-3)]


def test_changes_of_a_future_that_was_never_saved_are_forgotten(run: RunFolder):
    train(longer(learning_rate=2e-3), IMAGES, run.path, allow_change=True)
    run.forget_after(16)
    assert run.changes.lines() == []


def test_the_command_line_and_show_tell_of_it(tmp_path: Path):
    small = [
        "--set",
        "network.channels=4",
        "--set",
        "network.groups=2",
        "--set",
        "batch_size=8",
        "--out",
        str(tmp_path / "run"),
    ]
    begin = ["train", "digits", "--data", "digits:train[:20]", *small]
    runner = CliRunner()
    assert runner.invoke(app, [*begin, "--set", "train_images=16"]).exit_code == 0
    more = [*begin, "--set", "train_images=32", "--set", "learning_rate=0.0002"]
    refused = runner.invoke(app, more)
    assert "--allow-change" in str(refused.exception)
    assert runner.invoke(app, [*more, "--allow-change"]).exit_code == 0
    shown = runner.invoke(app, ["show", str(tmp_path / "run")]).output
    assert "changed       learning_rate = 0.0002 from 16 images on, 0.001 before, by --allow-change\n" in shown
    (line,) = ddpm.show(tmp_path / "run")["changes"]
    assert (line["images"], line["to"]) == (16, 2e-4)
    assert ddpm.show("linear")["changes"] == []


def test_python_takes_it_as_a_word(tmp_path: Path):
    tiny = {"network": {"channels": 4, "groups": 2}, "batch_size": 8, "data": "digits:train[:20]"}
    ddpm.train(ddpm.recipe("digits", train_images=16, **tiny), out=tmp_path / "run", progress=False)
    other = ddpm.recipe("digits", train_images=32, learning_rate=2e-4, **tiny)
    with pytest.raises(InputError, match="--allow-change"):
        ddpm.train(other, out=tmp_path / "run", progress=False)
    ddpm.train(other, out=tmp_path / "run", progress=False, allow_change=True)
    assert ddpm.load(tmp_path / "run", device="cpu").recipe.learning_rate == 2e-4


# ---- never ----------------------------------------------------------------------------------------------------------

NEVER = [
    ("network.multipliers", [1, 1], "network's shape"),
    ("network.groups", 4, "network's shape"),
    ("network.blocks", 2, "network's shape"),
    ("network.linear", "corrected", "network's shape"),
    ("process.steps", 13, "noise levels"),
    ("process.variance", "large", "noise levels"),
    ("objective.prediction", "v", "prediction"),
    ("fit", "resize", "what the images are"),
    ("on_bad_image", "skip", "what the images are"),
]


@pytest.mark.parametrize(("key", "value", "reason"), NEVER, ids=[key for key, _, _ in NEVER])
def test_what_cannot_change_is_refused_with_the_reason_whatever_is_allowed(
    key: str, value: Any, reason: str, run: RunFolder
):
    with pytest.raises(InputError, match=rf"holds a run with {key} = .*{reason}, so it cannot change: another --out"):
        train(longer(**table(key, value)), IMAGES, run.path, allow_change=True)


def test_other_images_are_refused_whatever_is_allowed(run: RunFolder):
    other = image_set(pixels(20, (1, 4, 4), 9), name="other images")
    with pytest.raises(InputError, match="other images"):
        train(longer(), other, run.path, allow_change=True)


@pytest.mark.parametrize(("old", "new", "lasts"), [(0.0, 0.1, True), (0.1, 0.0, True), (0.1, 0.2, False)])
def test_label_drop_out_begins_and_ends_with_a_class_of_the_network(old: float, new: float, lasts: bool):
    assert (why_not("training.label_dropout", old, new) is not None) == lasts


def test_every_key_has_its_rule():
    """A key that is added later lasts until somebody says otherwise."""
    keys = {key for key in _keys(Recipe) if key not in ("image", "network", "process", "objective", "training")}
    assert keys >= FREE | CHANGEABLE
    assert FREE.isdisjoint(CHANGEABLE)
    lasting = {key for key in keys if why_not(key, 1, 2) is not None}
    assert lasting == keys - FREE - CHANGEABLE
    assert {*OTHERS, "train_images"} == FREE
    assert {*CHANGED, "training.label_dropout"} == CHANGEABLE
