"""Which files of a folder or a zip are images, which ddpm made itself, and of what kind the rest is.

An image is a file whose suffix is on the list of formats.py, or whose first bytes are those of a format read there
(TIFF only without a suffix, because raw files of cameras begin like it). Of each other suffix the first LOOKED_AT files
are looked into; if none is an image, the rest of that suffix are none. What is inside is decided later, by decoding.

Never images: hidden files (of macOS too), pipes and devices, and what ddpm wrote: grids and plots, which say so, and
folders below the source that hold one of MARKS.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ddpm.base.image_io import MADE_HERE
from ddpm.data.formats import EXTENSIONS, IMAGE, TIFF
from ddpm.data.items import Items

INDEX = "dataset.json"
LOOKED_AT = 100  # files of a suffix that is on no list
FIRST = 256  # bytes that tell a format and who made a PNG
MARK_BYTES = 2**16
RUN = "recipe.json"
DECOMPRESSED, BY_DECOMPRESS = ".decompressed", b"ddpm decompress"
MARKS = {
    RUN: (b'"data_fingerprint"', "a run"),
    "sampling.json": (b'"ddpm images"', "samples"),
    DECOMPRESSED: (BY_DECOMPRESS, "decompressed images"),
}
NOT_IMAGES, HIDDEN, ODD, OWN = "not images", "hidden", "pipes or devices", "made by ddpm"


class Tree(Protocol):
    """The files of a folder or a zip, by relative paths with "/".

    path   of the folder or zip; where: what an error calls it
    odd    paths that are neither files nor folders
    """

    path: Path
    where: str
    odd: Sequence[str]

    def paths(self) -> list[str]:
        """Files, sorted, each once."""

    def folders(self) -> list[str]:
        """Folders, each with "/" at its end, the empty ones too."""

    def start(self, path: str, most: int) -> bytes:
        """At most so many first bytes of a file, none if it cannot be read."""

    def whole(self, path: str, most: int) -> bytes:
        """A whole file; InputError if it cannot be read or is larger."""

    def items(self, paths: Sequence[str]) -> Items:
        """Files as images."""


@dataclass
class Contents:
    """What was found.

    images    paths, sorted
    indices   paths of files called dataset.json
    folders   that are neither hidden nor made by ddpm, each with "/" at its end
    left_out  {reason: {kind or name: files}}
    """

    images: list[str] = field(default_factory=list)
    indices: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)

    def leave_out(self, reason: str, what: str) -> None:
        """Count one more file that is not used."""
        counts = self.left_out.setdefault(reason, {})
        counts[what] = counts.get(what, 0) + 1


def sort_out(tree: Tree) -> Contents:
    """Look through all files of a tree; of their content, only as much is read as their place here needs."""
    found, looked, paths = Contents(), Counter[str](), tree.paths()
    own = {f"{os.path.dirname(path)}/": kind for path in paths if "/" in path and (kind := made_by(tree, path))}
    found.folders = [name for name in tree.folders() if not is_hidden(name) and not any(map(name.startswith, own))]
    for path in tree.odd:
        found.leave_out(ODD, kind_of(path))
    for path in paths:
        output = next((folder for folder in own if path.startswith(folder)), None)
        if output is not None:
            found.leave_out(f"{own[output]}, {OWN}", output)
        elif is_hidden(path):
            found.leave_out(HIDDEN, kind_of(path))
        elif path.endswith(".png") and MADE_HERE in tree.start(path, FIRST):
            found.leave_out(f"a grid or a plot, {OWN}", path)
        elif is_image(tree, path, looked):
            found.images.append(path)
        elif os.path.basename(path) == INDEX:
            found.indices.append(path)
        else:
            found.leave_out(NOT_IMAGES, kind_of(path))
    return found


def made_by(tree: Tree, path: str) -> str | None:
    """What made the folder that a file lies in, if the file is one of MARKS."""
    words, kind = MARKS.get(os.path.basename(path), (b"", None))
    return kind if kind is not None and words in tree.start(path, MARK_BYTES) else None


def is_hidden(path: str) -> bool:
    """Whether a relative path is hidden, or a leftover of macOS."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def is_image(tree: Tree, path: str, looked: Counter[str]) -> bool:
    """Whether a file counts as an image, by the rule above; `looked` counts what was looked into in vain."""
    if path.lower().endswith(EXTENSIONS):
        return True
    suffix = os.path.splitext(path)[1].lower()
    if os.path.basename(path) == INDEX or looked[suffix] >= LOOKED_AT:
        return False
    first = tree.start(path, FIRST)
    known = IMAGE.match(first) or (not suffix and TIFF.match(first))
    looked[suffix] += not known
    return bool(known)


def kind_of(path: str) -> str:
    """The suffix, as reports count it."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix if re.fullmatch(r"\.\w{1,12}", suffix) else "other" if suffix else "without suffix"
