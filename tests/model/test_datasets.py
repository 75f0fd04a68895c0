"""Images as a model was trained to see them: which source and split, at what size, and what is refused by name."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.errors import InputError
from ddpm.model.datasets import check_geometry, images_for, recipe_images, training_images
from ddpm.model.model import Model
from ddpm.model.recipe import changed
from scorings import image_set, pixels, stored_model


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Of 1 x 8 x 8, as digits are."""
    return stored_model(tmp_path / "model", image={"height": 8, "width": 8}, data="digits")


def folder_of(folder: Path, *sizes: tuple[int, int], mode: str = "L") -> str:
    """Grey PNGs of these (height, width), stored in a mode."""
    folder.mkdir()
    for k, size in enumerate(sizes):
        noise = np.random.default_rng(k).integers(0, 256, size, np.uint8)
        Image.fromarray(noise).convert(mode).save(folder / f"{k}.png")
    return str(folder)


def test_a_source_is_sized_and_coloured_as_the_model_was_trained_to_see_it(tmp_path: Path):
    src = folder_of(tmp_path / "images", (8, 8), (10, 14), mode="RGB")
    model = stored_model(tmp_path / "model", image={"height": 8, "width": 8}, size="8")
    found = images_for(model, src)
    assert found.geometry == model.geometry
    assert found.array().shape == (2, 1, 8, 8)
    squeezed = replace(model, recipe=changed(model.recipe, {"fit": "resize"}))
    assert (images_for(squeezed, Path(src)).array()[1] != found.array()[1]).any()


def test_arrays_and_image_sets_are_taken_as_they_are(model: Model):
    images = image_set(pixels(3, (1, 8, 8)))
    assert images_for(model, images) is images
    assert (images_for(model, pixels(3, (1, 8, 8))).array() == pixels(3, (1, 8, 8))).all()


def test_a_source_of_another_geometry_is_refused_by_name(model: Model, tmp_path: Path):
    src = folder_of(tmp_path / "images", (8, 16), (8, 16))
    with pytest.raises(InputError, match=r"images' are .*8 x 16.*8 x 8|images' are .*8x16.*8x8"):
        images_for(model, src)
    check_geometry(model, image_set(pixels(1, (1, 8, 8))))
    with pytest.raises(InputError, match="'here'"):
        check_geometry(model, image_set(pixels(1, (2, 8, 8))))


def test_images_of_several_sizes_are_refused_by_name_with_the_models(model: Model, tmp_path: Path):
    src = folder_of(tmp_path / "images", (8, 8), (8, 9))
    with pytest.raises(InputError, match=f"images' differ in size, .*{model.geometry}"):
        images_for(model, src)


def test_a_source_with_splits_must_name_one_but_where_something_is_fitted(model: Model):
    with pytest.raises(InputError, match="test"):
        images_for(model, "digits")
    assert len(images_for(model, "digits:test")) == 297
    assert len(images_for(model, "digits", split="train")) == len(training_images(model, "digits")) == 1500
    assert len(training_images(model, "digits:test")) == 297
    assert len(recipe_images(model.recipe)) == 1500


def test_without_data_there_are_those_of_the_recipe_and_others_are_warned_of(model: Model):
    fingerprint = recipe_images(model.recipe).fingerprint
    for known in ("", fingerprint):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert training_images(replace(model, data_fingerprint=known)).fingerprint == fingerprint
    other = replace(model, data_fingerprint="0" * 64)
    with pytest.warns(UserWarning, match=model.source):
        training_images(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training_images(other, "digits")


def test_training_images_that_are_not_known_or_not_there_name_the_option_that_gives_others(model: Model):
    nameless = replace(model, recipe=changed(model.recipe, {"data": None}))
    gone = replace(model, recipe=changed(model.recipe, {"data": "nowhere/at/all"}))
    for option in ("--data", "--training-data"):
        with pytest.raises(InputError, match=f"'{model.source}'.*{option}"):
            training_images(nameless, option=option)
        with pytest.raises(InputError, match=f"{option}.*nowhere/at/all"):
            training_images(gone, option=option)
    with pytest.raises(InputError, match="--data"):
        recipe_images(nameless.recipe)
