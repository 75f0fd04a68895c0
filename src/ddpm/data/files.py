"""Sources made of image files: a folder, and a zip in the layout of EDM and StyleGAN (labels in dataset.json)."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ddpm.base.npz import ARCHIVE_ERRORS
from ddpm.base.tensors import Integers
from ddpm.data.arrays import SPLITS, class_numbers, number_names
from ddpm.data.decode import EXTENSIONS
from ddpm.data.items import FolderItems, Part, Source, ZipItems
from ddpm.errors import InputError

KINDS = f"{', '.join(EXTENSIONS[:-1])} or {EXTENSIONS[-1]}"


def is_image_path(path: str) -> bool:
    """Whether a relative path with "/" names an image; hidden files and macOS leftovers do not count."""
    parts = path.split("/")
    return path.lower().endswith(EXTENSIONS) and not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def folder_source(folder: Path) -> Source:
    """A folder of images, searched recursively; the files are in the order of their relative paths.

    splits   if every image lies in a first-level folder called train, val or test
    classes  the next level of folders, if every image lies in one; the same list for all splits
    """
    paths = sorted(path for path in _walk(folder) if is_image_path(path))
    if not paths:
        raise InputError(f"the folder '{folder}' holds no images ({KINDS}).")
    tops = {path.partition("/")[0] if "/" in path else "" for path in paths}
    splits = [split for split in SPLITS if split in tops] if tops <= set(SPLITS) else [""]
    members = {split: [path for path in paths if path.startswith(f"{split}/")] if split else paths for split in splits}
    class_names = _class_names(members)
    parts = {s: partial(_folder_part, folder, members[s], class_names, level=1 if s else 0) for s in splits}
    return Source("folder of images", parts, class_names)


def _walk(folder: Path) -> Iterator[str]:
    """Every file below, as a relative path with "/". Links are followed, but never in a circle."""
    entered = set()

    def refuse(error: OSError) -> None:
        raise InputError(f"the folder '{error.filename}' cannot be read: {error.strerror}.") from None

    for top, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        entered.add(os.path.realpath(top))
        folders[:] = [name for name in sorted(folders) if os.path.realpath(os.path.join(top, name)) not in entered]
        yield from (Path(top, name).relative_to(folder).as_posix() for name in files)


def _class_names(members: dict[str, list[str]]) -> tuple[str, ...]:
    """The folders just below a source or its splits, or () if some image lies in none."""
    parents = {_folder_at(path, 1 if split else 0) for split, paths in members.items() for path in paths}
    return () if "" in parents else tuple(sorted(parents))


def _folder_at(path: str, level: int) -> str:
    """The folder at a level of a relative path, counted from 0, or "" if it is not so deep."""
    folders = path.split("/")[:-1]
    return folders[level] if level < len(folders) else ""


def _folder_part(folder: Path, paths: Sequence[str], class_names: tuple[str, ...], level: int) -> Part:
    items = FolderItems(folder, tuple(paths), tuple(_size(folder / path) for path in paths))
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = np.array([numbers[_folder_at(path, level)] for path in paths], np.int64) if class_names else None
    return Part(items, labels)


def _size(path: Path) -> int:
    """In bytes; -1 for what cannot be reached, which then counts as a bad image."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def zip_source(path: Path) -> Source:
    """A zip of images in the order of their names; labels from the `dataset.json` at its root, if any."""
    try:
        archive = zipfile.ZipFile(path)
        index = json.loads(archive.read("dataset.json")) if "dataset.json" in archive.namelist() else {}
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InputError(f"dataset.json in '{path}' is not valid JSON.") from None
    except ARCHIVE_ERRORS:
        raise InputError(f"'{path}' is cut short or damaged, or not a zip file.") from None
    entries = sorted((e for e in archive.infolist() if is_image_path(e.filename)), key=lambda entry: entry.filename)
    if not entries:
        raise InputError(f"the zip '{path}' holds no images ({KINDS}).")
    labels = _zip_labels(path, index, [entry.filename for entry in entries])
    part = Part(ZipItems(archive, tuple(entries)), labels)
    return Source("zip of images", {"": lambda: part}, number_names([labels]))


def _zip_labels(path: Path, index: object, names: Sequence[str]) -> Integers | None:
    """Class numbers in the order of the names, from {"labels": [[name, number], ...]} or null."""
    pairs = index.get("labels") if isinstance(index, dict) else None
    if pairs is None:
        return None
    wanted = f'dataset.json in \'{path}\' should hold {{"labels": [[name, class number], ...]}} or "labels": null'
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 and type(p[1]) is int for p in pairs):
        raise InputError(f"{wanted}.")
    numbers = {str(name): number for name, number in pairs}
    missing = next((name for name in names if name not in numbers), None)
    if missing is not None:
        raise InputError(f"{wanted}; it has no label for {missing}.")
    return class_numbers(np.array([numbers[name] for name in names]), len(names), f"dataset.json in '{path}'")
