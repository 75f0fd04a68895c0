"""Batches of images that were drawn, each a file that is whole or not there, until they are packed or become PNGs.

FOLDER/000064.npz   seeds int64 (B,), the first of them 64; images uint8 (B, C, H, W); with checksums, as zips have them

Those to be packed reach the disk when the operating system likes: what a power cut leaves of one is no sound batch, and
drawn again.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm.base.files import refusals, whole_file
from ddpm.base.npz import read_own_arrays
from ddpm.errors import DamagedFile

BATCH_NAME = re.compile(r"-?[0-9]{5,20}\.npz")

Shape = tuple[int, ...]  # of an image: C, H, W
Places = Mapping[int, tuple[Path, int]]
"""{seed: file of its batch, row there}."""


def batch_name(seeds: Sequence[int]) -> str:
    """What the file of a batch is called."""
    return f"{seeds[0]:06d}.npz"


def write_batch(path: Path, seeds: Sequence[int], images: NDArray[np.uint8], *, synced: bool = False) -> None:
    """Put down a batch, images (B, C, H, W); see files.whole_file."""
    with whole_file(path, synced=synced) as temporary:
        np.savez(temporary, seeds=np.asarray(seeds, np.int64), images=images)


def read_batch(path: Path, shape: Shape) -> tuple[list[int], NDArray[np.uint8]]:
    """Seeds and images (B, C, H, W) of a batch. DamagedFile: it is not what was written, or of another shape."""
    seeds, (images,) = read_seeds(path), read_own_arrays(path, "images")
    if images.dtype != np.uint8 or images.shape != (len(seeds), *shape):
        raise _no_batch(path)
    return seeds, images


def read_seeds(path: Path) -> list[int]:
    """The seeds of a batch, whose images are not read. DamagedFile: they are not what was written."""
    (seeds,) = read_own_arrays(path, "seeds")
    if seeds.dtype != np.int64 or seeds.ndim != 1:
        raise _no_batch(path)
    return list(seeds.tolist())


def _no_batch(path: Path) -> DamagedFile:
    return DamagedFile(f"'{path}' holds no batch of images: remove it, and the same command goes on.")


def batches_in(folder: Path) -> list[Path]:
    """The files in a folder that are named like batches."""
    with refusals(folder, "read"):
        names = os.listdir(folder) if folder.is_dir() else []
    return [folder / name for name in sorted(names) if BATCH_NAME.fullmatch(name)]


def places_in(folder: Path, shape: Shape | None = None) -> Places:
    """Where the images in a folder lie; batches that are not whole count for nothing.

    shape  of an image, all of which are read; None: none is read, and only what names their seeds must be whole
    """
    places: dict[int, tuple[Path, int]] = {}
    for path in batches_in(folder):
        with suppress(DamagedFile):
            if path.is_file():
                seeds = read_batch(path, shape)[0] if shape else read_seeds(path)
                places |= {seed: (path, row) for row, seed in enumerate(seeds)}
    return places


def images_at(places: Places, seeds: Sequence[int], shape: Shape, batch_size: int) -> Iterator[Tensor]:
    """Images of seeds in this order, read file by file: uint8 (B, C, H, W). DamagedFile: as in read_batch."""
    read = functools.lru_cache(1)(lambda path: read_batch(path, shape)[1])
    for start in range(0, len(seeds), batch_size):
        here = [places[seed] for seed in seeds[start : start + batch_size]]
        images = np.empty((len(here), *shape), np.uint8)
        for k in sorted(range(len(here)), key=here.__getitem__):
            path, row = here[k]
            images[k] = read(path)[row]
        yield torch.from_numpy(images)
