"""Memorisation: copies are found out, and samples of the very same distribution are not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpm
from ddpm.base.image_io import grid
from ddpm.errors import InputError
from ddpm.evaluation import memorisation
from ddpm.evaluation.memorisation import MemorisationReport, held_out_distances, measure_memorisation
from ddpm.metrics.neighbours import nearest_neighbours
from ddpm.model.model import Model
from scorings import image_set, pixels, stored_model

SHAPE = (1, 8, 8)


def images(seed: int, count: int) -> np.ndarray:
    """A random 4-dimensional mix of fixed patterns, so that neighbours differ in distance."""
    patterns = np.random.default_rng(99).normal(size=(4, *SHAPE))
    mix = np.random.default_rng(seed).normal(size=(count, 4))
    return np.clip(128 + 30 * np.tensordot(mix, patterns, 1), 0, 255).astype(np.uint8)


def measured(samples: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> MemorisationReport:
    return measure_memorisation(samples, training, held_out_distances(held_out, training))


# ---- the numbers ----------------------------------------------------------------------------------------------------


def test_copies_of_training_images_are_found_out():
    training, held_out = images(2, 300), images(3, 200)
    report = measured(training[50:90], training, held_out)
    assert (report.samples, report.held_out, report.training) == (40, 200, 300)
    assert report.median == report.ratio == 0
    assert report.copies == 1
    _, indices = nearest_neighbours(training[50:90], training)
    assert indices[:, 0].tolist() == list(range(50, 90))


def test_a_share_of_copies_is_reported_as_that_share():
    training, held_out, others = images(2, 300), images(3, 400), images(4, 150)
    report = measured(np.concatenate([training[:50], others]), training, held_out)
    # a quarter, and 1 % of the others with the scatter of a percentile of 400 (1 %) and of 150 draws (0.8 %)
    assert report.copies == pytest.approx(0.25 + 0.75 * 0.01, abs=0.75 * 0.04)


def test_samples_of_the_same_distribution_are_as_far_as_held_out_images():
    """The median of 600 distances with relative spread 0.5: a standard error of 1.25 x 0.5 / sqrt(600) = 2.6 % each."""
    report = measured(images(5, 600), images(2, 300), images(3, 600))
    assert report.ratio == pytest.approx(1, abs=4 * 0.026 * 2**0.5)
    assert report.copies <= 0.04
    assert report.ratio == pytest.approx(report.median / report.held_out_median)


def test_the_report_holds_what_brute_force_gives():
    def nearest(some: np.ndarray) -> np.ndarray:
        """In whole numbers until the root."""
        return np.array([min(math.sqrt(((a.astype(int) - b) ** 2).sum()) for b in training.astype(int)) for a in some])

    samples, training, held_out = images(5, 30), images(2, 50), images(3, 40)
    near, usual = nearest(samples), nearest(held_out)
    report = measured(samples, training, held_out)
    assert report.median == pytest.approx(np.median(near), abs=1e-3)
    assert report.held_out_median == pytest.approx(np.median(usual), abs=1e-3)
    assert report.copies == np.mean(near < np.quantile(usual, 0.01))
    table = report.table()
    assert json.loads(json.dumps(table)) == table
    assert table["memorisation"]["median"] == report.median


def test_copies_are_found_out_even_where_held_out_images_repeat_training_images():
    """Sets hold duplicates: with 2 % of the held-out at distance 0 the first percentile is 0, like every copy."""
    training = images(2, 300)
    held_out = np.concatenate([training[:4], images(3, 196)])
    assert measured(training[50:90], training, held_out).copies == 1


def test_held_out_images_that_were_trained_on_are_refused():
    """They lie at distance 0, and a ratio to that says nothing: the wrong split was named."""
    training = images(2, 50)
    with pytest.raises(InputError):
        held_out_distances(training, training)


# ---- of a model -----------------------------------------------------------------------------------------------------

TRAINING, HELD_OUT = image_set(pixels(60, SHAPE, seed=1), name="training"), image_set(pixels(40, SHAPE, seed=2))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Twelve levels, 8 x 8 grey pixels, weights at random."""
    return stored_model(tmp_path_factory.mktemp("models") / "model", image={"height": 8, "width": 8})


def test_samples_of_a_model_are_those_of_sample_and_are_shown_beside_their_neighbours(model: Model, tmp_path: Path):
    samples = ddpm.sample(model, seeds=range(3, 14), steps=3)
    report = ddpm.evaluate_memorisation(
        model, HELD_OUT, training_data=TRAINING, seeds=range(3, 14), steps=3, out=tmp_path
    )
    expected = measured(samples, TRAINING.array(), HELD_OUT.array())
    assert report.table()["memorisation"] == expected.table()["memorisation"] | {"source": model.source}
    assert report.samples == 11
    _, indices = nearest_neighbours(samples[:8], TRAINING.array(), count=7)
    rows = np.concatenate([samples[:8, None], TRAINING.array()[indices]], axis=1)
    with Image.open(tmp_path / "memorisation.png") as shown:
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(grid(rows.reshape(-1, *SHAPE), columns=8)))


def test_neighbours_are_looked_for_once_on_either_side(model: Model, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def counted(some: np.ndarray, *args: object, **how: object) -> object:
        asked.append(len(some))
        return nearest_neighbours(some, *args, **how)

    monkeypatch.setattr(memorisation, "nearest_neighbours", counted)
    ddpm.evaluate_memorisation(model, HELD_OUT, training_data=TRAINING, seeds=range(5), steps=1)
    assert asked == [40, 5]


def test_256_samples_are_drawn_and_nothing_is_written_unless_asked(model: Model, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = ddpm.evaluate_memorisation(model, HELD_OUT.array(), training_data=TRAINING.array(), steps=1)
    assert report.samples == 256
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_is_refused_before_anything_is_drawn(model: Model, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(memorisation, "draw", lambda *args, **how: pytest.fail("it was drawn"))
    for data, how, words in (
        (TRAINING, {}, "training images"),
        (HELD_OUT, {"training_data": None}, "training images"),  # the recipe's source is not there
        (image_set(pixels(40, (1, 8, 4))), {}, r"1 x 8 x 4"),
        (HELD_OUT, {"steps": 13}, "1 to 12"),
        (HELD_OUT, {"sampler": "dim"}, "ddim"),
        (None, {}, "images"),
    ):
        with pytest.raises(InputError, match=words):
            ddpm.evaluate_memorisation(model, data, **({"training_data": TRAINING} | how))
