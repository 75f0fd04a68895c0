"""Images for people: what lies where in a grid, how much it is enlarged, and the names of files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm.base.geometry import Geometry
from ddpm.base.image_io import (
    GAP_GREY,
    MODES,
    MOST_PIXELS,
    check_grid,
    checked_images,
    from_pil,
    grid,
    save_folder,
    save_grid,
    to_pil,
)
from ddpm.errors import InputError

EVERY_CHANNEL_COUNT = pytest.mark.parametrize("channels", MODES)


def images(count: int, channels: int, height: int, width: int) -> Tensor:
    levels = np.random.default_rng(0).integers(0, 256, (count, channels, height, width), np.uint8)
    return torch.from_numpy(levels)


def array(image: Image.Image) -> np.ndarray:
    """(C, H, W)"""
    found = np.asarray(image)
    return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)


@EVERY_CHANNEL_COUNT
def test_one_to_four_channels_become_grey_grey_alpha_colour_and_colour_alpha(channels: int):
    (pixels,) = images(1, channels, 5, 7).numpy()
    image = to_pil(pixels)
    assert image.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels] == MODES[channels]
    assert (array(image) == pixels).all()
    assert (from_pil(image) == pixels).all()


@EVERY_CHANNEL_COUNT
@pytest.mark.parametrize(
    ("count", "columns", "rows_and_columns"),
    [(1, None, (1, 1)), (16, None, (4, 4)), (5, None, (2, 3)), (6, 2, (3, 2)), (3, 8, (1, 3)), (7, 3, (3, 3))],
)
def test_images_lie_in_rows_enlarged_by_a_whole_factor_with_grey_opaque_gaps(
    channels, count, columns, rows_and_columns
):
    """The layout is read back from the size alone: gap, then image and gap again and again, both ways."""
    rows, across = rows_and_columns
    height, width, shown = 6, 9, images(count, channels, 6, 9)
    page = array(grid(shown, columns=columns))
    scale, gap = solve(page.shape[2], width, across)
    assert page.shape == (channels, rows * (height * scale + gap) + gap, across * (width * scale + gap) + gap)
    colour = [GAP_GREY, 255] if channels == 2 else [GAP_GREY] * 3 + [255] * (channels == 4)
    free = np.ones(page.shape[1:], bool)
    for k in range(count):
        top, left = (gap + (k // across) * (height * scale + gap)), (gap + (k % across) * (width * scale + gap))
        cell = np.s_[top : top + height * scale, left : left + width * scale]
        large = shown[k].numpy().repeat(scale, 1).repeat(scale, 2)
        assert (page[:, *cell] == large).all()
        free[cell] = False
    assert (page[:, free] == np.array(colour[:channels])[:, None]).all()


def solve(total: int, width: int, columns: int) -> tuple[int, int]:
    """The whole factor that makes a row fill most of 640 pixels, and the gap that explains the rest."""
    scale = 640 // (columns * width)
    gap, rest = divmod(total - columns * width * scale, columns + 1)
    assert rest == 0
    assert 0 < gap < width * scale / 2
    return scale, gap


@pytest.mark.parametrize(("width", "columns"), [(8, 4), (28, 8), (32, 16), (7, 1), (640, 1), (641, 1), (256, 8)])
def test_a_row_is_about_640_pixels_wide_and_large_images_keep_their_size(width: int, columns: int):
    page = grid(images(columns, 1, 4, width), columns=columns)
    if columns * width <= 640:
        assert 320 < page.width <= 900
    else:
        assert columns * width < page.width <= columns * width + columns + 1


@EVERY_CHANNEL_COUNT
def test_a_saved_grid_is_the_grid_and_leaves_nothing_else(channels: int, tmp_path: Path):
    shown, path = images(4, channels, 3, 5), tmp_path / "new" / "folder" / "grid.png"
    save_grid(shown, path, columns=4)
    with Image.open(path) as image:
        assert (array(image) == array(grid(shown, columns=4))).all()
    assert list(path.parent.iterdir()) == [path]


@EVERY_CHANNEL_COUNT
def test_a_folder_of_images_is_named_by_seed_and_lossless(channels: int, tmp_path: Path):
    shown, folder = images(3, channels, 4, 6), tmp_path / "deep" / "down"
    save_folder(shown, folder, names=[17, 0, 12_345_678])
    assert sorted(path.name for path in folder.iterdir()) == ["000000.png", "000017.png", "12345678.png"]
    for name, pixels in zip(("000017", "000000", "12345678"), shown.numpy(), strict=True):
        with Image.open(folder / f"{name}.png") as image:
            assert image.size == (6, 4)
            assert (array(image) == pixels).all()


# ---- what is refused ------------------------------------------------------------------------------------------------

WRONG = {
    "source": "digits",
    "nothing": None,
    "number": 7,
    "names": ["a.png", "b.png"],
    "table": {"images": 3},
    "floats": np.zeros((2, 3, 8, 8)),
    "one image": np.zeros((3, 8, 8), np.uint8),
    "five channels": np.zeros((2, 5, 8, 8), np.uint8),
    "channels last": np.zeros((2, 8, 8, 3), np.uint8),
    "none": np.zeros((0, 3, 8, 8), np.uint8),
    "no pixels": np.zeros((2, 3, 0, 8), np.uint8),
    "of two sizes": [np.zeros((3, 8, 8), np.uint8), np.zeros((3, 9, 8), np.uint8)],
    "objects": np.zeros((2, 3, 8, 8), object),
    "with a gradient": torch.zeros((2, 3, 8, 8), requires_grad=True),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_batch_of_images_is_an_input_error_with_its_name(case: str, tmp_path: Path):
    with pytest.raises(InputError, match=r"^drawings must be"):
        checked_images(WRONG[case], "drawings")
    for write in (save_grid, lambda wrong, path: save_folder(wrong, path, names=[0, 1])):
        with pytest.raises(InputError, match=r"^images must be"):
            write(WRONG[case], tmp_path / "images.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("of", [torch.from_numpy, np.array, list], ids=["tensor", "array", "list of arrays"])
@EVERY_CHANNEL_COUNT
def test_arrays_tensors_and_lists_of_arrays_are_taken(channels: int, of):
    shown = images(3, channels, 4, 6).numpy()
    found = checked_images(of(shown))
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, shown)


def test_a_grid_is_a_png_and_not_too_large(tmp_path: Path):
    with pytest.raises(InputError, match=r"grid\.jpg"):
        save_grid(images(2, 1, 4, 4), tmp_path / "grid.jpg")
    side = math.isqrt(MOST_PIXELS // 4)
    check_grid(4, Geometry(3, side, side))
    with pytest.raises(InputError, match="5 images"):
        check_grid(5, Geometry(3, side, side))
