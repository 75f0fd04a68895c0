"""Folders of images that were drawn, how they were drawn, and whether they still are what was written.

DIR/000017.png      the image of seed 17
DIR/sampling.json   how all of them were drawn (draw.protocol), and the names of the classes if there are any; signed
DIR/sampling.jsonl  a line an image: its file, the SHA-256 of that file, its class if it has one; the last line counts
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddpm.base.fields import check_fields
from ddpm.base.files import read_bytes, refusals, sync, whole_file
from ddpm.base.image_io import MODES, MOST_PIXELS, file_name, from_pil
from ddpm.base.tables import read_signed, signed
from ddpm.base.tensors import Pixels
from ddpm.errors import DamagedFile, InputError
from ddpm.generation.protocol_fields import ADVICE, OLD_NOISE, ClaimFields

FORMAT = "ddpm images"
FORMAT_VERSION = 1
PROTOCOL_FILE = "sampling.json"
MOST_SHOWN = 16  # characters of a protocol's value in an error's sentence
HASHES_FILE = "sampling.jsonl"
HASHES_LINE = re.compile(rb'\{"file": "(-?[0-9]{5,}\.png)", "sha256": "([0-9a-f]{64})"[,}]')
MOST_BYTES, MOST_HASHES_BYTES = 2**29, 2**31  # of an image's file, and of the file of hashes
CHANNELS = {mode: channels for channels, mode in MODES.items()}

Shape = tuple[int, ...]  # of an image: C, H, W


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images that were drawn into a folder.

    seeds     rising, or as they were asked for
    protocol  how they were drawn
    """

    folder: Path
    seeds: Sequence[int]
    protocol: dict[str, Any]

    def batches(self, seeds: Sequence[int] | None = None, *, batch_size: int = 256) -> Iterator[Tensor]:
        """Images of all seeds, or of these in this order: uint8 (B, C, H, W). DamagedFile names a file."""
        seeds = self.seeds if seeds is None else seeds
        hashes, shape = hashes_in(self.folder), None
        for start in range(0, len(seeds), batch_size):
            found: list[Pixels] = []
            for seed in seeds[start : start + batch_size]:
                image = _image(self.folder, seed, hashes, shape)
                if image is None:
                    path = self.folder / file_name(seed)
                    raise DamagedFile(f"'{path}' is missing or damaged: the command that drew it draws it again.")
                found.append(image)
                shape = image.shape
            yield torch.from_numpy(np.stack(found))


def open_image_folder(folder: str | Path) -> ImageFolder:
    """What lies in a folder. Errors (InputError): nothing there says how the images were drawn."""
    protocol = protocol_of(Path(folder))
    if protocol is None:
        raise InputError(f"'{folder}' holds no {PROTOCOL_FILE}: it is not a folder that `ddpm sample --out` made.")
    return ImageFolder(Path(folder), tuple(sorted(seeds_in(Path(folder)))), protocol)


# ---- how they were drawn --------------------------------------------------------------------------------------------


def write_protocol(folder: Path, protocol: Mapping[str, Any], class_names: Sequence[str] = ()) -> None:
    """Say in a folder how its images are drawn, and what their classes are called, if there are any."""
    table: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, "protocol": protocol}
    if class_names:
        table["class_names"] = list(class_names)
    with whole_file(folder / PROTOCOL_FILE) as temporary:
        temporary.write_text(json.dumps(signed(table)) + "\n", encoding="utf-8")


def claim_of(folder: Path) -> tuple[dict[str, Any], list[str]] | None:
    """What a folder says of its images: the protocol, and the names of the classes ([] in older versions)."""
    path = folder / PROTOCOL_FILE
    table = read_signed(path, FORMAT, FORMAT_VERSION, advice=ADVICE)
    if table is None:
        return None
    check_fields(table, ClaimFields, path, ADVICE)
    return table["protocol"], table.get("class_names", [])


def protocol_of(folder: Path) -> dict[str, Any] | None:
    """How the images in a folder were drawn, None if nothing there says so."""
    claim = claim_of(folder)
    return None if claim is None else claim[0]


def check_protocol(folder: Path, protocol: Mapping[str, Any]) -> None:
    """Refuse a folder whose images were drawn by another or an unknown protocol.

    The sentence names the first of the differences: the rest mostly follow.
    """
    found = protocol_of(folder)
    if found is None:
        raise InputError(f"'{folder}' holds images and no {PROTOCOL_FILE} that says how they were drawn: {ADVICE}.")
    if found.get("noise", OLD_NOISE) != protocol["noise"]:
        raise InputError(
            f"'{folder}' holds images drawn from the noise of another version of ddpm, and the same seeds are other "
            f"images now: {ADVICE}."
        )
    for key in {**protocol, **found}:
        there, here = found.get(key), protocol.get(key)
        if there != here:
            values = f"is {str(there)[:MOST_SHOWN]} there and {str(here)[:MOST_SHOWN]} here"
            differs = "differ" if isinstance(there, list) and isinstance(here, list) else values
            raise InputError(f"'{folder}' holds images drawn another way ({key} {differs}): {ADVICE}.")


# ---- whether they are what was written ------------------------------------------------------------------------------


def seeds_in(folder: Path) -> set[int]:
    """The seeds of all files in a folder that are named like drawn images."""
    with refusals(folder, "read"):
        names = os.listdir(folder) if folder.is_dir() else []
    found = (re.fullmatch(r"(-?[0-9]{5,20})\.png", name) for name in names)
    return {int(match[1]) for match in found if match and file_name(int(match[1])) == match[0]}


def sound_seeds(folder: Path, seeds: Collection[int], shape: Shape) -> set[int]:
    """Those of the seeds whose images are as they were written; where no hashes say so, those that can be read."""
    hashes = hashes_in(folder)
    return {seed for seed in seeds_in(folder) if seed in seeds and _is_sound(folder, seed, hashes, shape)}


def hashes_in(folder: Path) -> dict[int, str] | None:
    """{seed: SHA-256 of its file}; None in a folder of an older version, without them."""
    path = folder / HASHES_FILE
    if not path.is_file():
        return None
    found = map(HASHES_LINE.match, io.BytesIO(read_bytes(path, MOST_HASHES_BYTES)))
    return {int(match[1][: -len(".png")]): match[2].decode() for match in found if match}


def write_hashes(folder: Path, rows: Mapping[int, str], classes: Sequence[str]) -> None:
    """Begin the file of hashes anew, with some rows {seed: SHA-256 of its file}; their classes, if they have any."""
    with whole_file(folder / HASHES_FILE) as temporary:
        temporary.write_bytes(_lines(rows, classes))


def add_hashes(folder: Path, rows: Mapping[int, str], classes: Sequence[str]) -> None:
    """Add rows to the file of hashes; half a line, which a kill may have left, stays by itself."""
    path = folder / HASHES_FILE
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with refusals(path, "written"):
        with open(os.open(path, flags, 0o666), "r+b") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
            last = file.read()
            file.write(b"\n" * (last not in (b"", b"\n")) + _lines(rows, classes))
        sync(path)


def sha256_of(folder: Path, seed: int) -> str:
    """Of the file of an image, of no bytes if there is none."""
    return hashlib.sha256(_bytes(folder / file_name(seed))).hexdigest()


def _bytes(path: Path) -> bytes:
    """Of an image's file; none if it is not there."""
    try:
        return read_bytes(path, MOST_BYTES)
    except InputError:
        if path.exists():
            raise
        return b""


def _lines(rows: Mapping[int, str], classes: Sequence[str]) -> bytes:
    tables = [{"file": file_name(seed), "sha256": digest} for seed, digest in rows.items()]
    for table, name in zip(tables, classes, strict=bool(classes)):
        table["class"] = name
    return "".join(f"{json.dumps(table)}\n" for table in tables).encode()


def _is_sound(folder: Path, seed: int, hashes: Mapping[int, str] | None, shape: Shape) -> bool:
    if hashes is None:
        return _image(folder, seed, None, shape) is not None
    return seed in hashes and sha256_of(folder, seed) == hashes[seed]


def _image(folder: Path, seed: int, hashes: Mapping[int, str] | None, shape: Shape | None) -> Pixels | None:
    """The image of a seed as (C, H, W); None if its file is missing, damaged, of another shape or hash."""
    data = _bytes(folder / file_name(seed))
    if hashes is not None and hashlib.sha256(data).hexdigest() != hashes.get(seed):
        return None
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=["PNG"]) as file:
            found = (CHANNELS.get(file.mode), file.height, file.width)
            if found[0] is None or shape not in (None, found) or file.width * file.height > MOST_PIXELS:
                return None
            return from_pil(file)
    except Exception:  # damage raises nearly any exception in Pillow's readers
        return None
