"""Ordinary image formats, for comparison: whole files as they are on disk, headers included."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, features

from ddpm.base.tensors import Pixels

QUALITIES = (0, 5, 10, 20, 30, 50, 70, 85, 95)
EFFORTS = (7, 9, 10)
DISTANCES = (25.0, 15.0, 10.0, 7.0, 5.0, 3.0, 2.0, 1.0, 0.5)


@dataclass(frozen=True)
class Setting:
    """One way to write a file: its format, the setting, whether it is exact, and the way there and back.

    decode  gives three equal channels for a grey image in a format that has only colour
    """

    name: str
    choice: str
    lossless: bool
    encode: Callable[[Pixels], bytes]
    decode: Callable[[bytes], Pixels]


@dataclass(frozen=True)
class FormatResult:
    """A setting on a set of images: mean bytes a file, mean of the images' PSNR in dB (None where it is exact)."""

    name: str
    choice: str
    bytes: float
    psnr: float | None


def measure_others(images: Sequence[Pixels]) -> Iterator[FormatResult]:
    """Write every image (C, H, W) with every setting, and read it back."""
    for setting in settings():
        sizes, psnrs = [], []
        for image in images:
            data = setting.encode(image)
            back = setting.decode(data)[: len(image)]
            assert not setting.lossless or np.array_equal(back, image), f"{setting.name} is not exact"
            sizes.append(len(data))
            psnrs.append(psnr(back, image))
        mean = None if setting.lossless else float(np.mean(psnrs))
        yield FormatResult(setting.name, setting.choice, float(np.mean(sizes)), mean)


def psnr(one: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio of two images in dB; 99 if they are equal."""
    error = float(((one.astype(np.float64) - other) ** 2).mean())
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def settings() -> list[Setting]:
    """What can be written here: Pillow's formats, and JPEG XL where imagecodecs is installed."""
    found = [_pillow("PNG", "optimize", True, {"optimize": True})]
    if features.check("webp"):
        found.append(_pillow("WebP", "lossless", True, {"lossless": True, "quality": 100, "method": 6, "exact": True}))
        found += map(_webp, QUALITIES)
    found += [_pillow("JPEG", f"quality {q}", False, {"quality": max(q, 1), "optimize": True}) for q in QUALITIES]
    if features.check("avif"):
        found += [_pillow("AVIF", f"quality {q}", False, {"quality": q, "speed": 4}) for q in QUALITIES]
    if importlib.util.find_spec("imagecodecs") is not None:
        found += map(lossless_jpegxl, EFFORTS)
        found += [_jpegxl(f"distance {d:g}", False, {"distance": d, "effort": 7}) for d in DISTANCES]
    return found


def lossless_jpegxl(effort: int) -> Setting:
    """A bare codestream, without a container around it."""
    return _jpegxl(f"lossless, effort {effort}", True, {"lossless": True, "effort": effort})


def smallest_webp(image: Pixels) -> tuple[Pixels, int]:
    """An image as the smallest WebP file that Pillow writes: what it looks like, and its bytes."""
    setting = _webp(QUALITIES[0])
    data = setting.encode(image)
    return setting.decode(data)[: len(image)], len(data)


def _webp(quality: int) -> Setting:
    return _pillow("WebP", f"quality {quality}", False, {"quality": quality, "method": 6})


def _pillow(name: str, choice: str, lossless: bool, options: dict[str, Any]) -> Setting:
    def encode(image: Pixels) -> bytes:
        file = io.BytesIO()
        Image.fromarray(interleaved(image)).save(file, format=name, **options)
        return file.getvalue()

    return Setting(name, choice, lossless, encode, lambda data: planes(np.asarray(Image.open(io.BytesIO(data)))))


def _jpegxl(choice: str, lossless: bool, options: dict[str, Any]) -> Setting:
    import imagecodecs

    def encode(image: Pixels) -> bytes:
        return bytes(imagecodecs.jpegxl_encode(interleaved(image), usecontainer=False, numthreads=1, **options))

    return Setting(
        "JPEG XL", choice, lossless, encode, lambda data: planes(np.asarray(imagecodecs.jpegxl_decode(data)))
    )


def interleaved(image: Pixels) -> Pixels:
    """(C, H, W) as libraries want it: (H, W) or (H, W, C)."""
    return np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def planes(array: Pixels) -> Pixels:
    """(H, W) or (H, W, C) as (C, H, W)."""
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
