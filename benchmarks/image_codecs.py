"""What lossless image formats need for a source of images, in bits per dimension: the bar for a model that compresses.

    pip install -c constraints.txt imagecodecs     (the extra "codecs")
    python benchmarks/image_codecs.py fashion-mnist:test

Bits per dimension are 8 · bytes / (C · H · W), and the bytes are those of a whole file: signature, headers, checksums.
Each file is decoded again and compared with its image; one differing value ends the run. The images are measured twice:

one file per image   mean over the images, with its standard error; tiny files are headers to a good part
one mosaic of all    row by row in a near square, one file; headers vanish, and the codec learns from image to image

A codec with several settings is tried with each, and its figure is that of the setting with the smaller mean. JPEG XL
is tried at efforts 5, 7, 9 and 10: on tiny files more effort is not always fewer bytes. "deflate" is no image format
but the pixels through zlib without any header, to see what PNG's filters and chunks bring and cost.
"""

from __future__ import annotations

import argparse
import io
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
import PIL
from PIL import Image, features
from record import write_result

import ddpm

Pixels = np.ndarray  # uint8 (H, W, C)


@dataclass(frozen=True)
class Setting:
    """One way to write a file, and the way back: decode is told the shape (H, W, C) that it should find."""

    name: str
    encode: Callable[[Pixels], bytes]
    decode: Callable[[bytes, tuple[int, ...]], Pixels]

    def bits_per_dim(self, pixels: Pixels) -> float:
        """Of this picture as a file, once it has come back unharmed."""
        data = self.encode(pixels)
        if not np.array_equal(self.decode(data, pixels.shape).reshape(pixels.shape), pixels):
            raise SystemExit(f"{self.name} is not lossless: what it decodes to is not what it was given.")
        return 8 * len(data) / pixels.size


def plain(pixels: Pixels) -> Pixels:
    """(H, W) where there is one channel, as the libraries want grey."""
    return np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def pillow_file(pixels: Pixels, **options: Any) -> bytes:
    """What Pillow would write to disk."""
    file = io.BytesIO()
    Image.fromarray(plain(pixels)).save(file, **options)
    return file.getvalue()


def pillow_pixels(data: bytes, shape: tuple[int, ...]) -> Pixels:
    """Back from a file; WebP knows no grey and drops an opaque alpha, so grey is one of three equal channels."""
    colour = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    return colour[:, :, {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[shape[2]]]


def jpegxl(effort: int) -> Setting:
    """A bare codestream, no container around it."""

    def encode(pixels: Pixels) -> bytes:
        return imagecodecs.jpegxl_encode(plain(pixels), lossless=True, effort=effort, usecontainer=False, numthreads=1)

    return Setting(f"imagecodecs, effort {effort}", encode, lambda data, shape: imagecodecs.jpegxl_decode(data))


CODECS = {
    "png": [
        Setting("Pillow, optimize", partial(pillow_file, format="PNG", optimize=True), pillow_pixels),
        Setting(
            "imagecodecs, level 9",
            lambda pixels: imagecodecs.png_encode(plain(pixels), level=9),
            lambda data, shape: imagecodecs.png_decode(data),
        ),
    ],
    "webp": [
        Setting(
            "Pillow, lossless, quality 100, method 6",
            partial(pillow_file, format="WEBP", lossless=True, quality=100, method=6, exact=True),
            pillow_pixels,
        ),
    ],
    "jpeg_xl": [jpegxl(effort) for effort in (5, 7, 9, 10)],
    "deflate": [
        Setting(
            "zlib, level 9, raw",
            lambda pixels: zlib.compress(pixels.tobytes(), 9, wbits=-15),
            lambda data, shape: np.frombuffer(zlib.decompress(data, wbits=-15), np.uint8),
        ),
    ],
}


def mosaic(images: np.ndarray) -> tuple[Pixels, int]:
    """All images (B, H, W, C) side by side, and the columns they stand in; what is left of the last row is black."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    tiles = np.zeros((rows * columns, height, width, channels), np.uint8)
    tiles[:count] = images
    ordered = tiles.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return ordered.reshape(rows * height, columns * width, channels), columns


def one_file_per_image(settings: list[Setting], images: np.ndarray) -> dict[str, Any]:
    """Mean and standard error of every setting; the smallest mean is the codec's."""
    found = {}
    for setting in settings:
        bits = np.array([setting.bits_per_dim(pixels) for pixels in images])
        error = float(bits.std(ddof=1)) / len(bits) ** 0.5 if len(bits) > 1 else None
        found[setting.name] = {"bits_per_dim": float(bits.mean()), "standard_error": error}
    return smallest(found)


def one_mosaic(settings: list[Setting], images: np.ndarray) -> dict[str, Any]:
    """The bits of the one file, per dimension of the images in it (black fill is not counted as a dimension)."""
    picture, _ = mosaic(images)
    fill = picture.size / images.size
    return smallest({setting.name: {"bits_per_dim": setting.bits_per_dim(picture) * fill} for setting in settings})


def smallest(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The best setting's figures, its name, and the figures of all settings."""
    rounded = {
        name: {key: value if value is None else round(value, 5) for key, value in figures.items()}
        for name, figures in found.items()
    }
    best = min(found, key=lambda name: found[name]["bits_per_dim"])
    return {**rounded[best], "setting": best, "settings": rounded}


def versions() -> dict[str, str]:
    """Of everything that had a hand in the bytes."""
    return {
        "pillow": PIL.__version__,
        "pillow_zlib": str(features.version("zlib_ng") or features.version("zlib")),
        "pillow_webp": str(features.version("webp")),
        "imagecodecs": imagecodecs.__version__,
        "imagecodecs_png": imagecodecs.png_version(),
        "imagecodecs_jpeg_xl": imagecodecs.jpegxl_version(),
        "python_zlib": zlib.ZLIB_RUNTIME_VERSION,
    }


def main() -> None:
    """Measure and print; on all images, also write results/image-codecs.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("data", help="a source of images, such as fashion-mnist:test")
    parser.add_argument("--limit", type=int, help="only so many, evenly spaced, for a quick look: writes nothing")
    options = parser.parse_args()
    source = ddpm.images(options.data)
    count = min(options.limit or len(source), len(source))
    images = source.array([k * len(source) // count for k in range(count)]).transpose(0, 2, 3, 1)
    table: dict[str, Any] = {"one_file_per_image": {}, "one_mosaic_of_all_images": {}}
    for codec, settings in CODECS.items():
        for name, measure in (("one_file_per_image", one_file_per_image), ("one_mosaic_of_all_images", one_mosaic)):
            table[name][codec] = measure(settings, images)
            print(codec, name, table[name][codec], flush=True)
    if options.limit is None:
        picture, columns = mosaic(images)
        about = {
            "data": source.name,
            "data_fingerprint": source.fingerprint,
            "images": count,
            "image": str(source.geometry),
            "mosaic": {"columns": columns, "height": picture.shape[0], "width": picture.shape[1]},
            "unit": "bits per dimension, 8 · bytes of the whole file / (C · H · W)",
            "decoded_equal": True,  # or there would be no file: see Setting.bits_per_dim
            "versions": versions(),
        }
        write_result("image-codecs", {**about, **table}, seed=0)


if __name__ == "__main__":
    main()
