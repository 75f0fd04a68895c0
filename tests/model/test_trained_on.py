"""Images that a model was trained on are recognised by their pixels, however they are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpm
from ddpm.model import trained_on as module
from ddpm.model.datasets import images_for
from ddpm.model.model import Model
from ddpm.model.trained_on import TrainedOn, trained_on
from scorings import image_set, pixels, stored_model


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Trained on digits, as its recipe says; it may have been others."""
    return stored_model(tmp_path / "model", image={"height": 8, "width": 8}, data="digits")


def found(model: Model, src: str) -> tuple[int | None, int]:
    told = trained_on(model, images_for(model, src))
    return told.shared, told.compared


def test_all_some_and_none_are_told_apart(model: Model):
    assert found(model, "digits:train") == (1500, 1500)
    assert found(model, "digits:train[7:27]") == (20, 20)
    assert found(model, "digits:test") == (0, 297)
    both = np.concatenate([ddpm.images("digits:train[0:5]").array(), ddpm.images("digits:test[0:9]").array()])
    assert trained_on(model, image_set(both)) == TrainedOn("here", 5, 14)


def test_rows_that_are_scored_are_compared_and_no_others(model: Model):
    both = image_set(np.concatenate([pixels(6, (1, 8, 8)), ddpm.images("digits:train[0:6]").array()]))
    assert trained_on(model, both, np.arange(6)).shared == 0
    assert trained_on(model, both, np.array([1, 7, 9])) == TrainedOn("here", 2, 3)


def test_of_many_images_a_sample_is_compared(model: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "COMPARED", 50)
    assert found(model, "digits:train[1:]") == (50, 50)


def test_the_fingerprint_is_enough_where_the_training_images_are_gone(model: Model):
    images = ddpm.images("digits:train", size=None)
    gone = replace(model, recipe=model.recipe.model_copy(update={"data": "nowhere/at/all"}))
    assert trained_on(gone, images) == TrainedOn("digits:train", None, 1500)
    assert trained_on(replace(gone, data_fingerprint=images.fingerprint), images).shared == 1500
    nameless = replace(model, recipe=model.recipe.model_copy(update={"data": None}))
    assert trained_on(nameless, images).shared is None


@pytest.mark.parametrize("most", [10**9, 64], ids=["all are read", "by file name"])
def test_files_are_met_in_another_folder_and_below_a_split(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of more training images than are read, only those of the same file names are: here one of twelve may be."""
    monkeypatch.setattr(module, "MOST_PIXELS", most)
    array = pixels(12, (1, 10, 8))
    for k, image in enumerate(array):
        for folder in ("data/train", "copy") if k == 3 else ("data/train",):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(tmp_path / folder / f"{k}.png")
    (tmp_path / "data" / "test").mkdir()
    Image.fromarray(pixels(1, (1, 10, 8), seed=1)[0, 0]).save(tmp_path / "data" / "test" / "3.png")
    recipe = {"image": {"height": 8, "width": 8}, "size": "8", "data": str(tmp_path / "data")}
    model = stored_model(tmp_path / "model", **recipe)
    assert found(model, str(tmp_path / "copy")) == (1, 1)
    assert found(model, str(tmp_path / "data" / "train[3:4]")) == (1, 1)
    assert found(model, str(tmp_path / "data:test")) == (0, 1)


def test_a_training_image_that_can_no_longer_be_read_is_not_met(tmp_path: Path):
    (tmp_path / "data").mkdir()
    Image.fromarray(pixels(1, (1, 4, 4))[0, 0]).save(tmp_path / "data" / "0.png")
    (tmp_path / "data" / "1.png").write_bytes(b"no image")
    model = stored_model(tmp_path / "model", data=str(tmp_path / "data"))
    assert trained_on(model, image_set(pixels(1, (1, 4, 4)))).shared == 1


def test_one_sentence_says_it_and_nothing_is_said_of_none():
    assert TrainedOn("SRC", 0, 9).sentences() == TrainedOn("SRC", None, 9).sentences() == []
    (sentence,) = TrainedOn("SRC", 9, 9).sentences()
    assert sentence == "All 9 images compared of SRC are images that the model was trained on."
    (sentence,) = TrainedOn("SRC", 3, 2048).sentences()
    assert sentence == "3 of 2,048 images compared of SRC are images that the model was trained on."
    assert TrainedOn("SRC", 3, 9).table() == {"images": 3, "of": 9}


def test_see_through_training_images_are_met_as_the_model_saw_them(tmp_path: Path):
    (tmp_path / "data").mkdir()
    levels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 4), np.uint8)
    for k, image in enumerate(levels):
        Image.fromarray(image).save(tmp_path / "data" / f"{k}.png")
    model = stored_model(
        tmp_path / "model", image={"channels": 3, "height": 8, "width": 8}, data=str(tmp_path / "data"), alpha="white"
    )
    over_white = ddpm.images(tmp_path / "data", alpha="white").array()
    assert trained_on(model, image_set(over_white[:3])) == TrainedOn("here", 3, 3)
    assert images_for(model, levels[:2]).geometry.channels == 3
