"""The bound on held-out images while training: told at its intervals, always by the same calls, touching nothing."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import ddpm
from ddpm.data.sources import ImageSet
from ddpm.errors import InputError
from ddpm.likelihood.estimate import estimate_bound
from ddpm.model.checkpoint import load_model, read_config, read_training, read_weights
from ddpm.model.recipe import Recipe, make_recipe
from ddpm.model.scoring import scoring_for
from ddpm.training.loop import train
from ddpm.training.run_folder import RunFolder
from scorings import RECIPE, Watching, image_set, merged, pixels

SHAPE = (1, 4, 4)
TRAINING, HELD_OUT = image_set(pixels(20, SHAPE), name="training"), image_set(pixels(12, SHAPE, 1), name="held out")
OFTEN = {"training": {"validate_images": 24, "validation_calls": 256, "checkpoint_images": 40}}


def recipe(**changes: Any) -> Recipe:
    return make_recipe(merged(merged(RECIPE, OFTEN), changes))


def run(folder: Path, held_out: ImageSet | None = HELD_OUT, images: ImageSet = TRAINING, **changes: Any) -> RunFolder:
    train(recipe(**changes), images, folder, held_out=held_out)
    return RunFolder(folder)


def weights(run: RunFolder, images: int) -> dict[str, torch.Tensor]:
    folder = run.checkpoint(images)
    config = read_config(folder)
    found = {f"{kind}/{n}": w for kind in ("ema", "raw") for n, w in read_weights(folder, config, kind).items()}
    moments = read_training(folder, config)["optimiser"]["state"]
    return found | {f"{k}/{n}": w for k, state in moments.items() for n, w in state.items()}


def equal(one: RunFolder, other: RunFolder, images: int) -> bool:
    ours, theirs = weights(one, images), weights(other, images)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def seen(run: RunFolder) -> list[int]:
    return [line["images"] for line in run.validation.lines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunFolder:
    """An uninterrupted run of 96 images in batches of 8."""
    return run(tmp_path_factory.mktemp("validation") / "whole")


@pytest.mark.parametrize(
    ("every", "total", "points"), [(24, 90, [24, 48, 72, 96]), (20, 48, [24, 40, 48]), (1000, 16, [16])]
)
def test_lines_come_at_the_intervals_and_once_at_the_end(every: int, total: int, points: list[int], tmp_path: Path):
    """An interval ends with the batch in which it is passed, and so does the run."""
    assert seen(run(tmp_path / "run", train_images=total, training={"validate_images": every})) == points


def test_a_line_is_the_bound_of_the_ema_of_its_moment(whole: RunFolder):
    assert seen(whole) == [24, 48, 72, 96]
    line = whole.validation.lines()[-1]
    bound = estimate_bound(scoring_for(load_model(whole.checkpoint(96), device="cpu"), HELD_OUT), 256)
    assert line == {"images": 96} | {
        name: {"value": getattr(bound, name).value, "error": getattr(bound, name).error}
        for name in ("total", "prior", "steps", "decoder")
    }
    assert line["total"]["value"] != whole.validation.lines()[0]["total"]["value"]
    assert line["prior"] == whole.validation.lines()[0]["prior"]  # the same images at the same places: the same calls


def test_the_same_run_writes_the_same_lines_and_started_again_no_more(whole: RunFolder, tmp_path: Path):
    for _ in range(2):
        again = run(tmp_path / "run")
        assert again.validation.file.read_bytes() == whole.validation.file.read_bytes()


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_training_is_bit_for_bit_what_it_is_without_validation(dropout: float, tmp_path: Path):
    network = {"network": {"dropout": dropout}}
    one = run(tmp_path / "with", **network)
    other = run(tmp_path / "without", held_out=None, **network)
    assert equal(one, other, 96)
    assert not other.validation.file.exists()
    losses = [[(line["images"], line["loss"]) for line in r.metrics.lines()] for r in (one, other)]
    assert losses[0] == losses[1]


class Broken(Exception):
    """A power cut, as far as a run can tell."""


def cut(folder: Path, after: int, held_out: ImageSet = HELD_OUT) -> RunFolder:
    """A run that dies in the step after so many images."""

    def die(title: str, seen: int) -> None:
        if seen == after:
            raise Broken

    with pytest.raises(Broken):
        train(recipe(), TRAINING, folder, held_out=held_out, progress=Watching(die))
    return RunFolder(folder)


@pytest.mark.parametrize("after", [40, 56, 88, *(pytest.param(after, marks=pytest.mark.slow) for after in (8, 72))])
def test_a_run_cut_off_and_resumed_equals_one_that_was_not_lines_and_all(after: int, whole: RunFolder, tmp_path: Path):
    """Checkpoints at 40 and 80, validation at 24, 48, 72: some lines lie in a future that was never saved."""
    cut(tmp_path / "run", after)
    resumed = run(tmp_path / "run")
    assert equal(resumed, whole, 96)
    assert resumed.validation.file.read_text() == whole.validation.file.read_text()


def test_lines_of_an_unsaved_future_are_forgotten(tmp_path: Path):
    broken = cut(tmp_path / "run", 72)
    assert seen(broken) == [24, 48, 72]
    broken.forget_after(40)
    assert seen(broken) == [24]
    broken.forget_after(40)
    assert seen(broken) == [24]


def test_a_line_cut_in_half_by_a_crash_is_left_out_and_measured_again(whole: RunFolder, tmp_path: Path):
    broken = cut(tmp_path / "run", 88)
    text = broken.validation.file.read_text()
    broken.validation.file.write_text(text[:-30])
    assert seen(broken) == [24, 48]
    assert json.loads(text.splitlines()[-1])["images"] == 72
    resumed = run(tmp_path / "run")
    # the checkpoint is at 80, so what was said of 72 is lost for good; nothing else is, and nothing is said twice
    assert seen(resumed) == [24, 48, 96]
    assert resumed.validation.lines()[-1] == whole.validation.lines()[-1]


def test_a_longer_run_goes_on_with_the_same_lines(whole: RunFolder, tmp_path: Path):
    run(tmp_path / "run", train_images=48)
    longer = run(tmp_path / "run")
    assert longer.validation.lines() == whole.validation.lines()


# ---- refused before the first step ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        (TRAINING, "holds the training images"),
        (image_set(pixels(20, SHAPE), name="a copy"), "holds the training images"),
        (image_set(pixels(5, (1, 8, 8))), "those of the model"),
        (image_set(pixels(5, (3, 4, 4))), "those of the model"),
        (image_set(pixels(0, SHAPE)), "no images"),
    ],
    ids=["the training images", "a copy of them", "another size", "colour", "none"],
)
def test_held_out_images_that_do_not_fit_are_refused_before_anything_is_written(
    held_out: ImageSet, words: str, tmp_path: Path
):
    with pytest.raises(InputError, match=words):
        run(tmp_path / "run", held_out=held_out)
    assert not (tmp_path / "run").exists()


# ---- other kinds of models ------------------------------------------------------------------------------------------


def test_models_with_classes_are_told_the_held_out_images_classes(tmp_path: Path):
    """Matched by name: the held-out set has them in another order, and fewer of them."""
    training = image_set(pixels(20, SHAPE), [k % 3 for k in range(20)], ("a", "b", "c"))
    held_out = image_set(pixels(12, SHAPE, 1), [k % 2 for k in range(12)], ("c", "a"))
    done = run(tmp_path / "run", held_out, training, network={"classes": 3})
    model = load_model(done.path, device="cpu")
    scoring = scoring_for(model, held_out)
    assert scoring.labels.tolist() == [2, 0] * 6
    assert done.validation.lines()[-1]["total"]["value"] == estimate_bound(scoring, 256).total.value


@pytest.mark.parametrize("held_out", [HELD_OUT, image_set(pixels(5, SHAPE), [0] * 5, ("z",))], ids=["none", "strange"])
def test_missing_or_strange_classes_are_refused(held_out: ImageSet, tmp_path: Path):
    training = image_set(pixels(20, SHAPE), [k % 3 for k in range(20)], ("a", "b", "c"))
    with pytest.raises(InputError, match="class"):
        run(tmp_path / "run", held_out, training, network={"classes": 3})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"process": {"variance": "range"}, "objective": {"loss": "hybrid"}},
        {"process": {"variance": "learned"}, "objective": {"loss": "bound", "levels": "importance"}},
        {"objective": {"prediction": "v"}, "process": {"variance": "large"}},
        {"objective": {"prediction": "mean"}},
    ],
)
def test_every_kind_of_model_is_validated(changes: dict[str, Any], tmp_path: Path):
    for line in run(tmp_path / "run", train_images=16, **changes).validation.lines():
        assert line["total"]["value"] > 0
        assert line["total"]["error"] > 0


def test_too_few_calls_for_an_error_are_refused_by_the_recipe():
    with pytest.raises(InputError, match="validation_calls"):
        recipe(training={"validation_calls": 255})


def test_training_images_among_those_for_validation_are_said(tmp_path: Path):
    """A slice of the training images has a fingerprint of its own."""
    settings = {"data": "digits", "image": {"height": 8, "width": 8}, "train_images": 8}
    training = ddpm.images("digits", split="train")
    with pytest.warns(UserWarning, match=r"validation: All 20 images .*train\[5:25\] .* was trained on\."):
        run(tmp_path / "slice", ddpm.images("digits:train[5:25]"), training, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path / "test", ddpm.images("digits:test"), training, **settings)
