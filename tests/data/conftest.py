"""Small sources to read: images with noise in them, folders and zips of them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHAPES = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}


def noise(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (16, 16)) -> Image.Image:
    """An image of uniform random levels; size = (height, width)."""
    levels = np.random.default_rng(seed).integers(0, 256, (*size, *SHAPES[mode]), np.uint8)
    return Image.fromarray(levels)


def encoded(image: Image.Image, format: str = "png", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.fixture(name="noise")
def noise_fixture() -> Callable[..., Image.Image]:
    return noise


@pytest.fixture(name="encoded")
def encoded_fixture() -> Callable[..., bytes]:
    return encoded


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., str]:
    """Write files into a fresh folder or zip, {relative path: image or bytes}; a path with "/" at its end is a folder.

    kind  "folder" or "zip"; returns it as a source
    """

    def write(kind: str, files: Mapping[str, Image.Image | bytes], name: str = "set") -> str:
        contents = {path: data if isinstance(data, bytes) else encoded(data) for path, data in files.items()}
        if kind == "zip":
            with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
                for path, data in contents.items():
                    archive.writestr(path, data)
            return str(tmp_path / f"{name}.zip")
        for path, data in contents.items():
            place = tmp_path / name / path
            (place if path.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
            if not path.endswith("/"):
                place.write_bytes(data)
        return str(tmp_path / name)

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[Mapping[str, Image.Image | bytes]], str]:
    """Write files below a fresh folder, {relative path: image or bytes}; returns the folder as a source."""

    def write(files: Mapping[str, Image.Image | bytes], name: str = "images") -> str:
        root = tmp_path / name
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content if isinstance(content, bytes) else encoded(content))
        root.mkdir(exist_ok=True)
        return str(root)

    return write
