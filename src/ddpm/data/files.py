"""Sources made of image files: a folder or a zip, laid out by one rule (layout.py)."""

from __future__ import annotations

import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import numpy as np

from ddpm.base.files import read_bytes, refusals
from ddpm.base.npz import BadArchive, reading
from ddpm.data.contents import INDEX, NOT_IMAGES, RUN, Contents, Tree, is_hidden, kind_of, made_by, sort_out
from ddpm.data.formats import EXTENSIONS
from ddpm.data.index import classes_by_index, read_index
from ddpm.data.items import FolderItems, Part, Source, ZipItems, unpacked
from ddpm.data.layout import Layout, classes_by_folder, lay_out
from ddpm.data.summary import left_out_text
from ddpm.errors import InputError, some

KINDS = f"{', '.join(EXTENSIONS[:-1])} or {EXTENSIONS[-1]}"
ENCRYPTED = 1  # bit of an entry's flags
BESIDE = "beside the arrays"
Classes = dict[str, list[str] | None]


def folder_source(folder: Path) -> Source:
    """A folder of images, searched recursively; the files are in the order of their relative paths."""
    return _source(FolderTree(folder), "folder of images", zipped=False)


def zip_source(path: Path) -> Source:
    """A zip of images, in the order of their names."""
    return _source(_ZipTree(path), "zip of images", zipped=True)


def left_beside(folder: Path, used: Set[str]) -> dict[str, dict[str, int]]:
    """What lies in a folder beside the files that are used, by reason, kind or name; folders count once."""
    with refusals(folder, "read"):
        rest = [entry for entry in sorted(folder.iterdir()) if entry.name not in used and not is_hidden(entry.name)]
    counts = Counter(f"{entry.name}/" if entry.is_dir() else kind_of(entry.name) for entry in rest)
    return {BESIDE: dict(counts)} if counts else {}


def _source(tree: Tree, kind: str, *, zipped: bool) -> Source:
    if made_by(tree, RUN):
        raise InputError(f"{tree.where} is a run, no source of images: name a folder of images.")
    found = sort_out(tree)
    if not found.images:
        rest = f"; it holds {left_out_text(found.left_out)}" if found.left_out else ""
        raise InputError(f"{tree.where} holds no images ({KINDS}){rest}.")
    indices = set(found.indices)

    @cache
    def index(folder: str) -> dict[str, int] | None:
        return read_index(tree, folder, found.images) if f"{folder}{INDEX}" in indices else None

    layout = lay_out(found.images, lambda folder: index(folder) is not None, tree.path, tree.where, zipped=zipped)
    folders = (layout.root, *layout.places.values())
    used = {folder: labels for folder in folders if (labels := index(folder)) is not None}
    for path in sorted(indices - {f"{folder}{INDEX}" for folder in used}):
        found.leave_out(NOT_IMAGES, kind_of(path))
    classes, notes = _by_index(tree, layout, used) if used else _by_folder(found, layout)
    every = {name for names in classes.values() for name in names or ()}
    class_names = tuple(sorted(every, key=int) if used else sorted(every))
    numbers = {name: number for number, name in enumerate(class_names)}
    parts = {split: partial(_part, tree, paths, classes[split], numbers) for split, paths in layout.members.items()}
    return Source(kind, parts, class_names, found.left_out, tuple(notes), tuple(layout.stray))


def _part(tree: Tree, paths: Sequence[str], classes: Sequence[str] | None, numbers: Mapping[str, int]) -> Part:
    labels = None if classes is None else np.array([numbers[name] for name in classes], np.int64)
    return Part(tree.items(paths), labels)


def _by_folder(found: Contents, layout: Layout) -> tuple[Classes, list[str]]:
    """Classes of each split from its folders, and what to say of them."""
    both = {split: classes_by_folder(paths, layout.places[split]) for split, paths in layout.members.items()}
    classes = {split: names for split, (names, _) in both.items()}
    notes = [note for _, note in both.values() if note]
    empty = layout.empty_folders(found.folders, classes)
    return classes, notes + [f"folders without images: {', '.join(empty)}"] * bool(empty)


def _by_index(tree: Tree, layout: Layout, used: Mapping[str, Mapping[str, int]]) -> tuple[Classes, list[str]]:
    """Classes of each split from files called dataset.json, and what to say of them."""
    labels = {path: number for found in used.values() for path, number in found.items()}
    classes = classes_by_index(layout.members, labels, tree.where)
    held = {*layout.stray, *(path for paths in layout.members.values() for path in paths)}
    gone = len(labels.keys() - held)
    notes = [f"{INDEX} has no labels"] if not labels else [f"{INDEX} has {gone:,} labels of images that are not here"]
    return classes, notes if gone or not labels else []


class FolderTree:
    """Files below a folder. Links are followed, but never in a circle."""

    def __init__(self, folder: Path) -> None:
        self.path, self.where = folder, f"the folder '{folder}'"
        odd = []
        self._sizes: dict[str, int] = {}  # in bytes; -1 for what cannot be reached, which then counts as a bad image
        self._folders: list[str] = []
        for path in self._walk():
            try:
                about = (folder / path).stat()
            except OSError:
                self._sizes[path] = -1
                continue
            if stat.S_ISREG(about.st_mode):
                self._sizes[path] = about.st_size
            else:
                odd.append(path)
        self.odd: Sequence[str] = odd

    def paths(self) -> list[str]:
        return sorted(self._sizes)

    def folders(self) -> list[str]:
        return self._folders

    def start(self, path: str, most: int) -> bytes:
        if self._sizes.get(path, -1) < 0:
            return b""
        try:
            with (self.path / path).open("rb") as file:
                return file.read(most)
        except OSError:
            return b""

    def whole(self, path: str, most: int) -> bytes:
        return read_bytes(self.path / path, most)

    def items(self, paths: Sequence[str]) -> FolderItems:
        return FolderItems(self.path, tuple(paths), tuple(self._sizes[path] for path in paths))

    def _walk(self) -> Iterator[str]:
        """Every file below, as a relative path with "/"."""
        entered, waiting = set(), [""]
        while waiting:
            place = waiting.pop()
            here = self.path / place
            entered.add(os.path.realpath(here))
            with refusals(here, "read"), os.scandir(here) as entries:
                below = sorted((entry.name, entry.is_dir()) for entry in entries)
            yield from (f"{place}{name}" for name, is_folder in below if not is_folder)
            folders = [name for name, is_folder in below if is_folder]
            inside = [f"{place}{name}/" for name in folders if os.path.realpath(here / name) not in entered]
            self._folders += inside
            waiting += reversed(inside)


class _ZipTree:
    """Files in a zip; of several with one name the last counts, as in every reader."""

    odd: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, f"the zip '{path}'"
        try:
            with reading(path):
                self.archive = zipfile.ZipFile(path)
        except BadArchive:
            raise InputError(f"'{path}' is cut short or damaged, or not a zip file.") from None
        encrypted = [entry.filename for entry in self.archive.infolist() if entry.flag_bits & ENCRYPTED]
        if encrypted:
            raise InputError(f"'{path}' is encrypted ({some(encrypted)}): unpack it first, and name the folder.")
        self.entries = {entry.filename.replace("\\", "/"): entry for entry in self.archive.infolist()}

    def paths(self) -> list[str]:
        return sorted(name for name in self.entries if not name.endswith("/"))

    def folders(self) -> list[str]:
        found: set[str] = set()
        for name in self.entries:
            end = name.rfind("/")
            while end >= 0 and name[: end + 1] not in found:
                found.add(name[: end + 1])
                end = name.rfind("/", 0, end)
        return sorted(found)

    def start(self, path: str, most: int) -> bytes:
        with suppress(BadArchive, InputError), reading(self.path), self.archive.open(self.entries[path]) as file:
            return file.read(most)
        return b""

    def whole(self, path: str, most: int) -> bytes:
        size = self.entries[path].file_size
        if size > most:
            raise InputError(f"{path} in {self.where} has {size:,} bytes, more than the {most:,} it may have.")
        try:
            return unpacked(self.archive, self.entries[path])
        except BadArchive:
            raise InputError(f"{path} in {self.where} is cut short or damaged.") from None

    def items(self, paths: Sequence[str]) -> ZipItems:
        return ZipItems(self.archive, tuple(self.entries[path] for path in paths))
