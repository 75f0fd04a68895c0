"""Images as a model was trained to see them: which source and split, at what size, and what is refused by name."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.data.sizing import fitted
from ddpm.data.sources import open_images
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


# ---- images of other sizes ------------------------------------------------------------------------------------------


def test_images_of_several_sizes_come_to_the_models_by_fit_or_size(model: Model, tmp_path: Path):
    src = folder_of(tmp_path / "images", (8, 8), (12, 20), (9, 7))
    with pytest.raises(InputError, match=r"differ in size.*1 x 8 x 8; --fit crop or --fit resize"):
        images_for(model, src)
    crop, resize = (images_for(model, src, fit=fit) for fit in ("crop", "resize"))
    for found, fit in ((crop, "crop"), (resize, "resize")):
        expected = open_images(src, size=(8, 8), fit=fit)
        assert (found.array() == expected.array()).all()
        assert found.fingerprint == expected.fingerprint
    assert (crop.array()[1] != resize.array()[1]).any()
    for size in (8, "8", "8x8"):
        assert images_for(model, src, size=size).fingerprint == crop.fingerprint, "the recipe's fit"
    assert images_for(model, src, size=8, fit="resize").fingerprint == resize.fingerprint


def test_fit_comes_before_the_recipes(tmp_path: Path):
    src = folder_of(tmp_path / "images", (8, 12), (10, 14))
    model = stored_model(tmp_path / "model", image={"height": 8, "width": 8}, size="8", fit="resize")
    assert images_for(model, src, fit="crop").fingerprint == open_images(src, size=(8, 8)).fingerprint
    assert images_for(model, src).fingerprint == open_images(src, size=(8, 8), fit="resize").fingerprint


def test_arrays_and_image_sets_are_fitted_too(model: Model):
    array = pixels(3, (1, 12, 20))
    assert (images_for(model, array, fit="resize").array()[0] == fitted(array[0], model.geometry, "resize")).all()
    twice = [images_for(model, image_set(array), fit=fit).fingerprint for fit in ("crop", "resize", "crop")]
    assert twice[0] == twice[2] != twice[1]
    for images in (array, image_set(array)):
        with pytest.raises(InputError, match=r"1 x 12 x 20.*--fit crop or --fit resize"):
            images_for(model, images)


def test_a_size_that_is_not_the_models_or_a_fit_that_is_none_is_refused(model: Model):
    for options, words in (
        ({"size": 9}, "size 9 is not that of the model's images, 1 x 8 x 8"),
        ({"size": "8x9", "fit": "crop"}, "8x9"),
        ({"size": "big"}, "'big'"),
        ({"fit": "stretch"}, "no fit 'stretch'.*crop, resize"),
    ):
        with pytest.raises(InputError, match=words):
            images_for(model, "digits:test", **options)


def test_channels_are_no_matter_of_fit(model: Model):
    with pytest.raises(InputError, match="3 x 8 x 8") as caught:
        images_for(model, pixels(2, (3, 8, 8)))
    assert "--fit" not in str(caught.value)
