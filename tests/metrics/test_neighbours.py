"""Nearest training images: against brute force, on copies, and on samples of the very same distribution."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ddpm.errors import InputError
from ddpm.evaluation import nearest_neighbours, neighbour_report


def images(seed: int, count: int, shape: tuple[int, int, int] = (1, 8, 8)) -> np.ndarray:
    """Smooth-ish pictures: a random 4-dimensional mix of fixed patterns, so that neighbours differ in distance."""
    patterns = np.random.default_rng(99).normal(size=(4, *shape))
    mix = np.random.default_rng(seed).normal(size=(count, 4))
    return np.clip(128 + 30 * np.tensordot(mix, patterns, 1), 0, 255).astype(np.uint8)


def by_hand(pictures: np.ndarray, training: np.ndarray) -> np.ndarray:
    """All distances in whole numbers, exact until the root."""
    return np.array([[math.sqrt(((a.astype(int) - b.astype(int)) ** 2).sum()) for b in training] for a in pictures])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 9), (4, 32, 32)])
@pytest.mark.parametrize("count", [1, 4])
def test_neighbours_are_those_of_brute_force(shape: tuple[int, int, int], count: int):
    """4 x 32 x 32 levels sum to 2.7e8, beyond float32's whole numbers: 1e-3 of a grey level must still be right."""
    pictures, training = images(1, 12, shape), images(2, 40, shape)
    distances, indices = nearest_neighbours(pictures, training, count=count)
    assert distances.shape == indices.shape == (12, count)
    assert distances.dtype == np.float64
    everything = by_hand(pictures, training)
    assert distances == pytest.approx(np.sort(everything, 1)[:, :count], abs=1e-3)
    assert np.take_along_axis(everything, indices, 1) == pytest.approx(distances, abs=1e-3)


def test_bright_pictures_that_differ_by_one_level_are_one_apart():
    """|x|^2 is 2e8 here: distances formed from squared norms in float32 would be off by tens."""
    training = np.full((1, 3, 32, 32), 255, np.uint8)
    picture = training.copy()
    picture[0, 0, 0, 0] = 254
    assert nearest_neighbours(picture, training)[0].item() == pytest.approx(1, abs=1e-3)
    assert nearest_neighbours(training, training)[0].item() == 0


def test_no_more_neighbours_come_than_there_are_images():
    distances, indices = nearest_neighbours(images(1, 3), images(2, 2), count=5)
    assert distances.shape == indices.shape == (3, 2)


def test_copies_of_training_images_are_found_out():
    training, held_out = images(2, 300), images(3, 200)
    report = neighbour_report(training[50:90], training, held_out)
    assert (report.samples, report.held_out, report.training) == (40, 200, 300)
    assert report.median == report.ratio == 0
    assert report.copies == 1
    _, indices = nearest_neighbours(training[50:90], training)
    assert indices[:, 0].tolist() == list(range(50, 90))


def test_a_share_of_copies_is_reported_as_that_share():
    training, held_out, others = images(2, 300), images(3, 400), images(4, 150)
    report = neighbour_report(np.concatenate([training[:50], others]), training, held_out)
    # a quarter, and 1 % of the others with the scatter of a percentile of 400 (1 %) and of 150 draws (0.8 %)
    assert report.copies == pytest.approx(0.25 + 0.75 * 0.01, abs=0.75 * 0.04)


def test_samples_of_the_same_distribution_are_as_far_as_held_out_images():
    """The median of 600 distances with relative spread 0.5: a standard error of 1.25 x 0.5 / sqrt(600) = 2.6 % each."""
    report = neighbour_report(images(5, 600), images(2, 300), images(3, 600))
    assert report.ratio == pytest.approx(1, abs=4 * 0.026 * 2**0.5)
    assert report.copies <= 0.04
    assert report.ratio == pytest.approx(report.median / report.held_out_median)


def test_the_report_holds_what_brute_force_gives():
    samples, training, held_out = images(5, 30), images(2, 50), images(3, 40)
    near, usual = by_hand(samples, training).min(1), by_hand(held_out, training).min(1)
    report = neighbour_report(samples, training, held_out)
    assert report.median == pytest.approx(np.median(near), abs=1e-3)
    assert report.held_out_median == pytest.approx(np.median(usual), abs=1e-3)
    assert report.copies == np.mean(near < np.quantile(usual, 0.01))
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()


def test_held_out_images_that_were_trained_on_are_refused():
    """They lie at distance 0 and no ratio to that means anything; the person named the wrong split."""
    training = images(2, 50)
    with pytest.raises(InputError):
        neighbour_report(images(5, 30), training, training)


def test_copies_are_found_out_even_where_held_out_images_repeat_training_images():
    """Sets hold duplicates: with 2 % of the held-out at distance 0 the first percentile is 0, like every copy."""
    training = images(2, 300)
    held_out = np.concatenate([training[:4], images(3, 196)])
    assert neighbour_report(training[50:90], training, held_out).copies == 1
