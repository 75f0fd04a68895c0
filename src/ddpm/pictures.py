"""Writing uint8 images so that a person can look at them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ddpm.errors import InputError
from ddpm.files import whole_file
from ddpm.geometry import Geometry

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
GAP_GREY = 128
TARGET_SIDE = 640
MOST_PIXELS = 100_000_000


def to_pil(image: Tensor) -> Image.Image:
    """One uint8 (C, H, W) image as a Pillow image of mode L, LA, RGB or RGBA."""
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array))


def grid(pictures: Tensor, *, columns: int | None = None) -> Image.Image:
    """Lay out pictures in rows, enlarged by a whole factor (small ones to about 640 pixels a row), with gaps.

    pictures  uint8 (B, C, H, W), B at least 1
    columns   per row; the square root of B if not given
    """
    count, channels, height, width = pictures.shape
    if count == 0:
        raise InputError("there are no pictures to show.")
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    scale = max(1, TARGET_SIDE // (columns * width))
    gap = max(1, 2 * scale // 3)
    cell_height, cell_width = height * scale + gap, width * scale + gap
    size = (columns * cell_width + gap, rows * cell_height + gap)
    paper = Image.new(MODES[channels], size, _gap_colour(channels))
    for k, picture in enumerate(pictures):
        large = to_pil(picture).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        paper.paste(large, (gap + k % columns * cell_width, gap + k // columns * cell_height))
    return paper


def check_grid(count: int, geometry: Geometry) -> None:
    """Refuse a grid so large that no viewer shows it."""
    if count * geometry.height * geometry.width > MOST_PIXELS:
        raise InputError(f"{count:,} pictures of {geometry} are too many for one grid; a folder would fit.")


def save_grid(pictures: Tensor, path: str | Path, *, columns: int | None = None) -> None:
    """Write uint8 pictures (B, C, H, W) as one PNG; see grid."""
    if Path(path).suffix != ".png":
        raise InputError(f"a grid is a PNG, '{path}' is not; a name that ends in .png would fit.")
    with whole_file(path) as temporary:
        grid(pictures, columns=columns).save(temporary)


def save_folder(pictures: Tensor, folder: str | Path, *, names: Sequence[int]) -> None:
    """Write each uint8 picture (B, C, H, W) as FOLDER/000017.png, named by the numbers given."""
    for picture, name in zip(pictures, names, strict=True):
        with whole_file(Path(folder) / f"{name:06d}.png") as temporary:
            to_pil(picture).save(temporary)


def _gap_colour(channels: int) -> tuple[int, ...] | int:
    alpha = (255,) if channels in (2, 4) else ()
    return GAP_GREY if channels == 1 else (GAP_GREY,) * (1 if channels == 2 else 3) + alpha
