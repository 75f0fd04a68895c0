"""Lengths that a recipe leaves open: a run writes them down, and keeps its warm-up when it is made longer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from crashing import contents, saved

from ddpm.base.tables import signed
from ddpm.errors import InputError
from ddpm.model.lengths import Lengths
from ddpm.model.recipe import make_recipe
from ddpm.training import loop
from ddpm.training.loop import train
from ddpm.training.run_folder import RunFolder
from scorings import RECIPE, Watching, image_set, merged, pixels

pytestmark = pytest.mark.usefixtures("quick_runs")

IMAGES = image_set(pixels(20, (1, 4, 4)))
OPEN: dict[str, Any] = {**RECIPE, "training": {}}  # warm-ups of 13 images in 264, and of 20 in 400


def run(folder: Path, images: int, allow_change: bool = False, **training: Any) -> RunFolder:
    recipe = make_recipe(merged(OPEN, {"train_images": images, "training": training}))
    train(recipe, IMAGES, folder, allow_change=allow_change)
    return RunFolder(folder)


def held(run: RunFolder) -> dict[str, Any]:
    return json.loads(run.recipe_file.read_text())["recipe"]["training"]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(tmp_path_factory.mktemp("lengths") / "run", 264)


def test_every_number_is_written_down(short: RunFolder):
    wanted = Lengths(13, 32, 256, 160, 65_536)._asdict()
    assert {name: held(short)[name] for name in wanted} == wanted
    config = json.loads((saved(short.path)[-1] / "config.json").read_text())
    assert {name: config["recipe"]["training"][name] for name in wanted} == wanted
    assert [line["images"] for line in short.metrics.lines()] == list(range(32, 265, 32))
    assert [int(path.name) for path in saved(short.path)] == [160, 264]
    assert sorted(grid.stem for grid in (short.path / "samples").iterdir()) == ["0000000256", "0000000264"]


def test_a_run_made_longer_keeps_its_warm_up_and_equals_one_that_was_longer_from_the_start(
    short: RunFolder, tmp_path: Path
):
    whole = run(tmp_path / "whole", 400, warmup_images=13)
    shutil.copytree(short.path, tmp_path / "run")
    longer = run(tmp_path / "run", 400)
    assert held(longer) == held(whole)
    assert contents(saved(longer.path)[-1]) == contents(saved(whole.path)[-1])
    assert not longer.changes.file.exists()


def test_a_warm_up_that_is_named_is_another_run_unless_that_is_allowed(short: RunFolder, tmp_path: Path):
    shutil.copytree(short.path, tmp_path / "run")
    with pytest.raises(InputError, match=r"holds a run with training\.warmup_images = 13, not 40"):
        run(tmp_path / "run", 400, warmup_images=40)
    run(tmp_path / "run", 400, allow_change=True, warmup_images=400)
    assert held(run(tmp_path / "run", 408))["warmup_images"] == 400


def test_a_run_of_an_older_version_goes_on_with_its_warm_up(tmp_path: Path):
    """It had numbers of its own, whatever its length; a later version may have none in the recipe."""
    older = {"warmup_images": 640_000, "log_images": 6_400, "sample_images": 500_000, "checkpoint_images": 100_000}
    before = run(tmp_path / "run", 24, **older)
    table = json.loads(before.recipe_file.read_text())
    del table["own_sha256"], table["recipe"]["training"]["validate_images"]
    before.recipe_file.write_text(json.dumps(signed(table)))
    after = run(tmp_path / "run", 48)
    assert held(after)["warmup_images"] == 640_000
    assert held(after)["log_images"] == 32
    (line,) = after.metrics.lines()
    assert line["learning_rate"] == pytest.approx(1e-3 * 32 / 640_000)


def test_a_checkpoint_comes_at_the_latest_when_a_quarter_of_an_hour_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    found: list[int] = []

    def pass_time(title: str, seen: int) -> None:
        now[0] += 100.0  # a step
        found.append(len(list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))))

    recipe = make_recipe(merged(OPEN, {"train_images": 160, "training": {"log_images": 1000, "sample_images": 1000}}))
    train(recipe, IMAGES, tmp_path / "run", progress=Watching(pass_time))
    assert [int(path.name) for path in saved(tmp_path / "run")] == [152, 160]
    assert found.index(1) == 9


def test_what_to_expect_is_said_at_the_start_of_a_run_and_not_of_a_finished_one(short: RunFolder):
    heard = Watching()
    train(make_recipe(OPEN), IMAGES, short.path.parent / "another", progress=heard)
    assert any("loss: the mean squared error of the predicted noise" in line for line in heard.sentences)
    again = Watching()
    train(make_recipe(OPEN), IMAGES, short.path.parent / "another", progress=again)
    assert not any("loss: " in line for line in again.sentences)
