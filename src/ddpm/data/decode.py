"""From the bytes of one image file to its grey levels, without loss where the file allows it.

The policy, which `ddpm data` prints too: EXIF orientation is applied; 1-bit becomes grey; 16-bit grey becomes
8 bit by round(v / 257), 16-bit colour by its upper byte (Pillow's reader does that); a palette becomes RGB, or RGBA
where the file declares transparency; CMYK and YCbCr become RGB; of an animation the first frame is taken; embedded
colour profiles are ignored. Floating-point and 32-bit images are refused: their range is not known.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from ddpm.base.image_io import from_pil
from ddpm.base.npz import ARCHIVE_ERRORS
from ddpm.base.tensors import Pixels

EXTENSIONS_OF = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "DIB": (".dib",),
}
OPTIONAL = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
"""Formats that Pillow may have been built without."""
# Pillow gets no other formats, whatever a file is called: some of its readers start other programs.
FORMATS = tuple(name for name in EXTENSIONS_OF if name not in OPTIONAL or features.check(OPTIONAL[name]))
EXTENSIONS = tuple(extension for name in FORMATS for extension in EXTENSIONS_OF[name])
POLICY = (
    "EXIF orientation is applied; 1-bit and 16-bit grey become 8-bit grey; palette, CMYK and YCbCr become RGB (RGBA if "
    "transparent); of an animation the first frame is taken; floating-point images are refused."
)
PLAIN_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
ALPHA_MODES = {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}
DECODER_ERRORS = (*ARCHIVE_ERRORS, IndexError, struct.error)  # what Pillow's readers raise on damaged bytes
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class BadImage(Exception):
    """One image cannot be used; the text is the reason, without the name. It never leaves this folder."""


@dataclass(frozen=True)
class RawImage:
    """One image as its file holds it: Pillow's name for its mode, and pixels uint8 (C, H, W), C in 1..4."""

    mode: str
    pixels: Pixels


def decode(data: bytes) -> RawImage:
    """Read an encoded image; raises BadImage with the reason."""
    if not data:
        raise BadImage("zero bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _read(image)
    except UnidentifiedImageError:
        raise BadImage("not an image of a known format") from None
    except BOMBS:
        raise BadImage("more pixels than Pillow's limit against decompression bombs") from None
    except DECODER_ERRORS as error:
        raise BadImage("truncated" if "truncated" in str(error) else f"damaged ({error})") from None


def _read(image: Image.Image) -> RawImage:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError  # Pillow only warns up to twice the limit
    image.load()
    mode, file_format, transparent = image.mode, image.format, image.has_transparency_data
    upright = ImageOps.exif_transpose(image)
    wide = mode == "I" or mode.startswith("I;16")
    pixels = _from_wide_grey(upright, file_format) if wide else _from_eight_bit(upright, transparent)
    name = f"{mode} (transparent)" if transparent and mode not in ALPHA_MODES else mode
    return RawImage(name, np.ascontiguousarray(pixels))


def _from_eight_bit(image: Image.Image, transparent: bool) -> Pixels:
    """Every mode of at most 8 bits a channel; returns (C, H, W)."""
    mode = PLAIN_MODES.get(image.mode) or ALPHA_MODES.get(image.mode)
    if mode is None:
        raise BadImage(f"mode {image.mode} is not supported")
    if transparent:
        mode = WITH_ALPHA.get(mode, mode)
    return from_pil(image if image.mode == mode else image.convert(mode))


def _from_wide_grey(image: Image.Image, file_format: str | None) -> Pixels:
    """16-bit grey; Pillow's own convert("L") would clip. Returns (1, H, W), or (2, H, W) with a transparent level."""
    if image.mode == "I" and file_format not in ("PNG", "PPM"):
        raise BadImage("32-bit grey has no known range")
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise BadImage("grey levels outside 0..65535")
    grey = ((levels + 128) // 257).astype(np.uint8)  # round(v / 257): 65535 = 255 * 257, and halves cannot occur
    see_through = image.info.get("transparency")
    if see_through is None:
        return grey[None]
    alpha = np.where(levels == see_through, 0, 255).astype(np.uint8)
    return np.stack([grey, alpha])
