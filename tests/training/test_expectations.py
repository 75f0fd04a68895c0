"""What a run says to expect of it, before and in its first seconds."""

from __future__ import annotations

from typing import Any

import pytest

from ddpm.base.geometry import Geometry
from ddpm.base.progress import duration
from ddpm.diffusion.process import PREDICTIONS
from ddpm.model.lengths import preview_marks
from ddpm.model.recipe import Recipe, load_recipe, resolve
from ddpm.training.expectations import (
    PREDICTED,
    SPEED_SECONDS,
    STEPS_TO_SEE,
    Expecting,
    images_to_see,
    meaning,
    preview_after,
    timing,
)


def recipe(side: int = 32, **changes: Any) -> Recipe:
    return resolve(load_recipe("small", changes), Geometry(3, side, side), 0)


# ---- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [200, 2_000, 64_000, 300_001])
@pytest.mark.parametrize("wanted", [1, 63, 64, 2048, 2049, 5000, 100_000])
def test_the_preview_named_is_the_first_that_is_due_by_then(images: int, wanted: int):
    """Step by step, as the loop goes; a run draws one at its end, too."""
    found = recipe(train_images=images)
    marks, seen = preview_marks(found.lengths, found.batch_size), 0
    while seen < images:
        before, seen = seen, seen + found.batch_size
        if seen >= wanted and marks(seen) != marks(before):
            break
    assert preview_after(found, wanted) == seen


def test_it_is_said_how_long_a_run_takes_and_where_to_look_when():
    found = recipe(train_images=10**6)
    wanted = images_to_see(found)
    assert wanted == STEPS_TO_SEE[-1][1] * 64
    preview = preview_after(found, wanted)
    assert timing(found, 1000.0) == [
        "On this machine the run takes about 17 min.",
        f"Samples become recognisable after about {wanted:,} images.",
        f"The preview of {preview:,} images comes in {duration(preview / 1000)}.",
    ]
    assert timing(found, 1000.0, 400_000) == ["On this machine the run takes about 10 min more."]


def test_a_run_that_ends_before_and_a_size_that_nobody_measured_say_so():
    (_, short) = timing(recipe(train_images=1000), 100.0)
    assert short.endswith("this run ends before.")
    (_, large) = timing(recipe(side=256, train_images=10**6), 100.0)
    assert "has not been measured" in large


@pytest.mark.parametrize(("side", "steps"), [(8, STEPS_TO_SEE[0][1]), (16, STEPS_TO_SEE[1][1]), (40, None)])
def test_what_is_wanted_goes_by_steps_and_size(side: int, steps: int | None):
    for batch in (32, 128):
        found = recipe(side, batch_size=batch, training={"warmup_images": 0})
        assert images_to_see(found) == (None if steps is None else steps * batch)


def test_nothing_is_recognised_before_the_warm_up_ends_or_in_an_average_without_a_ramp():
    assert images_to_see(recipe(training={"warmup_images": 640_000})) == 640_000
    assert images_to_see(recipe(training={"ema_ramp": False})) is None
    papers = resolve(load_recipe("cifar10"), Geometry(3, 32, 32), 0)
    assert timing(papers, 100.0)[1:] == ["When samples of such a run become recognisable has not been measured."]


class Passing:
    """A clock on which each step takes so long."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 50.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


@pytest.mark.parametrize("seconds", [0.5, 2.0, 60.0])
def test_it_is_said_once_when_the_speed_is_known_and_the_first_step_is_not_timed(seconds: float):
    said: list[str] = []
    found = recipe(train_images=10**6)
    expecting = Expecting(found, said.append, Passing(seconds))
    when = 1 + max(1, int(SPEED_SECONDS / seconds))
    for step in range(1, 50):
        assert bool(said) == (step > when)
        expecting(step * 64)
    assert said == timing(found, 64 / seconds, 64 * when)


# ---- what the numbers mean ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_explained_for_every_prediction(prediction: str):
    said = meaning(recipe(objective={"prediction": prediction}))[0]
    assert f"mean squared error of the predicted {PREDICTED[prediction]}" in said
    assert ("1 is knowing nothing" in said) == (prediction == "eps")


@pytest.mark.parametrize(
    ("weighting", "linear", "words"),
    [
        ("min-snr", "none", "clean image, times min"),
        ("unit", "none", "of the predicted noise"),
        ("unit", "corrected", "that of a linear prediction"),
        ("uncertainty", "corrected", "that of a linear prediction"),
    ],
)
def test_a_weighted_loss_is_what_it_is_weighted_to(weighting: str, linear: str, words: str):
    assert words in meaning(recipe(objective={"weighting": weighting}, network={"linear": linear}))[0]


def test_a_bound_and_bits_are_explained_where_there_are_some():
    assert "bits/dim" in meaning(recipe(objective={"loss": "bound"}))[0]
    assert not any("bits/dim" in line for line in meaning(recipe()))
    assert "8 is raw, less is better" in meaning(recipe(validation="elsewhere"))[-1]


def test_a_sentence_is_a_line_of_a_terminal():
    long = [recipe(objective={"prediction": name}, validation="here", train_images=10**12) for name in PREDICTIONS]
    for found in (*long, recipe(train_images=10**4), recipe(objective={"loss": "bound"}), recipe(side=256)):
        assert all(len(line) <= 80 for line in [*meaning(found), *timing(found, 0.01, 64)])
