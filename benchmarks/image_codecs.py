"""What lossless image formats need for a source of images, in bits per dimension: the bar for a model that compresses.

    pip install -c constraints.txt imagecodecs     (the extra "codecs")
    python benchmarks/image_codecs.py fashion-mnist:test

Bits per dimension are 8 · bytes / (C · H · W), and the bytes are those of a whole file: signature, headers, checksums.
Each file is decoded again and compared with its image; one differing value ends the run. The images are measured twice:

one file per image   mean over the images, with its standard error; tiny files are headers to a good part
one mosaic of all    row by row in a near square, one file; headers vanish, and the codec learns from image to image

A codec with several settings is tried with each (those of ddpm.evaluate_codec, and a few more), and its figure is that
of the setting with the smaller mean. JPEG XL is tried at efforts 5, 7, 9 and 10: on tiny files more effort is not
always fewer bytes. "deflate" is the pixels through zlib without any header, to see what PNG's filters and chunks bring
and cost.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
import PIL
from PIL import features
from record import write_result

import ddpm
from ddpm.base.tensors import Pixels
from ddpm.evaluation.image_formats import Setting, interleaved, lossless_jpegxl, planes, settings

Measure = Callable[[Pixels], int]
"""Bytes of an image (C, H, W) as a file, once it has come back unharmed."""


def file_bytes(setting: Setting, image: Pixels) -> int:
    """By a format's setting."""
    data = setting.encode(image)
    if not np.array_equal(setting.decode(data)[: len(image)], image):
        raise SystemExit(f"{setting.name} ({setting.choice}) is not lossless: it decodes to another image.")
    return len(data)


def deflated_bytes(image: Pixels) -> int:
    """The pixels alone through zlib."""
    pixels = interleaved(image).tobytes()
    data = zlib.compress(pixels, 9, wbits=-15)
    if zlib.decompress(data, wbits=-15) != pixels:
        raise SystemExit("zlib is not lossless: it decodes to other bytes.")
    return len(data)


LIBPNG = Setting(
    "PNG",
    "imagecodecs, level 9",
    True,
    lambda image: imagecodecs.png_encode(interleaved(image), level=9),
    lambda data: planes(imagecodecs.png_decode(data)),
)
SETTINGS = [*(setting for setting in settings() if setting.lossless), LIBPNG, lossless_jpegxl(5)]
CODECS: dict[str, dict[str, Measure]] = {
    key: {setting.choice: partial(file_bytes, setting) for setting in SETTINGS if setting.name == name}
    for key, name in (("png", "PNG"), ("webp", "WebP"), ("jpeg_xl", "JPEG XL"))
}
CODECS["deflate"] = {"zlib, level 9, raw": deflated_bytes}


def mosaic(images: Pixels) -> tuple[Pixels, int]:
    """All images (B, C, H, W) side by side, and the columns they stand in; what is left of the last row is black."""
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    tiles = np.zeros((rows * columns, channels, height, width), np.uint8)
    tiles[:count] = images
    ordered = tiles.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4)
    return ordered.reshape(channels, rows * height, columns * width), columns


def one_file_per_image(measures: dict[str, Measure], images: Pixels) -> dict[str, Any]:
    """Mean and standard error of every setting; the smallest mean is the codec's."""
    found = {}
    for name, measure in measures.items():
        bits = np.array([8 * measure(image) / image.size for image in images])
        error = float(bits.std(ddof=1)) / len(bits) ** 0.5 if len(bits) > 1 else None
        found[name] = {"bits_per_dim": float(bits.mean()), "standard_error": error}
    return smallest(found)


def one_mosaic(measures: dict[str, Measure], images: Pixels) -> dict[str, Any]:
    """The bits of the one file, per dimension of the images in it (black fill is not counted as a dimension)."""
    image, _ = mosaic(images)
    return smallest({name: {"bits_per_dim": 8 * measure(image) / images.size} for name, measure in measures.items()})


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
    images = source.array([k * len(source) // count for k in range(count)])
    if images.shape[1] not in (1, 3):
        raise SystemExit(f"the images have {images.shape[1]} channels; grey (1) or RGB (3) can be measured.")
    table: dict[str, Any] = {"one_file_per_image": {}, "one_mosaic_of_all_images": {}}
    for codec, measures in CODECS.items():
        for name, measured in (("one_file_per_image", one_file_per_image), ("one_mosaic_of_all_images", one_mosaic)):
            table[name][codec] = measured(measures, images)
            print(codec, name, table[name][codec], flush=True)
    if options.limit is None:
        image, columns = mosaic(images)
        about = {
            "data": source.name,
            "data_fingerprint": source.fingerprint,
            "images": count,
            "image": str(source.geometry),
            "mosaic": {"columns": columns, "height": image.shape[1], "width": image.shape[2]},
            "unit": "bits per dimension, 8 · bytes of the whole file / (C · H · W)",
            "decoded_equal": True,  # or this program has ended: see file_bytes
            "versions": versions(),
        }
        write_result("image-codecs", {**about, **table}, seed=0)


if __name__ == "__main__":
    main()
