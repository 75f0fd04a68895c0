"""The formats of images that are read: what their files are called, and how they begin."""

from __future__ import annotations

import re

from PIL import features

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
IMAGE = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|P[1-6]\s+[\d#]|"
    rb"....ftypavi[fs]|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    re.DOTALL,
)
TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")
RARE = re.compile(rb"[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|P[\dfFy]|....ftyp|BM", re.DOTALL)
"""How files begin: of most images; of TIFF, but of raw files of cameras too; of what else Pillow may read."""
OPTIONAL = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
"""Formats that Pillow may have been built without."""
# Pillow gets no other formats, whatever a file is called: some of its readers start other programs.
FORMATS = tuple(name for name in EXTENSIONS_OF if name not in OPTIONAL or features.check(OPTIONAL[name]))
EXTENSIONS = tuple(extension for name in FORMATS for extension in EXTENSIONS_OF[name])


def may_be_image(first: bytes) -> bool:
    """Whether a file that begins so may be an image."""
    return any(pattern.match(first) for pattern in (IMAGE, TIFF, RARE))
