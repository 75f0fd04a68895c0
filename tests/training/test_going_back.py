"""Steps that are left out are told; if they go on, the run goes back once at half the rate, then stops and says why."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from crashing import contents, saved
from planted import FAULTS, Fault, first_of, nan_weight, plant

import ddpm
from ddpm.base.progress import Progress
from ddpm.errors import InputError
from ddpm.model.recipe import Recipe, make_recipe
from ddpm.training import sparing
from ddpm.training.learner import Learner
from ddpm.training.loop import train
from ddpm.training.run_folder import RunFolder
from scorings import RECIPE, Watching, image_set, merged, pixels

pytestmark = pytest.mark.usefixtures("quick_runs")

IMAGES = image_set(pixels(20, (1, 4, 4)))
OFTEN = {"training": {"log_images": 8, "checkpoint_images": 32, "ema_decay": 0.9}}
FULL = 1e-3  # the rate; a run that went back has half of it


class Heard(Watching):
    """Keeps sentences; dies after so many images once the run went back, as in a power cut."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__(self._die)
        self.dies_at = dies_at

    def _die(self, title: str, seen: int) -> None:
        if seen == self.dies_at and any("half the learning rate" in said for said in self.sentences):
            raise Broken


class Broken(Exception):
    """A power cut."""


def recipe(**changes: Any) -> Recipe:
    return make_recipe(merged(merged(RECIPE, OFTEN), changes))


def run(folder: Path, progress: Progress | None = None, *, allow_change: bool = False, **changes: Any) -> RunFolder:
    train(recipe(**changes), IMAGES, folder, allow_change=allow_change, progress=progress or Heard())
    return RunFolder(folder)


def losses(folder: RunFolder) -> list[tuple[Any, ...]]:
    """What of the log does not depend on the machine's speed."""
    return [tuple(v for k, v in line.items() if k != "images_per_second") for line in folder.metrics.lines()]


def at_full_rate(after: int, until: float = math.inf):
    """In these steps, until the rate was halved."""
    return lambda learner: after <= learner.images_seen < until and learner.rate > 0.6 * FULL


# ---- told -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", first_of(FAULTS, ("one image's loss", "a gradient")))
def test_a_step_that_was_left_out_is_told_at_the_next_log_line_and_the_run_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    heard = Heard()
    plant(monkeypatch, FAULTS[name], at_full_rate(16, 24))
    done = run(tmp_path / "run", heard, train_images=64, training={"log_images": 16})
    clean, bad, *rest = done.metrics.lines()
    assert all("skipped" not in line for line in (clean, *rest))
    (fault,) = bad["not_finite"]
    assert (bad["images"], bad["skipped"], fault["images"]) == (32, 1, 24)
    assert set(fault) == {"images", "levels", "loss", "gradient_norm"}
    (warning,) = [sentence for sentence in heard.sentences if sentence.startswith("Warning")]
    assert "1 of 2 steps to 32 images" in warning
    assert "first at 24 images" in warning
    assert f"gradient norm {fault['gradient_norm']}"[:16] in warning
    assert all(f"{level}" in warning for level in fault["levels"])
    assert all(json.dumps(line, allow_nan=False) for line in done.metrics.lines())
    assert math.isfinite(bad["loss"])  # of the other step
    assert not done.changes.file.exists()


def test_an_interval_without_one_finite_loss_has_none_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plant(monkeypatch, FAULTS["a loss that is NaN"], at_full_rate(16, 32))
    done = run(tmp_path / "run", train_images=64)
    found = {line["images"]: line["loss"] for line in done.metrics.lines()}
    assert [images for images, loss in found.items() if loss is None] == [24, 32]


# ---- going back -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Trained to 32 images, then on at half the rate."""
    folder = tmp_path_factory.mktemp("by hand") / "run"
    run(folder, train_images=32)
    return run(folder, allow_change=True, learning_rate=FULL / 2)


def assert_equal_by_hand(found: RunFolder, by_hand: RunFolder) -> None:
    assert contents(saved(found.path)[-1]) == contents(saved(by_hand.path)[-1])
    assert losses(found) == losses(by_hand)
    assert [line["learning_rate"] for line in found.metrics.lines()] == 4 * [FULL] + 8 * [FULL / 2]


LASTING: dict[str, Fault] = {**FAULTS, "a weight": nan_weight}


@pytest.mark.parametrize("name", first_of(LASTING, ("a loss that is NaN", "a gradient", "a weight")))
def test_after_three_such_intervals_it_goes_back_at_half_the_rate_and_equals_a_run_made_by_hand(
    name: str, by_hand: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    heard = Heard()
    plant(monkeypatch, LASTING[name], at_full_rate(40))
    found = run(tmp_path / "run", heard)
    assert_equal_by_hand(found, by_hand)
    (line,) = found.changes.lines()
    assert line | {"why": ""} == {
        "images": 32, "key": "learning_rate", "from": FULL, "to": FULL / 2, "by": "training itself", "why": ""
    }  # fmt: skip
    assert "not finite" in line["why"]
    (back,) = [sentence for sentence in heard.sentences if "half the learning rate" in sentence]
    assert "the checkpoint of 32 images" in back
    assert ddpm.show(found.path)["changes"] == [line]
    assert "learning_rate = 0.0005 from 32 images on" in " ".join(
        sentence for sentence in _shown(found.path) if sentence.startswith("changed")
    )


def _shown(folder: Path) -> list[str]:
    from ddpm.cli.show import _model_lines

    return _model_lines(ddpm.show(folder))


@pytest.mark.parametrize("dies_at", [40, 72], ids=["before the next checkpoint", "after it"])
def test_a_crash_after_going_back_does_not_forget_the_rate(
    dies_at: int, by_hand: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plant(monkeypatch, FAULTS["a gradient"], at_full_rate(40))
    with pytest.raises(Broken):
        run(tmp_path / "run", Heard(dies_at))
    assert_equal_by_hand(run(tmp_path / "run"), by_hand)
    assert len(RunFolder(tmp_path / "run").changes.lines()) == 1


def test_it_goes_back_to_the_checkpoint_before_the_trouble_not_to_one_within(
    by_hand: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A checkpoint every step: those at 40, 48 and 56 hold weights from which nothing goes on."""
    plant(monkeypatch, FAULTS["a gradient"], at_full_rate(32))
    heard = Heard(dies_at=None)
    found = run(tmp_path / "run", heard, training={"checkpoint_images": 8})
    assert any("the checkpoint of 32 images" in sentence for sentence in heard.sentences)
    assert_equal_by_hand(found, by_hand)
    assert [int(path.name) for path in saved(found.path)] == [88, 96]


def test_checkpoints_within_a_log_interval_are_gone_back_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two checkpoints to a log line: that of 40 images lies before the fault, and in the interval of the first one."""
    plant(monkeypatch, FAULTS["a loss that is NaN"], at_full_rate(40))
    heard = Heard()
    run(tmp_path / "run", heard, training={"checkpoint_images": 8, "log_images": 16})
    assert any("at the checkpoint of 40 images" in sentence for sentence in heard.sentences)


def test_a_rate_chosen_before_is_halved_once_where_it_goes_back_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Back to a checkpoint from before the change: the change is told again, and the half of it is used."""
    run(tmp_path / "run", train_images=64)
    plant(monkeypatch, FAULTS["a loss that is NaN"], lambda learner: learner.images_seen >= 64 and learner.rate > 3e-3)
    heard = Heard()
    training = {"log_images": 24}
    found = run(tmp_path / "run", heard, allow_change=True, learning_rate=4e-3, training=training, train_images=160)
    assert sum("half the learning rate" in sentence for sentence in heard.sentences) == 1
    rates = [(line["to"], line["by"]) for line in found.changes.lines()]
    assert rates == [(4e-3, "--allow-change"), (2e-3, "training itself")]
    assert found.metrics.lines()[-1]["learning_rate"] == 2e-3


def test_without_a_checkpoint_it_starts_again_at_half_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    other = run(tmp_path / "other", learning_rate=FULL / 2)
    plant(monkeypatch, FAULTS["a loss that is NaN"], at_full_rate(0))
    found = run(tmp_path / "run")
    assert contents(saved(found.path)[-1]) == contents(saved(other.path)[-1])
    assert losses(found) == losses(other)
    assert found.changes.lines()[0]["images"] == 0


def test_two_such_intervals_are_no_reason_to_go_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plant(monkeypatch, FAULTS["a gradient"], lambda learner: learner.images_seen in (40, 48, 64))
    found = run(tmp_path / "run")
    assert [line["images"] for line in found.metrics.lines() if "skipped" in line] == [48, 56, 72]
    assert not found.changes.file.exists()


def test_a_resumed_run_counts_the_intervals_before_it_stopped(
    by_hand: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Stopped after two bad lines and started again: the third follows."""
    plant(monkeypatch, FAULTS["a gradient"], at_full_rate(40))
    with pytest.raises(InputError, match="learning_rate"):  # its end: the last interval learned nothing
        run(tmp_path / "run", train_images=56)
    assert [int(path.name) for path in saved(tmp_path / "run")] == [32, 56]
    assert_equal_by_hand(run(tmp_path / "run"), by_hand)


# ---- stopping -------------------------------------------------------------------------------------------------------


def test_the_second_time_it_stops_names_what_was_seen_and_can_go_on_at_a_lower_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plant(monkeypatch, FAULTS["one image's loss"], lambda learner: learner.images_seen >= 40 and learner.rate > 2e-4)
    for _ in range(2):  # the same call again ends in the same way
        with pytest.raises(InputError) as stopped:
            run(tmp_path / "run")
        sentence = str(stopped.value)
        for part in (
            "48 images",
            "level",
            "loss nan",
            "gradient norm nan",
            "halved once",
            "of 32 images",
            "below 0.0005",
        ):
            assert part in sentence
        assert "--allow-change" in sentence
        assert [int(path.name) for path in saved(tmp_path / "run")] == [32]
    done = run(tmp_path / "run", allow_change=True, learning_rate=1e-4)
    assert done.metrics.lines()[-1]["learning_rate"] == 1e-4
    assert [(line["to"], line["by"]) for line in done.changes.lines()] == [
        (FULL / 2, "training itself"),
        (1e-4, "--allow-change"),
    ]


def test_a_rate_chosen_by_hand_may_be_halved_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plant(monkeypatch, FAULTS["a gradient"], lambda learner: learner.images_seen >= 40 and learner.rate > 3e-4)
    with pytest.raises(InputError):
        run(tmp_path / "run")
    done = run(tmp_path / "run", allow_change=True, learning_rate=4e-4)
    assert done.metrics.lines()[-1]["learning_rate"] == 2e-4


@pytest.mark.parametrize("name", ["a loss that is NaN", "a gradient", "a weight"])
def test_a_run_too_short_for_a_log_line_does_not_end_as_if_it_had_learned(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plant(monkeypatch, LASTING[name], at_full_rate(0))
    with pytest.raises(InputError, match=r"not finite .*images.*learning_rate"):
        run(tmp_path / "run", train_images=24, training={"log_images": 1000})


@pytest.mark.parametrize("where", ["raw", "ema"])
def test_weights_that_are_not_finite_are_neither_saved_nor_drawn_nor_validated(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def poison(learner: Learner, values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            next(iter(learner.weights()[where].values())).view(-1)[0] = math.nan
        return values

    plant(monkeypatch, poison, lambda learner: learner.images_seen == 40)
    monkeypatch.setattr(sparing, "SHARE", math.inf)
    often = {"checkpoint_images": 16, "sample_images": 16, "validate_images": 16, "validation_calls": 256}
    held_out = image_set(pixels(5, (1, 4, 4), 3), name="held out")
    found = recipe(train_images=64, training={"log_images": 1000, **often})
    with pytest.raises(InputError, match="weights are not finite"):
        train(found, IMAGES, tmp_path / "run", held_out=held_out)
    assert [int(path.name) for path in saved(tmp_path / "run")] == [16, 32]
    assert [path.stem for path in sorted((tmp_path / "run" / "samples").iterdir())] == ["0000000016", "0000000032"]
    assert [line["images"] for line in RunFolder(tmp_path / "run").validation.lines()] == [16, 32]
