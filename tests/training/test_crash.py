"""A run that dies at any moment, between any two writes, goes on from its newest whole checkpoint to the same end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

if not hasattr(os, "fork"):
    pytest.skip("SIGKILL and fork are needed", allow_module_level=True)

from crashing import (
    AFTER,
    BEFORE,
    HALF,
    contents,
    differences,
    finished,
    metrics,
    nursery,
    saved,
    snapshot,
    start_console,
    train_command,
    unfinished,
)

import ddpm

BATCH = 12
# Checkpoints at 12, 24 and 36; the third one prunes the first. The last grid is drawn before the last checkpoint.
SHORT = {
    "train_images": 36,
    "process": {"steps": 2},
    "training": {"log_images": 12, "checkpoint_images": 12, "sample_images": 36, "warmup_images": 30},
}
FIRST, OLD, NEW = 12, 24, 36
# Removals inside a folder name the file only, so what belongs to a checkpoint is told by its files' names too.
CHECKPOINT = ("checkpoints", "model.safetensors", "training.pt", "config.json")


@dataclass(frozen=True)
class Event:
    """Something that a run did to its files.

    half  whether it can be caught half way
    done  whether it changed anything: not, say, making a folder that is there
    """

    what: str
    half: bool
    done: bool

    @property
    def phases(self) -> tuple[str, ...]:
        """When to die, so that the disk is left in every state that it can be left in."""
        return ((BEFORE, HALF, AFTER) if self.half else (BEFORE, AFTER)) if self.done else ()

    @property
    def telling(self) -> tuple[str, ...]:
        """Those of them that leave most to repair."""
        if not self.done or (self.what.startswith("fsync") and not self.of_checkpoint):
            return ()
        return (HALF,) if self.half else (BEFORE, AFTER) if self.what.startswith(("rename", "replace")) else (AFTER,)

    @property
    def of_checkpoint(self) -> bool:
        return any(part in self.what for part in CHECKPOINT)

    def kind(self, phase: str) -> tuple[str, ...]:
        """What deaths have in common that leave the same kind of mess; every renaming is one of its own."""
        name = self.what if "rename" in self.what else self.what.split()[0]
        return name, phase, str(self.of_checkpoint)


def one_of_each_kind(events: list[Event]) -> list[tuple[int, str]]:
    """Numbers of events and phases: the first event of each kind, in the phases that leave most to repair."""
    chosen: dict[tuple[str, ...], tuple[int, str]] = {}
    for k, event in enumerate(events):
        for phase in event.telling:
            chosen.setdefault(event.kind(phase), (k, phase))
    return list(chosen.values())


def every_one(events: list[Event]) -> list[tuple[int, str]]:
    return [(k, phase) for k, event in enumerate(events) for phase in event.phases]


@dataclass(frozen=True)
class Crash:
    """One place to die, and what was wrong afterwards."""

    event: Event
    phase: str
    problems: list[str]

    def __str__(self) -> str:
        return f"killed {self.phase} '{self.event.what}': {'; '.join(self.problems)}"


Choice = Callable[[list[Event]], list[tuple[int, str]]]


def events_of(run: Path, cwd: Path, **changes: object) -> list[Event]:
    """What a run does to its files, in order."""
    record = cwd / "events"
    record.unlink(missing_ok=True)
    ended = nursery().run(train_command(run.name, **changes), cwd=cwd, record=record)
    assert ended.code == 0, ended.err
    return [Event(*json.loads(line)) for line in record.read_text(encoding="utf-8").splitlines()]


def problems_on_disk(run: Path, allowed: set[int]) -> list[str]:
    """Whether everything under a checkpoint's name is a whole one, and the newest is one of those allowed."""
    hashes = snapshot(run / "checkpoints")
    found = [problem for folder in saved(run) for problem in problems_of(folder, hashes)]
    newest = int(saved(run)[-1].name) if saved(run) else 0
    if newest not in allowed:
        found.append(f"the newest checkpoint is {newest}, not one of {allowed}")
    foreign = [path.name for path in (run / "checkpoints").glob("*") if path not in saved(run)]
    return found + [f"{name} looks finished" for name in foreign if not name.startswith(".unfinished-")]


sound: set[str] = set()  # checkpoints that were read before, by the hashes of their files


def problems_of(checkpoint: Path, hashes: dict[str, str]) -> list[str]:
    """Whether a checkpoint can be read, for sampling and for continuing."""
    this = json.dumps([(name, told) for name, told in hashes.items() if name.startswith(checkpoint.name)])
    try:
        if this not in sound:
            assert ddpm.load(checkpoint, weights="raw").images_seen == int(checkpoint.name)
            contents(checkpoint)
        sound.add(this)
    except Exception as error:  # whatever it is, it is told
        return [f"{checkpoint.name} cannot be read: {error!r}"]
    return []


def problems_of_resuming(run: Path, reference: Path, changes: dict[str, object]) -> list[str]:
    """Whether the same command goes on from the newest checkpoint to the end of an uninterrupted run."""
    newest = int(saved(run)[-1].name) if saved(run) else None
    ended = nursery().run(train_command(run.name, **changes), cwd=run.parent)
    if ended.code != 0:
        return [f"resuming ended with {ended.code}: {ended.err.strip().splitlines()[-1]}"]
    found = differences(run, reference)
    if ended.resumed_at != newest:
        found.append(f"it resumed at {ended.resumed_at}, not {newest}")
    if unfinished(run):
        found.append(f"it left {unfinished(run)}")
    return found


def kill_at(choose: Choice, base: Path | None, folder: Path, reference: Path, *, end: str | None = None) -> list[Crash]:
    """Continue a copy of `base` (or start anew) again and again, and die at chosen events in turn, up to `end`.

    A place that leaves the same files as an earlier one is not resumed a second time: the next process could not tell.
    """
    run = folder / "run"

    def begin() -> None:
        shutil.rmtree(run, ignore_errors=True)
        if base is not None:
            shutil.copytree(base, run)

    begin()
    events = events_of(run, folder, **SHORT)
    if end is not None:
        events = events[: 1 + next(k for k, event in enumerate(events) if event.what.startswith(end))]
    crashes: list[Crash] = []
    known: dict[str, list[str]] = {}
    for k, phase in choose(events):
        begin()
        killed = nursery().run(train_command(run.name, **SHORT), cwd=folder, die=(k, phase))
        assert killed.code == -signal.SIGKILL, f"{phase} {events[k]}: {killed}"
        state = json.dumps(snapshot(run) if run.exists() else {})
        if state not in known:
            allowed = {OLD, NEW} if base is not None else {0, FIRST}
            known[state] = problems_on_disk(run, allowed) + problems_of_resuming(run, reference, SHORT)
        crashes.append(Crash(events[k], phase, known[state]))
    return crashes


@pytest.fixture(
    scope="module",
    params=[one_of_each_kind, pytest.param(every_one, marks=pytest.mark.slow)],
    ids=["one of each kind", "every one"],
)
def choose(request: pytest.FixtureRequest) -> Choice:
    """At which events to die."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def reference() -> Path:
    return nursery().reference(**SHORT)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that died after its second checkpoint."""
    folder = tmp_path_factory.mktemp("two")
    events = events_of(folder / "whole", folder, **SHORT)
    third = next(k for k, event in enumerate(events) if f"checkpoints/.unfinished-{NEW:010d}" in event.what)
    killed = nursery().run(train_command("base", **SHORT), cwd=folder, die=(third - 1, BEFORE))
    assert killed.code == -signal.SIGKILL
    assert [int(path.name) for path in saved(folder / "base")] == [FIRST, OLD]
    return folder / "base"


@pytest.fixture(scope="module")
def third_checkpoint(
    choose: Choice, two_checkpoints: Path, reference: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Crash]:
    """Places to die in a process that resumes, writes its third checkpoint, removes the first, and ends."""
    return kill_at(choose, two_checkpoints, tmp_path_factory.mktemp("third"), reference)


@pytest.fixture(scope="module")
def first_checkpoint(choose: Choice, reference: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Crash]:
    """Places to die between an empty folder and the first log line."""
    return kill_at(choose, None, tmp_path_factory.mktemp("first"), reference, end="append")


def told(crashes: list[Crash], *parts: str) -> list[str]:
    """The crashes with problems whose event names one of these parts."""
    chosen = [crash for crash in crashes if any(part in crash.event.what for part in parts)]
    assert chosen, "nothing of this kind was met"
    return [str(crash) for crash in chosen if crash.problems]


def test_death_while_a_checkpoint_is_written_leaves_the_old_or_the_new_one_and_resumes_exactly(
    third_checkpoint: list[Crash],
):
    assert told(third_checkpoint, *CHECKPOINT) == []


def test_the_enumeration_meets_every_kind_of_event_in_a_checkpoint(third_checkpoint: list[Crash], choose: Choice):
    """Guards the test above against a driver that sees less than there is."""
    met = {(crash.event.what.split()[0], crash.phase) for crash in third_checkpoint if crash.event.of_checkpoint}
    moving, whole, written = {"rename"}, {"mkdir", "fsync", "unlink", "rmdir"}, {"write_bytes", "write_text"}
    every = choose is every_one
    phases = {name: (BEFORE, AFTER) for name in moving} | {
        name: (BEFORE, AFTER) if every else (AFTER,) for name in whole
    }
    phases |= {name: (BEFORE, HALF, AFTER) if every else (HALF,) for name in written}
    assert met == {(name, phase) for name in phases for phase in phases[name]}


def test_everything_in_a_checkpoint_is_on_the_disk_before_it_gets_its_name(two_checkpoints: Path, tmp_path: Path):
    """Three files and their folder; then the folder above, which holds the name."""
    shutil.copytree(two_checkpoints, tmp_path / "run")
    events = [event.what for event in events_of(tmp_path / "run", tmp_path, **SHORT)]
    folder = f"run/checkpoints/.unfinished-{NEW:010d}"
    renamed = events.index(f"rename {folder}")
    names = ("/model.safetensors", "/training.pt", "/config.json", "")
    assert {f"fsync {folder}{name}" for name in names} == {
        what for what in events[:renamed] if f"fsync {folder}" in what
    }
    assert events[renamed + 1] == "fsync run/checkpoints"


def test_death_while_recipe_metrics_or_loss_plot_are_written_is_survived(third_checkpoint: list[Crash]):
    assert told(third_checkpoint, "recipe.json", "metrics.jsonl", "loss.png") == []


def test_death_while_a_grid_is_drawn_is_survived(third_checkpoint: list[Crash]):
    assert told(third_checkpoint, "samples") == []


def test_death_in_the_first_moments_leaves_a_folder_that_the_same_command_takes(first_checkpoint: list[Crash]):
    assert told(first_checkpoint, "") == []


# ---- at moments that nobody chose -----------------------------------------------------------------------------------

LONG = {"training": {"log_images": BATCH}}  # checkpoints at 72, 132, 192; the end at 252


def kill_somewhere(run: Path, dice: random.Random, *, first: int) -> int:
    """Start the run, kill it a random while after a random log line; the images it had logged by then."""
    target = dice.randrange(first, 228, BATCH)
    child = nursery().start(train_command(run.name, **LONG), cwd=run.parent, pace=0.003)
    child.wait_until(lambda: "Training:" in child.said())  # what an earlier process logged is gone by now
    child.wait_until(lambda: bool(metrics(run)) and metrics(run)[-1]["images"] >= target)
    time.sleep(dice.uniform(0, 0.03))
    child.send(signal.SIGKILL)
    assert child.end().code == -signal.SIGKILL
    return int(metrics(run)[-1]["images"])


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_killed_at_a_random_moment_it_loses_at_most_one_interval_and_ends_bit_equal(seed: int, tmp_path: Path):
    run = tmp_path / "run"
    logged = kill_somewhere(run, random.Random(seed), first=84)
    ended = nursery().run(train_command("run", **LONG), cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.resumed_at is not None
    assert 0 < ended.resumed_at <= logged + BATCH
    # A checkpoint follows the log line of its batch, so the batch in hand is lost on top of an interval at most.
    assert logged - ended.resumed_at <= 64 + BATCH
    assert differences(run, nursery().reference(**LONG)) == []
    assert unfinished(run) == []


def test_a_run_killed_again_and_again_ends_bit_equal(tmp_path: Path):
    run, dice = tmp_path / "run", random.Random(17)
    reached = [kill_somewhere(run, dice, first=first) for first in (12, 96, 108, 200)]
    assert reached[-1] >= 200
    ended = nursery().run(train_command("run", **LONG), cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert (ended.resumed_at or 0) >= 132
    assert differences(run, nursery().reference(**LONG)) == []


def test_killed_before_its_first_checkpoint_it_starts_again_and_ends_bit_equal(tmp_path: Path):
    run = tmp_path / "run"
    child = nursery().start(train_command("run", **LONG), cwd=tmp_path, pace=0.05)
    child.wait_until(lambda: len(metrics(run)) >= 2)
    child.send(signal.SIGKILL)
    assert child.end().code == -signal.SIGKILL
    assert saved(run) == []
    ended = nursery().run(train_command("run", **LONG), cwd=tmp_path)
    assert (ended.code, ended.resumed_at) == (0, None), ended.err
    assert differences(run, nursery().reference(**LONG)) == []


@pytest.mark.slow
def test_the_installed_command_killed_and_started_again_ends_bit_equal(tmp_path: Path):
    """Killed is a process that nobody forked; the one after it reads what any process reads."""
    run, command = tmp_path / "run", train_command("run", **LONG)
    process = start_console(command, tmp_path)
    while not saved(run):
        assert process.poll() is None, finished(process)
        time.sleep(0.002)
    process.kill()
    assert finished(process).code == -signal.SIGKILL
    ended = nursery().run(command, cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert (ended.resumed_at or 0) > 0
    assert differences(run, nursery().reference(**LONG)) == []
