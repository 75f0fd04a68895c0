"""Grey levels and x: exact there and back, the official scaling, rounding to the nearest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddpm.base.units import images_to_x, x_to_images
from ddpm.errors import InputError

LEVELS = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_levels_become_level_over_127_5_minus_one(dtype: torch.dtype):
    """Within the dtype's rounding of numbers of size 2, which the division rounds before 1 is taken away."""
    x = images_to_x(LEVELS, dtype)
    assert x.dtype == dtype
    expected = np.arange(256) / 127.5 - 1
    assert abs(x.double().numpy() - expected).max() <= 2 * torch.finfo(dtype).eps
    assert (x[0], x[255]) == (-1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_level_comes_back(dtype: torch.dtype):
    assert torch.equal(x_to_images(images_to_x(LEVELS, dtype)), LEVELS)


def test_an_image_is_the_nearest_level_and_not_the_one_below():
    """Anything less than half a level away (1 / 255) comes back."""
    x = images_to_x(LEVELS, torch.float64)
    for shift in (-0.999 / 255, -0.5 / 255, 0.5 / 255, 0.999 / 255):
        assert torch.equal(x_to_images(x + shift), LEVELS)


@given(st.floats(-1e30, 1e30))
def test_values_outside_are_clipped_and_no_level_is_further_than_half_a_step(x: float):
    level = x_to_images(torch.tensor([x], dtype=torch.float64)).item()
    clipped = min(max(x, -1.0), 1.0)
    assert abs(level / 127.5 - 1 - clipped) <= 1 / 255 + 1e-12


def test_any_shape_passes():
    images = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x_to_images(images_to_x(images)), images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_nan_is_no_grey_level(dtype: torch.dtype):
    """It would become black."""
    x = torch.zeros(2, 1, 4, 4, dtype=dtype)
    x[1, 0, 2, 3] = float("nan")
    with pytest.raises(InputError, match="gives NaN"):
        x_to_images(x)
    assert x_to_images(torch.tensor([float("inf"), -float("inf")])).tolist() == [255, 0]
