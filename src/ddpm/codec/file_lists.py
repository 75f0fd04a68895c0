"""Which file becomes which: what was named, folders looked through, and where each output goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ddpm.base.files import cannot, writable_folder
from ddpm.codec.container import MAGIC
from ddpm.data.contents import FIRST, IMAGE, is_hidden
from ddpm.data.decode import EXTENSIONS
from ddpm.errors import DdpmError, InputError

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
def answered(refuse: Callable[[str, int], None], path: str) -> Iterator[None]:
    """Hand what is wrong with one file to `refuse`, as a sentence that follows its path and an exit code."""
    try:
        yield
    except DdpmError as error:
        named = f"'{path}' "
        text = str(error)
        refuse(f"it {text.removeprefix(named)}" if text.startswith(named) else text, error.exit_code)


def in_the_way(target: Path) -> InputError:
    """For an output that is there already and holds something else."""
    return InputError(f"its output '{target}' is there already and is not what would be written; --force replaces it.")


def is_dpc(data: bytes, path: str | Path) -> bool:
    """Whether a file is, by its name or its first bytes, a .dpc file."""
    return Path(path).suffix == SUFFIX or data.startswith(MAGIC)


def image_plan(inputs: Sequence[str], out: str | Path) -> list[Planned]:
    """Image files, and all of them in folders, that become .dpc files."""
    return _plan(inputs, out, SUFFIX, is_image_file, "image files")


def dpc_plan(inputs: Sequence[str], out: str | Path) -> list[Planned]:
    """.dpc files, and all of them in folders, that become PNGs."""
    return _plan(inputs, out, ".png", lambda path: path.endswith(SUFFIX), f"{SUFFIX} files")


def is_image_file(path: str) -> bool:
    """Whether a file is an image by its name, or by its first bytes if it is a regular file of another name."""
    if path.lower().endswith(EXTENSIONS):
        return True
    with suppress(OSError):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                return IMAGE.match(file.read(FIRST)) is not None
    return False


def _plan(
    inputs: Sequence[str], out: str | Path, suffix: str, takes: Callable[[str], bool], kind: str
) -> list[Planned]:
    """A file goes to OUT/its name, one in a folder to OUT/its path below the folder; hidden ones are left out.

    Errors (InputError): nothing named, an output folder that cannot be written to.
    """
    if not inputs:
        raise InputError("no files were given: name at least one.")
    folder, found, first = writable_folder(out), [], dict[Path, str]()
    for name in inputs:
        for path, place in _below(name, takes, kind) if os.path.isdir(name) else [(name, Path(name).name or "-")]:
            if isinstance(place, InputError):
                found.append(Planned(path, folder, place))
                continue
            target = (folder / place).with_suffix(suffix)
            problem = None
            if path == first.get(target):
                problem = InputError("it was given twice.")
            elif target in first:
                problem = InputError(f"it would become '{target}', as '{first[target]}' does: rename one of them.")
            first.setdefault(target, path)
            found.append(Planned(path, target, problem))
    return found


def _below(folder: str, takes: Callable[[str], bool], kind: str) -> Iterator[tuple[str, str | InputError]]:
    """The files of a kind in a folder and all below, by their paths, in order; folders that are links are not entered.

    Yields (path, relative path), or (path, what is wrong with it).
    """
    refused: list[OSError] = []
    places = sorted(
        Path(top, name).relative_to(folder).as_posix()
        for top, _, names in os.walk(folder, onerror=refused.append)
        for name in names
    )
    chosen = [place for place in places if not is_hidden(place) and takes(os.path.join(folder, place))]
    yield from ((os.path.join(folder, place), place) for place in chosen)
    for error in refused:
        yield str(error.filename), cannot(error.filename, "read", error)
    if not chosen and not refused:
        yield folder, InputError(f"the folder holds no {kind}.")


def in_groups(tiles: Sequence[int], most: int) -> Iterator[range]:
    """Rows of images that are compressed together: as few as have `most` tiles."""
    start, total = 0, 0
    for k, count in enumerate(tiles):
        total += count
        if total >= most or k == len(tiles) - 1:
            yield range(start, k + 1)
            start, total = k + 1, 0
