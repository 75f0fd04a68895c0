"""What becomes of alpha: kept where all images have it, refused where only some do, else as the recipe says."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

import ddpm
from ddpm.data.preflight import inspect_source
from ddpm.data.sizing import ALPHA, STRIP, flattened
from ddpm.data.sources import open_images
from ddpm.errors import InputError
from ddpm.model.datasets import images_for, recipe_images
from ddpm.model.recipe import load_recipe, make_recipe
from scorings import stored_model

CLEAR = np.array([[[200, 100, 0, 255], [200, 100, 0, 0]], [[200, 100, 0, 51], [10, 20, 30, 128]]], np.uint8)
ON = {"drop": lambda c, a: c, "white": lambda c, a: c * a + 255 * (1 - a), "black": lambda c, a: c * a}


@pytest.fixture
def stray(folder) -> str:
    """Five images without alpha and a see-through one."""
    files = {f"{k}.png": Image.new("RGB", (2, 2), (k, 0, 0)) for k in range(5)}
    return folder(files | {"stray.png": Image.fromarray(CLEAR)})


def test_a_stray_see_through_image_is_refused_with_the_choices(stray):
    with pytest.raises(InputError, match=r"of 6 images .* 1 is see-through \(stray\.png\).*drop.*white.*black.*keep"):
        open_images(stray)


@pytest.mark.parametrize("alpha", ALPHA)
def test_the_choice_decides_the_pixels(alpha, stray):
    images = open_images(stray, alpha=alpha)
    assert images.geometry.channels == (4 if alpha == "keep" else 3)
    colour, opacity = CLEAR[..., :3].transpose(2, 0, 1), CLEAR[..., 3] / 255
    if alpha == "keep":
        assert (images.read(5) == CLEAR.transpose(2, 0, 1)).all()
        assert (images.read(4)[3] == 255).all()
    else:
        assert (images.read(5) == np.floor(ON[alpha](colour, opacity) + 0.5)).all()
    assert (images.read(4)[0] == 4).all()
    assert (images.array()[5] == images.read(5)).all()


@pytest.mark.parametrize("alpha", ["white", "black"])
def test_strips_of_an_image_are_laid_like_the_whole(alpha):
    draw = np.random.default_rng(1)
    pixels = draw.integers(0, 256, (2, 3, STRIP // 2 + 1), np.uint8)
    whole = ON[alpha](pixels[:1].astype(float), pixels[1:] / 255)
    assert (flattened(pixels, alpha) == np.floor(whole + 0.5)).all()


def test_a_ground_is_laid_before_the_image_is_scaled(folder):
    source = folder({"a.png": Image.fromarray(np.repeat(CLEAR[:1], 2, axis=0)), "b.png": Image.new("RGB", (2, 2))})
    scaled = open_images(source, size=(1, 1), alpha="white").read(0)
    assert scaled[:, 0, 0].tolist() == pytest.approx([228, 178, 128], abs=1)  # between opaque colour and white


def test_a_stray_opaque_alpha_does_not_turn_a_set_into_four_channels(folder, noise):
    source = folder({"a.png": noise(0), "b.png": noise(1).convert("RGBA"), "c.png": noise(2, "L")})
    images = open_images(source)
    assert images.geometry.channels == 3
    assert images.fingerprint == open_images(source, channels=3).fingerprint
    assert open_images(source, channels=4).read(0).shape == (4, 16, 16)  # as models of four channels ask for


def test_alpha_that_all_images_have_is_kept_as_before(folder, noise, encoded):
    files = {"a.png": noise(0, "RGBA"), "b.png": noise(1, "LA")}
    images = open_images(folder(files))
    assert images.geometry.channels == 4
    names = "".join(f"{name}\0{len(encoded(image))}\n" for name, image in files.items())
    digest = hashlib.sha256(names.encode()).hexdigest()
    for alpha, end in ((None, ""), ("keep", ""), ("drop", "drop/"), ("white", "white/")):
        found = open_images(folder(files), alpha=alpha)
        assert found.geometry.channels == (3 if end else 4)
        rule = f"{digest}/{found.geometry}/as it is/{end}none"
        assert found.fingerprint == hashlib.sha256(rule.encode()).hexdigest()


def test_a_choice_without_alpha_to_choose_for_changes_nothing(folder, noise):
    source = folder({"a.png": noise(0), "b.png": noise(1)})
    assert len({open_images(source, alpha=alpha).fingerprint for alpha in (None, *ALPHA)}) == 1


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_taken_away_and_wanted_is_refused(channels, stray):
    with pytest.raises(InputError, match=f"channels = {channels}"):
        open_images(stray, alpha="drop", channels=channels)
    with pytest.raises(InputError, match=r"alpha.*keep.*drop.*white.*black"):
        open_images(stray, alpha="checkers")


def test_channels_that_lose_transparency_name_the_choices(stray):
    with pytest.raises(InputError, match=r"loses the transparency of stray\.png.*white"):
        open_images(stray, channels=3)
    assert open_images(stray, channels=3, alpha="white").geometry.channels == 3


def test_alpha_of_arrays_is_laid_over_a_ground_too(tmp_path):
    np.save(tmp_path / "set.npy", np.repeat(CLEAR[None], 5, axis=0).repeat(4, axis=1).repeat(4, axis=2))
    assert open_images(str(tmp_path / "set.npy")).geometry.channels == 4
    images = open_images(str(tmp_path / "set.npy"), alpha="white")
    assert images.array()[3, :, 0, 7].tolist() == [255, 255, 255]
    assert images.read(3)[:, 0, 0].tolist() == [200, 100, 0]


def test_recipes_models_and_the_api_choose(stray, tmp_path):
    changes = {"data": stray, "network": {"multipliers": [1, 1]}}
    with pytest.raises(InputError, match="see-through"):
        recipe_images(load_recipe("small", changes))
    for alpha, channels in (("white", 3), ("keep", 4)):
        recipe = load_recipe("small", changes | {"alpha": alpha})
        assert recipe_images(recipe).geometry.channels == channels
        assert ddpm.images(stray, alpha=alpha).geometry.channels == channels
    image = {"channels": 3, "height": 2, "width": 2}
    model = stored_model(tmp_path / "model", image=image, alpha="black")
    assert (images_for(model, stray).array() == open_images(stray, alpha="black").array()).all()
    with pytest.raises(InputError, match="alpha"):
        load_recipe("small", {"alpha": "checkers"})


def test_a_recipe_stored_without_the_key_loads_and_means_what_it_did(folder, noise):
    table = load_recipe("small").model_dump()
    del table["alpha"]
    source = folder({"a.png": noise(0), "b.png": noise(1, "RGBA")})
    image = {"channels": 4, "height": 16, "width": 16}
    images = recipe_images(make_recipe(table | {"data": source, "image": image}))  # as a run of it resolved them
    assert images.geometry.channels == 4
    assert (images.read(1) == np.asarray(noise(1, "RGBA")).transpose(2, 0, 1)).all()


def test_the_report_says_which_images_are_see_through_and_how_many(stray):
    report = inspect_source(stray)
    assert (report.alpha, report.see_through) == (1, ("stray.png",))
    assert "alpha       in 1 of 6 images, 1 see-through: stray.png" in report.lines()
    assert any("others have no alpha" in hint and '"white"' in hint for hint in report.suggestions)


def test_the_report_says_that_alpha_is_opaque_or_not_there(folder, noise):
    files = {"a.png": noise(0).convert("RGBA"), "b.png": noise(1)}
    assert "alpha       in 1 of 2 images, opaque everywhere" in inspect_source(folder(files)).lines()
    assert "alpha       none" in inspect_source("digits[0:3]").lines()
