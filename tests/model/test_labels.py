"""Classes of images as a model counts them: by name in any order, by a mapping, or none; never a wrong one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm.data.sources import ImageSet
from ddpm.errors import InputError
from ddpm.model.labels import Labelling, labelling
from ddpm.model.model import Model
from ddpm.model.scoring import scoring_for
from scorings import image_set, pixels, stored_model

SHAPE = (1, 4, 4)
NAMES = ("cat", "dog", "owl")
NUMBERS = [0, 1, 2, 2, 1, 0, 0]
ALL = np.arange(len(NUMBERS))


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """It needs a class with each image."""
    return stored_model(tmp_path / "model", NAMES, network={"classes": 3})


@pytest.fixture
def free(tmp_path: Path) -> Model:
    """Trained with label drop-out: 3 is no class."""
    return stored_model(tmp_path / "free", NAMES, network={"classes": 3}, training={"label_dropout": 0.1})


def images(*names: str) -> ImageSet:
    """Seven images of these classes, or of none."""
    return image_set(pixels(len(NUMBERS), SHAPE), NUMBERS if names else None, names)


def given(model: Model, images: ImageSet, labels: Any = "match", rows: np.ndarray = ALL) -> list[int]:
    found = labelling(model, images, labels).of(images, rows)
    assert found is not None
    return found.tolist()


def test_names_are_met_in_any_order_and_nothing_is_said(model: Model, free: Model):
    for some in (model, free):
        assert given(some, images(*NAMES)) == NUMBERS
        assert given(some, images("owl", "cat", "dog")) == [[2, 0, 1][k] for k in NUMBERS]
        assert labelling(some, images("owl", "cat", "dog"), "match").remark == ""
        assert scoring_for(some, images("owl", "cat", "dog")).labels.tolist() == [[2, 0, 1][k] for k in NUMBERS]


def test_a_class_without_images_needs_no_name(model: Model):
    some = image_set(pixels(2, SHAPE), [1, 1], ("bird", "dog"))
    assert given(model, some, rows=np.arange(2)) == [1, 1]


@pytest.mark.parametrize("labels", [{"Katze": "cat", "Hund": "dog"}, "Katze=cat,Hund=dog", " Hund = dog, Katze= cat "])
def test_names_are_mapped_and_what_is_left_out_is_met_by_name(labels: Any, model: Model):
    """The case of another language: without the mapping it is refused."""
    foreign = images("Hund", "Katze", "owl")
    with pytest.raises(InputError, match=r"Hund, Katze; it knows cat, dog, owl; --labels says how: .*Katze=cat"):
        labelling(model, foreign, "match")
    assert given(model, foreign, labels) == [[1, 0, 2][k] for k in NUMBERS]
    assert labelling(model, foreign, labels).remark == "classes met as named: Hund as dog, Katze as cat"


def test_two_classes_may_be_one(model: Model):
    assert given(model, images("cat", "dog", "kitten"), "kitten=cat") == [[0, 1, 0][k] for k in NUMBERS]


def test_a_model_that_learned_to_do_without_scores_images_of_other_classes_or_none(free: Model):
    assert given(free, images()) == [3] * 7
    assert given(free, images("Hund", "cat", "owl")) == [[3, 0, 2][k] for k in NUMBERS]
    assert given(free, images("Hund", "Katze", "Eule")) == [3] * 7
    assert "no classes" in labelling(free, images(), "match").remark
    assert labelling(free, images("Hund", "cat", "owl"), "match").remark.endswith("scored without one: Hund")
    for absent in (images(), images("Hund", "cat", "owl")):  # where nothing can be chosen: training, tuning
        assert given(free, absent, None) == given(free, absent)
        with pytest.warns(UserWarning, match=r"^here: .* scored without one"):
            assert scoring_for(free, absent).labels.tolist() == given(free, absent)


def test_ignored_classes_are_none_where_the_model_learned_that_and_drawn_where_it_did_not(model: Model, free: Model):
    assert given(free, images(*NAMES), "ignore") == [3] * 7
    assert labelling(free, images(*NAMES), "ignore").remark.endswith("scored without one")
    for some in (images(*NAMES), images(), images("Hund", "Katze", "Eule")):
        found = labelling(model, some, "ignore")
        assert found.remark.endswith("drawn by the seed")
        drawn = found.of(some, ALL, seed=1)
        assert set(drawn) <= {0, 1, 2}
        assert (found.of(some, ALL[2:5], seed=1) == drawn[2:5]).all(), "of the row, whatever else is scored"
    many = image_set(pixels(3000, SHAPE))
    counts = np.bincount(labelling(model, many, "ignore").of(many, np.arange(3000)), minlength=3)
    assert np.abs(counts - 1000).max() < 5 * (3000 * 2 / 9) ** 0.5
    assert Labelling(3).of(many, np.arange(9), 0).tolist() != Labelling(3).of(many, np.arange(9), 1).tolist()


def test_images_without_classes_are_refused_with_the_choices_only_where_there_are_any(model: Model):
    with pytest.raises(InputError, match=r"a class with each image \(cat, dog, owl\), and 'here' has none; --labels"):
        labelling(model, images(), "match")
    for absent in (images(), images("Hund", "cat", "owl")):
        with pytest.raises(InputError) as caught:
            scoring_for(model, absent)
        assert "--labels" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("Katze", "'Katze' are not understood"),
        ("", "are not understood"),
        ("Katze=", "are not understood"),
        ("=cat", "are not understood"),
        ("Hund=dog,,", "are not understood"),
        ("Hund=dog,Hund=cat", "class 'Hund' twice"),
        ("Maus=cat", r"'here' has no class 'Maus' .*Hund, Katze, owl"),
        ("Hund=mouse", r"model' has no class 'mouse' .*cat, dog, owl"),
        ({"Hund": "mouse"}, "no class 'mouse'"),
        ({"a": 1}, "no class 'a'"),
        ("Hund=dog", "Katze; it knows"),
    ],
)
def test_what_is_not_understood_is_refused(labels: Any, words: str, model: Model):
    with pytest.raises(InputError, match=words) as caught:
        labelling(model, images("Hund", "Katze", "owl"), labels)
    assert re.search(r"[^.]\.$", str(caught.value))


def test_a_model_without_classes_overlooks_them_but_takes_no_mapping(tmp_path: Path):
    plain = stored_model(tmp_path / "model")
    for labels in ("match", "ignore", None):
        assert labelling(plain, images(*NAMES), labels).of(images(*NAMES), ALL) is None
    with pytest.raises(InputError, match="without classes"):
        labelling(plain, images(*NAMES), "cat=dog")
