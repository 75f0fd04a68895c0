"""A run with a cool-down: killed, stopped or continued, it has the states of one that never was."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from crashing import AFTER, Ended, contents, differences, nursery, saved, snapshot, train_command
from planted import FAULTS, first_of, plant

import ddpm
from ddpm.cli.show import _model_lines
from ddpm.errors import DamagedFile, InputError
from ddpm.model.recipe import Recipe, make_recipe
from ddpm.training.loop import train
from ddpm.training.run_folder import RunFolder
from scorings import RECIPE, Watching, edited, image_set, merged, pixels

pytestmark = pytest.mark.usefixtures("quick_runs")

IMAGES = image_set(pixels(20, (1, 4, 4)))
RATE, WARM, SHARE = 1e-3, 40, 0.4
SHORT, LONG = 96, 160
START = 56
"""The last whole step before 58 images, where the shorter run's rate falls; no other interval ends here."""
CHANGES = {
    "micro_batch": 4,
    "network": {"dropout": 0.1, "linear": "corrected"},
    "objective": {"weighting": "uncertainty", "levels": "importance"},
    "training": {
        **{"warmup_images": WARM, "cooldown": SHARE, "ema_decay": 0.9, "ema_lengths": [0.1], "flip": True},
        **{"log_images": 24, "checkpoint_images": 36},
    },
}


class Killed(Exception):
    """A power cut."""


def recipe(images: int = SHORT, **changes: Any) -> Recipe:
    return make_recipe(merged(merged(RECIPE, CHANGES), {"train_images": images, **changes}))


def run(folder: Path, images: int = SHORT, *, allow_change: bool = False, **changes: Any) -> list[str]:
    """Train to the end; what was said."""
    heard = Watching()
    train(recipe(images, **changes), IMAGES, folder, allow_change=allow_change, progress=heard)
    return heard.sentences


def broken_off(folder: Path, at: int, images: int = SHORT, *, saves: bool = False, **changes: Any) -> None:
    """Train until so many images were seen, and die there, as in a power cut or by a signal that lets it save."""

    def die(title: str, seen: int) -> None:
        if seen == at and saves:
            os.kill(os.getpid(), signal.SIGTERM)
        elif seen == at:
            raise Killed

    with pytest.raises(SystemExit if saves else Killed):
        train(recipe(images, **changes), IMAGES, folder, progress=Watching(die))


def cooling(share: float) -> dict[str, Any]:
    return {"training": {"cooldown": share}}


def log(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in RunFolder(folder).metrics.lines()]


def assert_equal(found: Path, expected: Path) -> None:
    """The same weights, EMA, optimiser and counters at the end, the same last grid, and the same log on the way."""
    assert contents(saved(found)[-1]) == contents(saved(expected)[-1])
    assert log(found) == log(expected)
    grids = [max((path / "samples").iterdir()) for path in (found, expected)]
    assert [(grid.name, grid.read_bytes()) for grid in grids] == 2 * [(grids[1].name, grids[1].read_bytes())]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, quick_runs: None) -> dict[int, Path]:
    """Runs that nothing interrupted, by their length."""
    folder = tmp_path_factory.mktemp("whole")
    for images in (SHORT, LONG):
        run(folder / f"{images}", images)
    return {images: folder / f"{images}" for images in (SHORT, LONG)}


@pytest.fixture
def done(whole: dict[int, Path], tmp_path: Path) -> Path:
    """A finished run that a test may do with as it likes."""
    return shutil.copytree(whole[SHORT], tmp_path / "run")


# ---- the same run ---------------------------------------------------------------------------------------------------


def test_each_step_has_the_rate_of_the_images_before_it_and_no_alarm_is_raised(tmp_path: Path):
    heard = run(tmp_path, training={"log_images": 8})
    rates = [RATE * min(1, seen / WARM) * min(1, (96 - seen) / 38) for seen in range(8, 97, 8)]
    assert [line["learning_rate"] for line in log(tmp_path)] == pytest.approx(rates, rel=1e-12, abs=0)
    assert not any("Warning" in sentence for sentence in heard)
    (told,) = [sentence for sentence in heard if "The learning rate falls" in sentence]
    assert f" {START} images" in told


@pytest.mark.parametrize(
    ("at", "saves"),
    [
        pytest.param(16, True, id="stopped in the warm-up"),
        pytest.param(48, False, id="killed before the cool-down", marks=pytest.mark.slow),
        pytest.param(START, False, id="killed at its start"),
        pytest.param(START, True, id="stopped at its start", marks=pytest.mark.slow),
        pytest.param(64, False, id="killed at its first step", marks=pytest.mark.slow),
        pytest.param(80, False, id="killed within it"),
        pytest.param(80, True, id="stopped within it", marks=pytest.mark.slow),
    ],
)
def test_broken_off_anywhere_it_goes_on_to_the_same_end(at: int, saves: bool, whole: dict[int, Path], tmp_path: Path):
    broken_off(tmp_path / "run", at, saves=saves)
    run(tmp_path / "run")
    assert_equal(tmp_path / "run", whole[SHORT])


def test_after_going_back_within_the_cool_down_it_has_half_the_rate_and_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    often = {"training": {"log_images": 8}}
    plant(monkeypatch, FAULTS["a gradient"], lambda learner: learner.images_seen >= 72 and learner.rate_share == 1)
    heard = run(tmp_path / "whole", 128, **often)
    assert any("at the checkpoint of 72 images again, with half" in sentence for sentence in heard)
    broken_off(tmp_path / "run", 112, 128, **often)
    run(tmp_path / "run", 128, **often)
    assert_equal(tmp_path / "run", tmp_path / "whole")
    rates = {line["images"]: line["learning_rate"] for line in log(tmp_path / "run")}
    assert [rates[72], rates[80], rates[104]] == pytest.approx([RATE, RATE / 2 * 48 / 51, RATE / 2 * 24 / 51])


# ---- a longer one ---------------------------------------------------------------------------------------------------


def test_a_longer_run_passes_through_the_states_of_a_shorter_one_up_to_its_cool_down(
    whole: dict[int, Path], tmp_path: Path
):
    broken_off(tmp_path, START, LONG, training={"checkpoint_images": 8})
    assert contents(saved(tmp_path)[-1]) == contents(RunFolder(whole[SHORT]).checkpoint(START))
    broken_off(tmp_path, 72, LONG)
    assert contents(saved(tmp_path)[-1]) != contents(RunFolder(whole[SHORT]).checkpoint(72))


def test_a_finished_run_is_continued_from_before_its_cool_down_and_its_model_stays_until_it_is_named(
    done: Path, whole: dict[int, Path]
):
    finished = contents(saved(done)[-1])
    heard = run(done, LONG)
    assert_equal(done, whole[LONG])
    left = done / "checkpoints" / f"left-{SHORT:010d}"
    (told,) = [sentence for sentence in heard if str(left) in sentence]
    assert f"goes on from {START} images" in told
    assert contents(left) == finished
    assert ddpm.load(left, device="cpu").images_seen == SHORT
    before = saved(done)
    assert [path.name for path in before] == [path.name for path in saved(whole[LONG])]
    assert f"              {left}" in _model_lines(ddpm.show(done))
    first, *_ = ddpm.prune(done, codec=True).checkpoints
    assert (first.checkpoint, first.removed) == (str(left), False)
    assert "finished" in first.why
    assert left.is_dir()
    ddpm.prune(done, [left.name])
    assert (left.exists(), saved(done)) == (False, before)


@pytest.mark.parametrize("at", [pytest.param(64, marks=pytest.mark.slow), 80])
def test_a_run_that_is_cooling_down_goes_back_too(at: int, whole: dict[int, Path], tmp_path: Path):
    broken_off(tmp_path, at, saves=True)
    heard = run(tmp_path, LONG)
    assert any(f"left-{at:010d}" in sentence for sentence in heard)
    assert_equal(tmp_path, whole[LONG])


@pytest.mark.slow
def test_before_its_cool_down_a_run_grows_where_it_is(whole: dict[int, Path], tmp_path: Path):
    broken_off(tmp_path, START, saves=True)
    heard = run(tmp_path, LONG)
    assert any(f"Resuming at {START} images" in sentence for sentence in heard)
    assert list((tmp_path / "checkpoints").glob("left-*")) == []
    assert_equal(tmp_path, whole[LONG])


@pytest.mark.slow
def test_a_continued_run_that_is_broken_off_goes_on_to_the_same_end(done: Path, whole: dict[int, Path]):
    broken_off(done, START + 8, LONG)
    run(done, LONG)
    assert_equal(done, whole[LONG])
    assert [path.name for path in (done / "checkpoints").glob("left-*")] == [f"left-{SHORT:010d}"]


RENAMED = ("recipe.json", "the second checkpoint", "the third checkpoint", "metrics.jsonl")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is needed")
@pytest.mark.parametrize("name", first_of(RENAMED, ("the second checkpoint", "the third checkpoint")))
def test_killed_while_it_goes_back_it_goes_on_to_the_same_end(name: str, tmp_path: Path):
    """Checkpoints at 24, where the cool-down began, 48 and 60: the second is removed, the third gets another name."""
    how = {"process": {"steps": 2}, "training": {"cooldown": 0.5, "log_images": 12, "checkpoint_images": 12}}
    longer, record = train_command("run", train_images=96, **how), tmp_path / "events"

    def go_on(**killed: Any) -> Ended:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(nursery().reference(train_images=60, **how), tmp_path / "run")
        return nursery().run(longer, cwd=tmp_path, **killed)

    assert go_on(record=record).code == 0
    events = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    places = [k for k, (what, *_) in enumerate(events) if what.startswith("re")][: len(RENAMED)]
    assert [events[k][0].split("/")[1] for k in places[1:3]] == ["checkpoints", "checkpoints"], events
    assert go_on(die=(places[RENAMED.index(name)], AFTER)).code == -signal.SIGKILL
    ended = nursery().run(longer, cwd=tmp_path)
    assert (ended.code, ended.resumed_at) == (0, 24), ended.err
    assert differences(tmp_path / "run", nursery().reference(train_images=96, **how)) == []
    left = [path.name for path in (tmp_path / "run" / "checkpoints").glob("left-*")]
    assert left == [f"left-{60:010d}"]


def test_a_rate_that_was_halved_within_the_cool_down_is_not_halved_before_it(
    whole: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        plant(patch, FAULTS["a gradient"], lambda learner: learner.images_seen >= 72 and learner.rate_share == 1)
        heard = run(tmp_path, 104, training={"log_images": 8})
    assert any("the checkpoint of 72 images again, with half" in sentence for sentence in heard)
    run(tmp_path, LONG)
    assert contents(saved(tmp_path)[-1])["/config/images_seen"] == LONG
    assert RunFolder(tmp_path).changes.lines() == []
    ours, theirs = (
        {k: v for k, v in contents(saved(path)[-1]).items() if "weights" in k} for path in (tmp_path, whole[LONG])
    )
    assert ours == theirs


def test_with_steps_of_another_size_it_goes_on_from_the_last_of_them_before_the_cool_down(tmp_path: Path):
    """Steps of 8 images to 32, then of 12: to 56 before the 58 images, which is no multiple of 12."""
    broken_off(tmp_path, 32, saves=True)
    run(tmp_path, allow_change=True, batch_size=12)
    assert any("goes on from 56 images" in sentence for sentence in run(tmp_path, LONG, batch_size=12))


# ---- which checkpoints stay -----------------------------------------------------------------------------------------


def test_the_state_before_the_cool_down_stays_and_prune_says_why(whole: dict[int, Path], done: Path):
    assert [int(path.name) for path in saved(done)] == [START, 72, SHORT]
    row, report = saved(done)[0], ddpm.prune(done)
    assert report.lines() == [
        f"kept  {row}: the newest from before the cool-down, a longer run goes on from it",
        "0 removed, 3 left",
    ]
    assert ddpm.prune(done, codec=True).left == 3


def test_without_that_state_no_longer_run_is_begun(done: Path):
    ddpm.prune(done, [str(START)])
    before = snapshot(done)
    with pytest.raises(InputError, match=r"since 58 images.* leave train_images = 96 and training.cooldown = 0.4, or"):
        run(done, LONG)
    assert snapshot(done) == before
    run(done)


@pytest.mark.parametrize("name", ["config.json", "training.pt"])
def test_a_damaged_checkpoint_is_named_and_not_passed_over(name: str, done: Path):
    at = START if name == "training.pt" else SHORT
    file = RunFolder(done).checkpoint(at) / name
    file.write_bytes(file.read_bytes()[:-9])
    before = snapshot(done)
    with pytest.raises(DamagedFile, match=f"{at:010d}/{name}"):
        run(done, LONG)
    assert snapshot(done) == before


# ---- another cool-down ----------------------------------------------------------------------------------------------


def test_a_finished_run_without_a_cool_down_is_given_one_by_a_longer_run(tmp_path: Path, whole: dict[int, Path]):
    """Also one whose files do not know the key."""
    run(tmp_path, **cooling(0.0))
    for file in (tmp_path / "recipe.json", *(path / "config.json" for path in saved(tmp_path))):
        edited(file, lambda table: table["recipe"]["training"].pop("cooldown"))
    before = snapshot(tmp_path)
    told = {False: "not 0.4; --allow-change", True: f"before 58 images.*train_images = {LONG} or more"}
    for allowed, sentence in told.items():
        with pytest.raises(InputError, match=sentence):
            run(tmp_path, allow_change=allowed)
        assert snapshot(tmp_path) == before
    run(tmp_path, LONG, allow_change=True)
    assert_equal(tmp_path, whole[LONG])


def test_a_cool_down_is_taken_back_from_where_it_began_if_that_is_wanted(done: Path, tmp_path: Path):
    """Who leaves the key out by accident does not train again what is finished."""
    before = snapshot(done)
    with pytest.raises(InputError, match=r"training\.cooldown = 0\.4, not 0\.0; --allow-change"):
        run(done, **cooling(0.0))
    assert snapshot(done) == before
    run(done, allow_change=True, **cooling(0.0))
    run(tmp_path / "plain", **cooling(0.0))
    assert_equal(done, tmp_path / "plain")
    change = {"images": START, "key": "training.cooldown", "from": SHARE, "to": 0.0, "by": "--allow-change"}
    assert ddpm.show(done)["changes"] == [change]
    assert ddpm.show(done / "checkpoints" / f"left-{SHORT:010d}")["changes"] == []


def test_a_run_is_ended_early_by_a_cool_down_if_that_is_wanted(whole: dict[int, Path], tmp_path: Path):
    """What it learned up to there is what a shorter run learns; one that has gone too far says how long it may be."""
    broken_off(tmp_path, START, LONG, saves=True)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=f"train_images = {LONG}, not {SHORT}; --allow-change"):
        run(tmp_path, SHORT)
    assert snapshot(tmp_path) == before
    run(tmp_path, SHORT, allow_change=True)
    assert_equal(tmp_path, whole[SHORT])
    with pytest.raises(InputError, match="or more, or another --out"):
        run(tmp_path, SHORT // 2, allow_change=True)


def test_without_a_cool_down_too_a_run_becomes_shorter_from_a_checkpoint_that_lies_before(tmp_path: Path):
    run(tmp_path / "long", **cooling(0.0))
    run(tmp_path / "long", 80, allow_change=True, **cooling(0.0))
    run(tmp_path / "short", 80, **cooling(0.0))
    assert_equal(tmp_path / "long", tmp_path / "short")
