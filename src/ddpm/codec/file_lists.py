"""Which file becomes which: what was named, folders looked through, and where each output goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ddpm.base.files import check_output
from ddpm.codec.container import MAGIC
from ddpm.data.contents import is_hidden, sort_out
from ddpm.data.files import FolderTree
from ddpm.errors import DdpmError, InputError

Row = TypeVar("Row")
SUFFIX = ".dpc"
MOST_BYTES = 2**28
"""Of a .dpc file that is read; one of 2^24 pixels takes some 50 million."""


@dataclass(frozen=True)
class Planned:
    """An input and where its output goes; or why there will be none, a sentence that follows the path."""

    path: str
    target: Path
    problem: InputError | None = None


@contextmanager
def refusing(rows: dict[int, Row], k: int, path: str, row: Callable[..., Row]) -> Iterator[None]:
    """What is wrong with file k in the block becomes its row, row(problem=, exit_code=).

    The problem is a sentence that follows the file's path.
    """
    try:
        yield
    except DdpmError as error:
        named, text = f"'{path}' ", str(error)
        problem = f"it {text.removeprefix(named)}" if text.startswith(named) else text
        rows[k] = row(problem=problem, exit_code=error.exit_code)


def in_the_way(target: Path) -> InputError:
    """For an output that is there already and holds something else."""
    return InputError(f"its output '{target}' is there already and is not what would be written; --force replaces it.")


def check_free(one: Planned, takers: Mapping[Path, str]) -> None:
    """Raise InputError if another file becomes the same output; `takers` are those that were sound when looked at."""
    if one.target in takers:
        raise InputError(f"it would become '{one.target}', as '{takers[one.target]}' does: rename one of them.")


def is_dpc(data: bytes, path: str | Path) -> bool:
    """Whether a file is, by its name or its first bytes, a .dpc file."""
    return Path(path).suffix == SUFFIX or data.startswith(MAGIC)


def image_plan(inputs: Sequence[str], out: str | Path) -> list[Planned]:
    """Image files, and all in folders that count as images (see data.contents), that become .dpc files."""
    return _plan(inputs, out, SUFFIX, lambda folder: sort_out(FolderTree(folder)).images, "image files")


def dpc_plan(inputs: Sequence[str], out: str | Path) -> list[Planned]:
    """.dpc files, and all of them in folders, that become PNGs."""
    return _plan(inputs, out, ".png", _dpc_files, f"{SUFFIX} files")


def _dpc_files(folder: Path) -> list[str]:
    return [path for path in FolderTree(folder).paths() if path.endswith(SUFFIX) and not is_hidden(path)]


def _plan(
    inputs: Sequence[str], out: str | Path, suffix: str, below: Callable[[Path], list[str]], kind: str
) -> list[Planned]:
    """A file goes to OUT/its name, one in a folder to OUT/its path below the folder.

    below  the files of a folder, by relative paths

    Errors (InputError): nothing named, an output folder that cannot be written to.
    """
    if not inputs:
        raise InputError("no files were given: name at least one.")
    folder, found, paths = check_output(out, folder=True), [], set[str]()
    for name in inputs:
        places = [Path(name).name or "-"]
        if os.path.isdir(name):
            try:
                places = below(Path(name))
                if not places:
                    raise InputError(f"the folder holds no {kind}.")
            except InputError as error:
                found.append(Planned(name, folder, error))
                continue
        for place in places:
            path = os.path.join(name, place) if os.path.isdir(name) else name
            target = (folder / place).with_suffix(suffix)
            found.append(Planned(path, target, InputError("it was given twice.") if path in paths else None))
            paths.add(path)
    return found


def in_groups(tiles: Sequence[int], most: int) -> Iterator[range]:
    """Rows of images that are compressed together: as few as have `most` tiles."""
    start, total = 0, 0
    for k, count in enumerate(tiles):
        total += count
        if total >= most or k == len(tiles) - 1:
            yield range(start, k + 1)
            start, total = k + 1, 0
