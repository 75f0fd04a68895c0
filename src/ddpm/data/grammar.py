"""The grammar of a source: PATH or `digits`, then perhaps `:split`, then perhaps a slice `[a:b]`.

The whole string is tried as a path first, then the slice is taken off, then the split: so a folder that is really
called `cats[2:3]`, `cats:old` or `digits` is found under its own name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ddpm.data.arrays import npy_source, npz_source
from ddpm.data.files import folder_source, left_beside, zip_source
from ddpm.data.items import Part, Source
from ddpm.data.packed import CIFAR_NAMES, cifar_source, digits_source, find_idx, idx_source, is_cifar
from ddpm.data.splits import split_named
from ddpm.errors import InputError, some

GRAMMAR = (
    "a source is a folder of images, a .zip of images, a .npz or .npy file of uint8 images, "
    "an IDX folder (MNIST layout), a CIFAR-10 binary folder, or digits, "
    "each perhaps with :train, :val or :test and a slice such as [0:1000] behind it"
)
FILES = {".zip": zip_source, ".npz": npz_source, ".npy": npy_source}


@dataclass(frozen=True)
class SourceName:
    """A source as written, taken apart: the path or `digits`, the split or None, the slice bounds or None."""

    text: str
    path: str
    split: str | None
    bounds: slice | None


def parse_source(text: str | os.PathLike[str]) -> SourceName:
    """Take a source apart; that its path exists is checked here, because the grammar depends on it."""
    text = os.fspath(text) if isinstance(text, os.PathLike) else text
    if not isinstance(text, str):
        raise InputError(f"'{text}' is not a source; {GRAMMAR}.")
    if _exists(text):
        return SourceName(text, text, None, None)
    rest, bounds = _peel_slice(text)
    if _exists(rest):
        return SourceName(text, rest, None, bounds)
    path, split = _peel_split(rest)
    if _exists(path):
        return SourceName(text, path, split, bounds)
    if not text.strip():
        raise InputError(f"the source is empty; {GRAMMAR}.")
    raise InputError(f"'{text}' does not exist; {GRAMMAR}.")


def _exists(path: str) -> bool:
    try:
        return path == "digits" or (bool(path) and Path(path).expanduser().exists())
    except (OSError, ValueError):  # a name no file system accepts
        return False


def _peel_slice(text: str) -> tuple[str, slice | None]:
    match = re.fullmatch(r"(.*)\[\s*(-?\d+)?\s*:\s*(-?\d+)?\s*\]", text, re.DOTALL)
    if match is None:
        return text, None
    start, stop = (None if bound is None else int(bound) for bound in match.group(2, 3))
    return match[1], slice(start, stop)


def _peel_split(text: str) -> tuple[str, str | None]:
    """One letter before the colon is a Windows drive, and what follows a split's colon holds no slash."""
    match = re.fullmatch(r"(.{2,}):([\w-]+)", text, re.DOTALL)
    return (match[1], match[2]) if match else (text, None)


def find_source(name: SourceName) -> Source:
    """Look at what the path holds, by its suffix or its files; raises InputError for what is no known source."""
    path = Path(name.path).expanduser()
    if not path.exists():
        return digits_source()
    if path.is_dir():
        return _in_folder(path)
    if path.suffix.lower() not in FILES or not path.is_file():
        raise InputError(f"'{path}' is not a source; {GRAMMAR}.")
    return FILES[path.suffix.lower()](path)


def _in_folder(folder: Path) -> Source:
    if idx := find_idx(folder, "images-idx3"):
        used = [*idx.values(), *find_idx(folder, "labels-idx1").values()]
        return replace(idx_source(folder), left_out=left_beside(folder, {path.name for path in used}))
    if is_cifar(folder):
        return replace(cifar_source(folder), left_out=left_beside(folder, CIFAR_NAMES))
    return folder_source(folder)


def choose_split(source: Source, name: SourceName, default: str | None) -> str:
    """The split that was asked for, or the default one, without both the only one; raises InputError that names those
    there are."""
    names = [split for split in source.splits if split]
    wanted = name.split or default or (names[0] if len(names) == 1 else None)
    wanted = split_named(wanted or "") or wanted
    check_whole(source, name)
    if not names and name.split is None:
        return ""
    if not names:
        raise InputError(f"'{name.path}' has no splits: leave out ':{name.split}' in '{name.text}'.")
    if wanted is not None and wanted in names:
        return wanted
    found = f"no split '{wanted}'" if wanted else f"the splits {' and '.join(names)}"
    raise InputError(f"'{name.path}' has {found}: choose {_choices(name, names)}.")


def check_whole(source: Source, name: SourceName) -> None:
    """Refuse a source without a split behind it if it holds images beside its splits."""
    if source.stray and name.split is None:
        names = list(source.splits)
        beside = f"images beside {'it' if len(names) == 1 else 'them'} ({some(source.stray)})"
        raise InputError(
            f"'{name.path}' has {' and '.join(names)}, and {beside}: choose {_choices(name, names)}, or move those "
            "images, or rename what is no split."
        )


def _choices(name: SourceName, splits: Sequence[str]) -> str:
    return " or ".join(f"{name.path}:{split}" for split in splits)


def cut(part: Part, name: SourceName) -> Part:
    """Apply the slice, counted before any bad image is left out; raises InputError if nothing remains."""
    if name.bounds is None:
        return part
    indices = range(len(part.items))[name.bounds]
    if not indices:
        raise InputError(f"the slice in '{name.text}' leaves none of the {len(part.items)} images; count from 0.")
    return part.select(indices)
