"""A run that was stopped and started again is, bit for bit, the run that never was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

if not hasattr(os, "fork"):
    pytest.skip("signals and fork are needed", allow_module_level=True)

from crashing import (
    BEFORE,
    PATIENCE,
    contents,
    differences,
    finished,
    losses,
    metrics,
    nursery,
    saved,
    snapshot,
    start_console,
    train_command,
    unfinished,
)

import ddpm

# Every random source at once, labels that are dropped, and none but order, levels and noise, with the other kind of
# EMA and more averages.
VARIANTS: dict[str, dict[str, Any]] = {
    "classes, dropout and flips": {},
    "classes with label drop-out": {"network": {"dropout": 0.0}, "training": {"label_dropout": 0.3}},
    "without classes, dropout and flips": {
        "network": {"classes": 0, "dropout": 0.0},
        "objective": {"prediction": "v"},
        "training": {"flip": False, "ema_ramp": False, "ema_decay": 0.9, "ema_lengths": [0.05, 0.25]},
    },
}
# One log line a step, so that a test sees how far a process is.
WATCHED = {"training": {"log_images": 12}}


def train(run: Path, **changes: Any) -> Any:
    """Train to the end in one process."""
    ended = nursery().run(train_command(run.name, **changes), cwd=run.parent)
    assert ended.code == 0, ended.err
    return ended


# ---- stopped by its own end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_run_equals_uninterrupted_run(variant: str, tmp_path: Path):
    run, changes = tmp_path / "run", VARIANTS[variant]
    train(run, **changes | {"train_images": 100})
    assert int(saved(run)[-1].name) == 108  # the batch in hand ends whole
    ended = train(run, **changes)
    assert ended.resumed_at == 108
    assert differences(run, nursery().reference(**changes)) == []


def test_the_comparison_sees_another_seed_another_length_and_one_changed_bit(tmp_path: Path):
    """Guards every test that says `differences(...) == []`."""
    changes = {"train_images": 36}
    reference, run = nursery().reference(**changes), tmp_path / "run"
    train(run, **changes, seed=6)
    found = differences(run, reference)
    for part in ("/weights/averaged/", "/weights/raw/", "/training/optimiser/state/"):
        assert any(line.startswith(part) for line in found)
    assert any(line.startswith("the metrics differ") for line in found)
    assert found[-2:] == ["the last grids differ", "the loss curves differ"]
    one = contents(saved(reference)[-1])
    names = {name.split("/")[1] for name in one}
    assert names == {"weights", "training", "config"}
    assert one["/config/class_names/9"] == "9"


def test_a_run_continued_in_many_short_pieces_equals_one_long_run(tmp_path: Path):
    """Each piece ends off every interval, so log lines and checkpoints must not move."""
    run = tmp_path / "run"
    for images in (1, 65, 131, 200, 250):
        train(run, train_images=images)
    assert differences(run, nursery().reference()) == []


def test_epochs_order_flips_and_levels_do_not_repeat_after_resuming(tmp_path: Path):
    """A loss measured after resuming equals none measured before: positions go on, they do not start over."""
    run = tmp_path / "run"
    train(run, **WATCHED, train_images=96)
    train(run, **WATCHED, train_images=192)
    seen = [loss for _, loss, _ in losses(run)]
    assert len(set(seen)) == len(seen) == 16


# ---- stopped by a signal --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "images"),
    [(signal.SIGINT, 24), (signal.SIGTERM, 120)],
    ids=["Ctrl-C before the first checkpoint", "SIGTERM after it"],
)
def test_stopped_by_a_signal_it_saves_and_goes_on_to_the_same_end(number: signal.Signals, images: int, tmp_path: Path):
    run, command = tmp_path / "run", train_command("run", **WATCHED)
    child = nursery().start(command, cwd=tmp_path, pace=0.01)
    child.wait_until(lambda: bool(metrics(run)) and metrics(run)[-1]["images"] >= images)
    child.send(number)
    stopped = child.end()
    assert stopped.code == 128 + number, stopped.err
    assert "Traceback" not in stopped.err
    said = [line for line in stopped.err.splitlines() if not line.startswith("Training:")]
    assert len(said) == 5, said  # what the data hold, what the loss says, and one sentence
    assert "stopped at" in said[-1]
    assert unfinished(run) == []
    reached = int(saved(run)[-1].name)
    assert images <= reached < 250
    assert f"{reached:,} images" in said[-1]
    assert ddpm.load(run).images_seen == reached
    assert losses(run) == [line for line in losses(nursery().reference(**WATCHED)) if line[0] <= reached]
    ended = train(run, **WATCHED)
    assert ended.resumed_at == reached  # nothing is lost
    assert differences(run, nursery().reference(**WATCHED)) == []


def test_a_second_ctrl_c_while_saving_leaves_the_run_usable(tmp_path: Path):
    run, command = tmp_path / "run", train_command("run", **WATCHED)
    child = nursery().start(command, cwd=tmp_path, pace=0.05)
    child.wait_until(lambda: len(metrics(run)) >= 8)
    child.send(signal.SIGINT)
    # The checkpoint of this moment is being written: its name belongs to no interval.
    child.wait_until(lambda: any(name.endswith("config.json") for name in unfinished(run)))
    child.send(signal.SIGINT)
    stopped = child.end()
    assert stopped.code == 130, stopped.err
    assert "Traceback" not in stopped.err
    assert ddpm.load(run).images_seen > 0
    assert (train(run, **WATCHED).resumed_at or 0) > 0
    assert differences(run, nursery().reference(**WATCHED)) == []


def test_the_installed_command_stopped_by_ctrl_c_leaves_with_130_and_goes_on(tmp_path: Path):
    """A process as a user starts it, not a forked one; the one after it reads what any process reads."""
    run, command = tmp_path / "run", train_command("run", **WATCHED)
    process = start_console(command, tmp_path)
    deadline = time.monotonic() + PATIENCE
    while not metrics(run):
        assert process.poll() is None, finished(process)
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    stopped = finished(process)
    assert stopped.code == 130, stopped.err
    begun = ("digits:train[:100] (", "split train of train, test;", "loss: the mean", "Compare losses only")
    expected = (*begun, "Training:", "On this machine", "Samples become", "ddpm: stopped at")
    assert [line for line in stopped.err.splitlines() if not line.startswith(expected)] == []
    assert 0 < ddpm.load(run).images_seen < 250
    ended = train(run, **WATCHED)
    assert ended.resumed_at == int(stopped.err.split("stopped at ")[1].split(" ")[0])
    assert differences(run, nursery().reference(**WATCHED)) == []


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many events a run of 30 images has."""
    folder = tmp_path_factory.mktemp("events")
    command = train_command("run", train_images=30)
    assert nursery().run(command, cwd=folder, record=folder / "events").code == 0
    return len((folder / "events").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("event", [0, 1, -1], ids=["making the folder", "writing the recipe", "at the end"])
def test_ctrl_c_outside_the_loop_is_130_and_one_sentence_as_well(event: int, events: int, tmp_path: Path):
    """Before the first step and after the last one nothing waits for the end of a step."""
    run, changes = tmp_path / "run", {"train_images": 30}
    command = train_command("run", **changes)
    stopped = nursery().run(command, cwd=tmp_path, die=(range(events)[event], BEFORE), die_of=signal.SIGINT)
    assert stopped.code == 130, stopped
    assert "Traceback" not in stopped.err
    assert [line for line in stopped.err.splitlines() if line.startswith("ddpm:")] == stopped.err.splitlines()[-1:]
    assert train(run, **changes).code == 0
    assert differences(run, nursery().reference(**changes)) == []


# ---- what does not change -------------------------------------------------------------------------------------------


def test_a_finished_run_started_again_does_nothing_and_says_so(tmp_path: Path):
    run = shutil.copytree(nursery().reference(), tmp_path / "run")
    before = snapshot(run)
    ended = train(run)
    assert snapshot(run) == before
    told = (ended.out + ended.err).lower()
    assert any(word in told for word in ("already", "complete", "finished", "nothing")), told


def test_pieces_of_a_run_record_the_recipe_they_were_trained_by(tmp_path: Path):
    run = tmp_path / "run"
    train(run, train_images=20)
    train(run, train_images=36)
    held = json.loads((run / "recipe.json").read_text(encoding="utf-8"))["recipe"]["train_images"]
    told = json.loads((saved(run)[-1] / "config.json").read_text(encoding="utf-8"))["recipe"]["train_images"]
    assert held == told == 36
