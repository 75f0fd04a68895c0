"""Images that were drawn, in one file.

FILE.npz    arr_0 uint8 (N, H, W, C) in the order of the seeds; arr_1 int64 (N,) classes, if the model takes any, and
            class_names, what they are called in the order of their numbers (files of older versions lack them); seeds
            int64 (N,); protocol as JSON (draw.protocol). arr_0 and arr_1 are as in ADM's sample files.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ddpm.base.fields import check_fields
from ddpm.base.npz import BadArchive, array_names, check_array, read_arrays, read_own_arrays
from ddpm.base.tables import parse_json
from ddpm.errors import DamagedFile
from ddpm.generation.protocol_fields import ADVICE, ProtocolFields

PIXELS, NAMES = "arr_0", "class_names"

Arrays = Mapping[str, NDArray[Any]]


def write_array(path: Path, images: Iterable[Tensor], shape: tuple[int, ...], others: Arrays) -> None:
    """Write images and what belongs to them, a batch at a time.

    images  uint8 (B, C, H, W)
    shape   of all of them, (N, H, W, C)
    others  the other arrays by name
    """
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open(f"{PIXELS}.npy", "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for batch in images:
                member.write(batch.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
        for name, array in others.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def fault_in(path: Path, shape: tuple[int, ...], others: Arrays) -> str:
    """What in a file is not what write_array was given (a shape, a value, the checksum of the pixels), or ""."""
    try:
        there = array_names(path)
        for name, array in others.items():
            if name != NAMES or name in there:
                (found,) = read_arrays(path, name)
                if found.dtype != array.dtype or not np.array_equal(found, array):
                    return f"{name} differs"
        check_array(path, PIXELS, shape, np.uint8)
    except BadArchive as error:
        return str(error)
    return ""


def protocol_in(path: Path) -> tuple[dict[str, Any], list[int]] | None:
    """How the images of an .npz were drawn, and their seeds in its order; None if it is no such file.

    Errors: it says so, but is damaged (DamagedFile); it cannot be read (InputError).
    """
    try:
        if not {"protocol", "seeds"} <= set(array_names(path)):
            return None
    except BadArchive:
        return None
    protocol, seeds = read_own_arrays(path, "protocol", "seeds")
    try:
        table = parse_json(str(protocol))
    except ValueError:
        return None
    if not isinstance(table, dict) or "weights_sha256" not in table:
        return None
    if seeds.dtype != np.int64 or seeds.ndim != 1:
        raise DamagedFile(f"'{path}' is damaged or was edited (seeds is no list of whole numbers): {ADVICE}.")
    check_fields(table, ProtocolFields, path, ADVICE)
    return table, seeds.tolist()
