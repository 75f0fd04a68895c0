"""Folders of images that were drawn, and how they were drawn.

DIR/000017.png     the image of seed 17
DIR/sampling.json  how all of them were drawn (draw.protocol), signed
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddpm.base.files import whole_file
from ddpm.base.image_io import file_name
from ddpm.base.npz import ARCHIVE_ERRORS, read_arrays
from ddpm.base.tables import read_signed, signed
from ddpm.errors import DamagedFile, InputError

FORMAT = "ddpm images"
FORMAT_VERSION = 1
PROTOCOL_FILE = "sampling.json"
MOST_SHOWN = 16  # characters of a protocol's value in an error's sentence
ADVICE = "choose another output, or remove it"


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images that were drawn into a folder.

    seeds     rising, or as they were asked for
    protocol  how they were drawn
    """

    folder: Path
    seeds: tuple[int, ...]
    protocol: dict[str, Any]

    def batches(self, seeds: Sequence[int] | None = None, *, batch_size: int = 256) -> Iterator[Tensor]:
        """Images of all seeds, or of these in this order: uint8 (B, C, H, W). DamagedFile names a file."""
        seeds = self.seeds if seeds is None else seeds
        shape: tuple[int, ...] | None = None
        for start in range(0, len(seeds), batch_size):
            found = []
            for seed in seeds[start : start + batch_size]:
                found.append(_read_image(self.folder / file_name(seed), shape))
                shape = found[0].shape
            yield torch.from_numpy(np.stack(found))


def open_image_folder(folder: str | Path) -> ImageFolder:
    """What lies in a folder. Errors (InputError): nothing there says how the images were drawn."""
    protocol = protocol_of(Path(folder))
    if protocol is None:
        raise InputError(f"'{folder}' holds no {PROTOCOL_FILE}: it is not a folder that `ddpm sample --out` made.")
    return ImageFolder(Path(folder), tuple(sorted(seeds_in(Path(folder)))), protocol)


def seeds_in(folder: Path) -> set[int]:
    """The seeds of all files in a folder that are named like drawn images."""
    names = os.listdir(folder) if folder.is_dir() else []
    found = (re.fullmatch(r"(-?[0-9]{5,})\.png", name) for name in names)
    return {int(match[1]) for match in found if match and file_name(int(match[1])) == match[0]}


def write_protocol(folder: Path, protocol: Mapping[str, Any]) -> None:
    """Say in a folder how its images are drawn."""
    table = {"format": FORMAT, "format_version": FORMAT_VERSION, "protocol": protocol}
    with whole_file(folder / PROTOCOL_FILE) as temporary:
        temporary.write_text(json.dumps(signed(table)) + "\n", encoding="utf-8")


def protocol_of(folder: Path) -> dict[str, Any] | None:
    """How the images in a folder were drawn, None if nothing there says so."""
    table = read_signed(folder / PROTOCOL_FILE, FORMAT, FORMAT_VERSION, advice=ADVICE)
    return None if table is None else dict(table["protocol"])


def protocol_in(file: Path) -> tuple[dict[str, Any], list[int]] | None:
    """How the images of an .npz were drawn, and their seeds in its order; None if it does not say so."""
    try:
        protocol, seeds = read_arrays(file, "protocol", "seeds")
        return dict(json.loads(str(protocol))), seeds.tolist()
    except ARCHIVE_ERRORS:
        return None


def check_protocol(folder: Path, protocol: Mapping[str, Any]) -> None:
    """Refuse a folder whose images were drawn by another or an unknown protocol.

    The sentence names the first of the differences: the rest mostly follow.
    """
    found = protocol_of(folder)
    if found is None:
        raise InputError(f"'{folder}' holds images and no {PROTOCOL_FILE} that says how they were drawn: {ADVICE}.")
    for key in {**protocol, **found}:
        there, here = found.get(key), protocol.get(key)
        if there != here:
            values = f"is {str(there)[:MOST_SHOWN]} there and {str(here)[:MOST_SHOWN]} here"
            differs = "differ" if isinstance(there, list) and isinstance(here, list) else values
            raise InputError(f"'{folder}' holds images drawn another way ({key} {differs}): {ADVICE}.")


def _read_image(path: Path, shape: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """A PNG as (C, H, W)."""
    try:
        with Image.open(path) as file:
            image = np.atleast_3d(np.asarray(file)).transpose(2, 0, 1)
        if image.dtype != np.uint8 or shape not in (None, image.shape):
            raise ValueError
    except (OSError, SyntaxError, ValueError):
        raise DamagedFile(f"'{path}' is missing or damaged: remove it, and the same command draws it again.") from None
    return image
