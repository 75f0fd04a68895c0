"""uint8 images as Pillow images and as PNG files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ddpm.base.files import whole_file
from ddpm.base.geometry import Geometry
from ddpm.base.tensors import Pixels, as_array
from ddpm.errors import InputError

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's, by channels
GAP_GREY = 128
MADE_BY = {"Software": "ddpm overview"}
MADE_HERE = b"tEXtSoftware\0ddpm overview"
"""Grids and plots say in their PNG who made them, so that nobody trains on one that lies among the images."""
TARGET_SIDE = 640
MOST_PIXELS = 100_000_000


def checked_images(images: object, what: str = "images") -> Pixels:
    """Images as a NumPy array; InputError unless they are uint8 (B, C, H, W) with C in 1..4 and B at least 1."""
    array = as_array(images, what)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1] not in MODES or not array.size:
        raise InputError(f"{what} must be uint8 (B, C, H, W) with 1 to 4 channels, not {array.dtype} {array.shape}.")
    return array


def to_pil(image: Pixels) -> Image.Image:
    """One uint8 (C, H, W) image as a Pillow image of mode L, LA, RGB or RGBA."""
    return Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))


def from_pil(image: Image.Image) -> Pixels:
    """The inverse: (C, H, W)."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def grid(images: ArrayLike, *, columns: int | None = None) -> Image.Image:
    """Lay out images in rows with gaps, enlarged by a whole factor: small ones to about 640 pixels a row.

    images   uint8 (B, C, H, W), B at least 1
    columns  per row; the square root of B if not given
    """
    array = checked_images(images)
    count, channels, height, width = array.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    scale = max(1, TARGET_SIDE // (columns * width))
    gap = max(1, 2 * scale // 3)
    cell_height, cell_width = height * scale + gap, width * scale + gap
    size = (columns * cell_width + gap, rows * cell_height + gap)
    colour = (GAP_GREY,) * (1 if channels < 3 else 3) + (255,) * (channels in (2, 4))
    paper = Image.new(MODES[channels], size, colour)
    for k, image in enumerate(array):
        large = to_pil(image).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        paper.paste(large, (gap + k % columns * cell_width, gap + k // columns * cell_height))
    return paper


def check_grid(count: int, geometry: Geometry) -> None:
    """Refuse a grid so large that no viewer shows it."""
    if count * geometry.height * geometry.width > MOST_PIXELS:
        raise InputError(f"{count:,} images of {geometry} are too many for one grid: choose a folder.")


def save_grid(images: ArrayLike, path: str | Path, *, columns: int | None = None) -> None:
    """Write uint8 images (B, C, H, W) as one PNG; see grid."""
    if Path(path).suffix != ".png":
        raise InputError(f"a grid is written as PNG: '{path}' must end in .png.")
    with whole_file(path) as temporary:
        about = PngInfo()
        about.add_text("Software", MADE_BY["Software"])
        grid(images, columns=columns).save(temporary, pnginfo=about)


def save_folder(images: ArrayLike, folder: str | Path, *, names: Sequence[int]) -> list[str]:
    """Write each uint8 image (B, C, H, W) as FOLDER/000017.png, named by the numbers given; the files' SHA-256."""
    hashes = []
    for image, name in zip(checked_images(images), names, strict=True):
        with whole_file(Path(folder) / file_name(name)) as temporary:
            to_pil(image).save(temporary)
            hashes.append(hashlib.sha256(temporary.read_bytes()).hexdigest())
    return hashes


def file_name(seed: int) -> str:
    """What the image of a seed is called in a folder."""
    return f"{seed:06d}.png"
