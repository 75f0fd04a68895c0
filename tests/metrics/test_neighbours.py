"""Nearest training images: against brute force in whole numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ddpm.data.sources import image_set
from ddpm.errors import InputError
from ddpm.metrics.neighbours import nearest_neighbours


def images(seed: int, count: int, shape: tuple[int, int, int] = (1, 8, 8)) -> np.ndarray:
    """A random 4-dimensional mix of fixed patterns, so that neighbours differ in distance."""
    patterns = np.random.default_rng(99).normal(size=(4, *shape))
    mix = np.random.default_rng(seed).normal(size=(count, 4))
    return np.clip(128 + 30 * np.tensordot(mix, patterns, 1), 0, 255).astype(np.uint8)


def by_hand(samples: np.ndarray, training: np.ndarray) -> np.ndarray:
    """All distances in whole numbers, exact until the root."""
    return np.array([[math.sqrt(((a.astype(int) - b.astype(int)) ** 2).sum()) for b in training] for a in samples])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 9), (4, 32, 32)])
@pytest.mark.parametrize("count", [1, 4])
def test_neighbours_are_those_of_brute_force(shape: tuple[int, int, int], count: int):
    """4 x 32 x 32 levels sum to 2.7e8, beyond float32's whole numbers: 1e-3 of a grey level must still be right."""
    samples, training = images(1, 12, shape), images(2, 40, shape)
    distances, indices = nearest_neighbours(samples, training, count=count)
    assert distances.shape == indices.shape == (12, count)
    assert distances.dtype == np.float64
    everything = by_hand(samples, training)
    assert distances == pytest.approx(np.sort(everything, 1)[:, :count], abs=1e-3)
    assert np.take_along_axis(everything, indices, 1) == pytest.approx(distances, abs=1e-3)


def test_bright_images_that_differ_by_one_level_are_one_apart():
    """|x|^2 is 2e8 here: distances formed from squared norms in float32 would be off by tens."""
    training = np.full((1, 3, 32, 32), 255, np.uint8)
    sample = training.copy()
    sample[0, 0, 0, 0] = 254
    assert nearest_neighbours(sample, training)[0].item() == pytest.approx(1, abs=1e-3)
    assert nearest_neighbours(training, training)[0].item() == 0


def test_no_more_neighbours_come_than_there_are_images():
    distances, indices = nearest_neighbours(images(1, 3), images(2, 2), count=5)
    assert distances.shape == indices.shape == (3, 2)


def test_sources_and_image_sets_are_taken_like_arrays(tmp_path: Path):
    samples, training = images(1, 3), images(2, 20)
    np.savez(tmp_path / "training.npz", training)
    expected = nearest_neighbours(samples, training, count=2)
    for known in (str(tmp_path / "training.npz"), tmp_path / "training.npz", image_set(training)):
        for one, other in zip(nearest_neighbours(image_set(samples), known, count=2), expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("samples", "training", "words"),
    [
        (images(1, 3, (1, 8, 9)), images(2, 3), r"\(1, 8, 9\).*\(1, 8, 8\)"),
        (images(1, 3) / 255, images(2, 3), "^images must be uint8"),
        (images(1, 3), images(2, 3)[0], "^training images must be uint8"),
        (None, images(2, 3), "^images must be"),
        ("nowhere", images(2, 3), "'nowhere'"),
    ],
)
def test_what_does_not_compare_is_refused(samples: object, training: object, words: str):
    with pytest.raises(InputError, match=words):
        nearest_neighbours(samples, training)


def test_no_neighbours_at_all_are_refused():
    with pytest.raises(InputError, match=r"^0 neighbours"):
        nearest_neighbours(images(1, 3), images(2, 3), count=0)
