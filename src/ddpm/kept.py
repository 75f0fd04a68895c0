"""Pictures kept in a folder, and how they were drawn.

DIR/000017.png     the picture of seed 17
DIR/sampling.json  how all of them were drawn (Model.protocol), signed
"""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddpm.errors import DamagedFile, InputError
from ddpm.files import read_signed, signed, whole_file

FORMAT = "ddpm pictures"
FORMAT_VERSION = 1
PROTOCOL_FILE = "sampling.json"
MOST_SHOWN = 16  # characters of a protocol's value in an error's sentence


@dataclass(frozen=True, eq=False)
class Kept:
    """Pictures that a drawing left in a folder.

    seeds     rising
    protocol  how they were drawn
    """

    folder: Path
    seeds: tuple[int, ...]
    protocol: dict[str, Any]

    def batches(self, seeds: Sequence[int] | None = None, *, batch_size: int = 256) -> Iterator[Tensor]:
        """Pictures of all seeds, or of these in this order: uint8 (B, C, H, W). DamagedFile names a file."""
        seeds = self.seeds if seeds is None else seeds
        shape: tuple[int, ...] | None = None
        for start in range(0, len(seeds), batch_size):
            found = []
            for seed in seeds[start : start + batch_size]:
                found.append(_read_picture(self.folder / _name(seed), shape))
                shape = found[0].shape
            yield torch.from_numpy(np.stack(found))


def kept(folder: str | Path) -> Kept:
    """What lies in a folder. Errors (InputError): nothing there says how the pictures were drawn."""
    protocol = protocol_of(Path(folder))
    if protocol is None:
        raise InputError(f"'{folder}' holds no {PROTOCOL_FILE}; a folder that `ddpm sample --out` made would fit.")
    return Kept(Path(folder), tuple(sorted(seeds_in(Path(folder)))), protocol)


def seeds_in(folder: Path) -> set[int]:
    """The seeds of all files in a folder that are called like pictures of ours."""
    names = os.listdir(folder) if folder.is_dir() else []
    found = (re.fullmatch(r"(-?[0-9]{5,})\.png", name) for name in names)
    return {int(match[1]) for match in found if match and _name(int(match[1])) == match[0]}


def write_protocol(folder: Path, protocol: Mapping[str, Any]) -> None:
    """Say in a folder how its pictures are drawn."""
    table = {"format": FORMAT, "format_version": FORMAT_VERSION, "protocol": protocol}
    with whole_file(folder / PROTOCOL_FILE) as temporary:
        temporary.write_text(json.dumps(signed(table)) + "\n", encoding="utf-8")


def protocol_of(folder: Path) -> dict[str, Any] | None:
    """How the pictures in a folder were drawn, None if nothing there says so."""
    other = "not what a drawing of pictures writes there; another folder would fit"
    advice = "another folder would fit"
    table = read_signed(folder / PROTOCOL_FILE, FORMAT, FORMAT_VERSION, other=other, advice=advice)
    return None if table is None else dict(table["protocol"])


def protocol_in(file: Path) -> tuple[dict[str, Any], list[int]] | None:
    """How the pictures of an .npz of ours were drawn, and their seeds in its order; None if it is not ours."""
    try:
        with np.load(file, allow_pickle=False) as found:
            return dict(json.loads(str(found["protocol"]))), found["seeds"].tolist()
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, zlib.error):
        return None


def check_protocol(folder: Path, protocol: Mapping[str, Any], *, advice: str) -> None:
    """Refuse a folder whose pictures were drawn by another protocol than this one, or nobody knows how.

    advice  what to do, for the error's sentence, which names the first of the differences: the rest mostly follow
    """
    found = protocol_of(folder)
    if found is None:
        raise InputError(f"'{folder}' holds pictures and no {PROTOCOL_FILE} that says how they were drawn; {advice}.")
    for key in {**protocol, **found}:
        there, here = found.get(key), protocol.get(key)
        if there != here:
            values = f"is {str(there)[:MOST_SHOWN]} there and {str(here)[:MOST_SHOWN]} here"
            differs = "differ" if isinstance(there, list) and isinstance(here, list) else values
            raise InputError(f"'{folder}' holds pictures drawn another way: {key} {differs}; {advice}.")


def _name(seed: int) -> str:
    return f"{seed:06d}.png"  # as save_folder does


def _read_picture(path: Path, shape: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """A PNG as (C, H, W)."""
    try:
        with Image.open(path) as image:
            picture = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
        if picture.dtype != np.uint8 or shape not in (None, picture.shape):
            raise ValueError
    except (OSError, SyntaxError, ValueError):
        raise DamagedFile(f"'{path}' is missing, damaged or not of ours; without it, it can be drawn again.") from None
    return picture
