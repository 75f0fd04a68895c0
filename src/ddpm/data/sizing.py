"""Bring one image to the geometry of its set: channels first, then size, by rules that are stated and antialiased.

`crop` scales so that the image covers H x W, then cuts the centre (of an odd margin, the extra pixel goes at the bottom
and right); `resize` scales straight to H x W and ignores the
aspect. Both use Lanczos resampling over all source pixels in both directions.
An image that has the size passes bit for bit.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ddpm.base.geometry import Geometry
from ddpm.base.image_io import from_pil, to_pil
from ddpm.base.tensors import Pixels

FITS = ("crop", "resize")
ALPHA = ("keep", "drop", "white", "black")
GROUNDS = {"white": 255, "black": 0}
STRIP = 2**20  # pixels laid over a ground at a time


def has_alpha(channels: int) -> bool:
    """Whether images of so many channels carry alpha: grey + alpha (2) and RGBA (4) do."""
    return channels in (2, 4)


def has_colour(channels: int) -> bool:
    """Whether images of so many channels carry colour: RGB (3) and RGBA (4) do."""
    return channels >= 3


def colourful(pixels: Pixels) -> bool:
    """Whether taking (C, H, W) to grey would lose something."""
    return has_colour(len(pixels)) and bool((pixels[:1] != pixels[1:3]).any())


def see_through(pixels: Pixels) -> bool:
    """Whether dropping the alpha of (C, H, W) would lose something."""
    return has_alpha(len(pixels)) and bool((pixels[-1] != 255).any())


def levels_of(pixels: Pixels) -> tuple[int, int, int]:
    """The lowest and the highest level of the colours of images (..., C, H, W), and 255."""
    channels = pixels.shape[-3]
    colour = pixels[..., : channels - has_alpha(channels), :, :]
    return int(colour.min()), int(colour.max()), 255


def flattened(pixels: Pixels, alpha: str | None) -> Pixels:
    """(C, H, W) without its alpha: "drop" leaves the colours as they are, "white" and "black" lay them over that."""
    if alpha in (None, "keep") or not has_alpha(len(pixels)):
        return pixels
    if alpha == "drop":
        return pixels[:-1]
    flat, ground = np.empty_like(pixels[:-1]), GROUNDS[str(alpha)]
    rows = max(1, STRIP // pixels.shape[2])
    for top in range(0, pixels.shape[1], rows):
        strip = pixels[:, top : top + rows].astype(np.uint16)
        flat[:, top : top + rows] = (strip[:-1] * strip[-1] + ground * (255 - strip[-1]) + 127) // 255  # below 2^16
    return flat


def to_channels(pixels: Pixels, channels: int) -> Pixels:
    """Rewrite (C, H, W) with another channel count, 1..4; that this loses nothing is checked before."""
    if len(pixels) == channels:
        return pixels
    colour = pixels[: 3 if has_colour(len(pixels)) else 1]
    alpha = pixels[-1:] if has_alpha(len(pixels)) else np.full_like(pixels[:1], 255)
    if not has_colour(channels):
        colour = colour[:1]
    elif len(colour) == 1:
        colour = np.repeat(colour, 3, axis=0)
    return np.concatenate([colour, alpha]) if has_alpha(channels) else colour


def fitted(pixels: Pixels, geometry: Geometry, fit: str) -> Pixels:
    """Bring (C, H, W) to a geometry; see the rules above. May return a view of what it got."""
    pixels = to_channels(pixels, geometry.channels)
    if pixels.shape == geometry.shape:
        return pixels
    if fit == "resize":
        return _scaled(pixels, geometry.size)
    covering = covering_size(pixels.shape[1:], geometry.size)
    top, left = (covering[0] - geometry.height) // 2, (covering[1] - geometry.width) // 2
    return _scaled(pixels, covering)[:, top : top + geometry.height, left : left + geometry.width]


def covering_size(size: tuple[int, ...], target: tuple[int, int]) -> tuple[int, int]:
    """The size, of the same aspect to the nearest pixel, that just covers the target; all (height, width)."""
    scale = max(target[0] / size[0], target[1] / size[1])
    return max(target[0], round(size[0] * scale)), max(target[1], round(size[1] * scale))


def _scaled(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Lanczos to (height, width). Pillow premultiplies alpha here, so that invisible colours do not bleed."""
    if pixels.shape[1:] == size:
        return pixels
    return from_pil(to_pil(pixels).resize((size[1], size[0]), Image.Resampling.LANCZOS, reducing_gap=None))
