"""Ordinary image formats, for comparison: whole files as they lie on disk, header and all."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from ddpm.base.tensors import Pixels

QUALITIES = (0, 5, 10, 20, 30, 50, 70, 85, 95)
EFFORTS = (7, 9, 10)
DISTANCES = (25.0, 15.0, 10.0, 7.0, 5.0, 3.0, 2.0, 1.0, 0.5)


@dataclass(frozen=True)
class Setting:
    """One way to write a file: its format, what of it was chosen, whether it is exact, and the way there and back."""

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


def measure_others(images: Sequence[Pixels], scratch: Path) -> Iterator[FormatResult]:
    """Write every image (C, H, W) with every setting to the file `scratch`, and read it back."""
    for setting in settings():
        sizes, psnrs = [], []
        for image in images:
            scratch.write_bytes(setting.encode(image))
            sizes.append(scratch.stat().st_size)
            back = setting.decode(scratch.read_bytes())[: len(image)]
            assert not setting.lossless or np.array_equal(back, image), f"{setting.name} is not exact"
            psnrs.append(psnr(back, image))
        mean = None if setting.lossless else float(np.mean(psnrs))
        yield FormatResult(setting.name, setting.choice, float(np.mean(sizes)), mean)
    scratch.unlink(missing_ok=True)


def psnr(one: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio of two images in dB; 99 if they are equal."""
    error = float(((one.astype(np.float64) - other) ** 2).mean())
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def settings() -> list[Setting]:
    """What can be written here: Pillow's formats, and JPEG XL where imagecodecs is installed."""
    found = [_pillow("PNG", "optimize", True, {"optimize": True})]
    if features.check("webp"):
        exact = {"lossless": True, "quality": 100, "method": 6, "exact": True}
        found.append(_pillow("WebP", "lossless", True, exact))
        found += [_pillow("WebP", f"quality {q}", False, {"quality": q, "method": 6}) for q in QUALITIES]
    found += [_pillow("JPEG", f"quality {q}", False, {"quality": max(q, 1), "optimize": True}) for q in QUALITIES]
    if features.check("avif"):
        found += [_pillow("AVIF", f"quality {q}", False, {"quality": q, "speed": 4}) for q in QUALITIES]
    if importlib.util.find_spec("imagecodecs") is not None:
        found += [_jpegxl(f"lossless, effort {e}", True, {"lossless": True, "effort": e}) for e in EFFORTS]
        found += [_jpegxl(f"distance {d:g}", False, {"distance": d, "effort": 7}) for d in DISTANCES]
    return found


def _pillow(name: str, choice: str, lossless: bool, options: dict[str, Any]) -> Setting:
    return Setting(name, choice, lossless, partial(_write, name, options), _read)


def _write(name: str, options: dict[str, Any], image: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(_plain(image)).save(file, format=name, **options)
    return file.getvalue()


def _read(data: bytes) -> Pixels:
    array = np.asarray(Image.open(io.BytesIO(data)))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _jpegxl(choice: str, lossless: bool, options: dict[str, Any]) -> Setting:
    import imagecodecs

    def encode(image: Pixels) -> bytes:
        return bytes(imagecodecs.jpegxl_encode(_plain(image), usecontainer=False, numthreads=1, **options))

    def decode(data: bytes) -> Pixels:
        array = np.asarray(imagecodecs.jpegxl_decode(data))
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

    return Setting("JPEG XL", choice, lossless, encode, decode)


def _plain(image: Pixels) -> Pixels:
    """(H, W) or (H, W, 3)."""
    return np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def smallest_webp(image: Pixels) -> tuple[Pixels, int]:
    """An image as the smallest WebP file that Pillow writes, quality 0: what it looks like, and its bytes."""
    data = _write("WEBP", {"quality": 0, "method": 6}, image)
    return _read(data)[: len(image)], len(data)
