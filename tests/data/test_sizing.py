"""The sizing rule against what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddpm.base.geometry import Geometry
from ddpm.data.sizing import FITS, covering_size, fitted, to_channels

SIDES = st.integers(1, 40)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_an_image_of_the_size_passes_bit_for_bit(fit, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 9, 14), np.uint8)
    assert (fitted(pixels, Geometry(channels, 9, 14), fit) == pixels).all()


@pytest.mark.parametrize("fit", FITS)
@given(height=SIDES, width=SIDES, to_height=SIDES, to_width=SIDES, level=st.integers(0, 255))
def test_a_flat_image_stays_flat_and_takes_the_size(fit, height, width, to_height, to_width, level):
    geometry = Geometry(1, to_height, to_width)
    result = fitted(np.full((1, height, width), level, np.uint8), geometry, fit)
    assert result.shape == geometry.shape
    assert (result == level).all()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("squares", [1, 2])
def test_fine_checks_become_flat_grey_because_scaling_is_antialiased(fit, squares):
    """Without a wide filter a factor of 8 would pick out black, white or a moire; the middle of 0 and 255 is grey."""
    checks = (np.indices((64, 64)) // squares).sum(0) % 2 * 255
    result = fitted(checks[None].astype(np.uint8), Geometry(1, 8, 8), fit)[0, 1:-1, 1:-1]
    assert abs(result.astype(int) - 127.5).max() <= 3  # the border, cut off, sees half a filter


def test_crop_keeps_the_centre_and_the_aspect():
    """Columns 0..11 of a 4 x 12 image: a square cuts the middle four; nothing is scaled."""
    wide = np.broadcast_to(np.arange(12, dtype=np.uint8), (1, 4, 12))
    assert fitted(wide, Geometry(1, 4, 4), "crop")[0, 0].tolist() == [4, 5, 6, 7]
    assert fitted(wide.transpose(0, 2, 1), Geometry(1, 4, 4), "crop")[0, :, 0].tolist() == [4, 5, 6, 7]


def test_crop_scales_first_so_that_the_image_just_covers():
    """Three flat thirds of a 20 x 60 image, made 10 x 30 and cut to 10 x 10, leave the middle third alone."""
    thirds = np.repeat(np.array([10, 100, 200], np.uint8), 20)[None, None].repeat(20, axis=1)
    result = fitted(thirds, Geometry(1, 10, 10), "crop")
    assert abs(result[0, :, 2:-2].astype(int) - 100).max() == 0
    assert covering_size((20, 60), (10, 10)) == (10, 30)


def test_resize_shows_everything_and_ignores_the_aspect():
    thirds = np.repeat(np.array([10, 100, 200], np.uint8), 20)[None, None].repeat(20, axis=1)
    assert fitted(thirds, Geometry(1, 10, 9), "resize")[0, 5, [0, 4, 8]].tolist() == [10, 100, 200]


@given(height=SIDES, width=SIDES, to_height=SIDES, to_width=SIDES)
def test_the_covering_size_covers_and_touches_one_side(height, width, to_height, to_width):
    covering = covering_size((height, width), (to_height, to_width))
    assert covering[0] >= to_height
    assert covering[1] >= to_width
    assert covering[0] == to_height or covering[1] == to_width


def test_colour_under_full_transparency_does_not_bleed():
    pixels = np.zeros((4, 8, 8), np.uint8)
    pixels[0] = 255  # red everywhere, seen only on the left; invisible green on the right
    pixels[:2, :, 4:] = np.array([0, 255])[:, None, None]
    pixels[3, :, :4] = 255
    visible = fitted(pixels, Geometry(4, 4, 4), "resize")[:, :, :2]
    assert visible[1].max() == 0


def test_shrinking_equals_pillow_in_one_step():
    levels = np.random.default_rng(2).integers(0, 256, (30, 20, 3), np.uint8)
    expected = np.asarray(Image.fromarray(levels).resize((10, 15), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    for fit in FITS:
        assert (fitted(levels.transpose(2, 0, 1), Geometry(3, 15, 10), fit) == expected).all()


@pytest.mark.parametrize("before", [1, 2, 3, 4])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_channels_there_and_back_lose_nothing_for_opaque_grey(before, after):
    grey = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    there = to_channels(to_channels(grey, before), after)
    assert there.shape == (after, 3, 4)
    assert (to_channels(there, 1) == grey).all()
    if after in (2, 4):
        assert (there[-1] == 255).all()
