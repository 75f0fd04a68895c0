"""The shape of an image, and how sizes are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpm.base.geometry import Geometry, parse_size
from ddpm.errors import InputError


def test_a_geometry_is_channels_height_width_in_that_order():
    geometry = Geometry(3, 48, 64)
    assert geometry.shape == (3, 48, 64)
    assert geometry.size == (48, 64)
    assert str(geometry) == "3 x 48 x 64"
    assert geometry == Geometry(channels=3, height=48, width=64)


@given(height=st.integers(1, 8192), width=st.integers(1, 8192))
def test_sizes_are_height_by_width_and_one_number_is_a_square(height: int, width: int):
    for text in (f"{height}x{width}", f"{height}×{width}", f" {height} x {width} "):
        assert parse_size(text) == (height, width)
    assert parse_size(str(height)) == (height, height)


@pytest.mark.parametrize(
    "text", ["", "x", "0", "32x0", "0x32", "-32", "32x", "x32", "32x32x3", "32.5", "big", "1" * 5000]
)
def test_senseless_sizes_are_refused_with_an_example(text: str):
    with pytest.raises(InputError, match="48x64"):
        parse_size(text)


@pytest.mark.parametrize("text", ["123456", "8193x8192", "1000000000x1000000000", "1x99999999", "9" * 20])
def test_sizes_beyond_any_memory_are_refused_with_the_most(text: str):
    with pytest.raises(InputError, match="67,108,864 pixels"):
        parse_size(text)


def test_images_have_one_to_four_channels_and_a_pixel():
    for channels in range(1, 5):
        assert Geometry(channels, 1, 1).shape == (channels, 1, 1)
    for wrong in ((0, 8, 8), (5, 8, 8), (3, 0, 8), (3, 8, 0), (3, -8, 8)):
        with pytest.raises(InputError, match=" x ".join(map(str, wrong))):
            Geometry(*wrong)
