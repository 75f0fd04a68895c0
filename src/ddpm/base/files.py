"""Files that are whole or not there (written under another name, then renamed); JSON that knows its hash; arrays."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ddpm.errors import DamagedFile, InputError

UNFINISHED = ".unfinished-"
ARCHIVE_ERRORS = (
    *(OSError, EOFError, ValueError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error),
    *(SyntaxError, TypeError, OverflowError, tokenize.TokenError),  # from NumPy's parser of headers
)
"""What reading a zip, a gzip or a NumPy array raises where the file is damaged or of another kind."""


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Write to the path handed out; it becomes `path` when the block ends well, and is removed when it does not.

    Missing folders above `path` are made; the temporary name keeps the suffix.
    """
    path = Path(path)
    check_output(path, folder=False)
    temporary = path.with_name(UNFINISHED + path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"'{path}' could not be written: {error.strerror or error}.") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the operating system put a file, or the entries of a folder, on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_output(path: str | Path, *, folder: bool) -> Path:
    """Refuse a path that cannot become a file (or a folder), before any work is done for it."""
    if not str(path):
        raise InputError("an empty path was given: name the file or folder to write.")
    path = Path(path)
    above = next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None)
    if above is not None:
        raise InputError(f"'{above}' is a file, so '{path}' cannot lie in it: choose another path.")
    if path.exists() and path.is_dir() != folder:
        kind = "a file, not a folder" if folder else "a folder, not a file"
        raise InputError(f"'{path}' is {kind}: choose another path.")
    return path


def writable_folder(path: str | Path) -> Path:
    """Refuse a folder that cannot be made or written to, before any work is done for it; nothing is left behind."""
    folder = check_output(path, folder=True)
    there = next(above for above in (folder, *folder.absolute().parents) if above.is_dir())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(f"'{folder}' cannot be written to: {error.strerror or error}.") from None
    return folder


@contextmanager
def only_process(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Make a folder and keep other processes from writing there; however this one ends, the lock ends with it."""
    writable_folder(folder).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / name, blocking=False):
            yield
    except Timeout:
        raise InputError(f"another process writes to '{folder}': wait for it, or choose another output.") from None


def array_names(path: str | Path) -> list[str]:
    """The names of the arrays in an .npz; raises ARCHIVE_ERRORS."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_arrays(path: str | Path, *names: str) -> list[NDArray[Any]]:
    """Arrays of an .npz; their checksums are verified, nothing is unpickled. Raises ARCHIVE_ERRORS."""
    arrays = []
    with zipfile.ZipFile(path) as archive:
        for name in names:
            with archive.open(f"{name}.npy") as member:
                arrays.append(np.lib.format.read_array(member, allow_pickle=False))
                member.read()  # zipfile compares the checksum at the end of a member only
    return arrays


def read_own_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """Arrays of an .npz that ddpm wrote and can make again; DamagedFile if it is not whole."""
    try:
        return read_arrays(path, *names)
    except ARCHIVE_ERRORS:
        raise DamagedFile(f"'{path}' is cut short or damaged: remove it, and the same command goes on.") from None


def signed(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table for JSON with the SHA-256 of its own content, so that a flipped bit in it is noticed."""
    return {**table, "own_sha256": _own_sha256(table)}


def check_signed(table: object, path: Path) -> None:
    """Raise DamagedFile unless the table read from `path` is one that `signed` made."""
    if not isinstance(table, dict) or table.get("own_sha256") != _own_sha256(table):
        raise DamagedFile(f"'{path}' is damaged or was edited: its content does not have the SHA-256 it names.")


def read_signed(path: Path, format_name: str, version: int, *, advice: str) -> dict[str, Any] | None:
    """Read a signed table that names its format, None if there is no such file.

    advice  what to do about a file that is damaged or something else, for the error's sentence

    Errors: damaged or of another format (DamagedFile), of a newer version (InputError).
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError):
        raise DamagedFile(f"'{path}' is cut short or damaged; {advice}.") from None
    if not isinstance(table, dict) or table.get("format") != format_name:
        raise DamagedFile(f"'{path}' is not a file of {format_name}; {advice}.")
    if type(table.get("format_version")) is int and table["format_version"] > version:
        raise InputError(f"'{path}' has a format version this ddpm does not read; install a newer ddpm.")
    check_signed(table, path)
    return table


def _own_sha256(table: Mapping[str, Any]) -> str:
    content = {key: value for key, value in table.items() if key != "own_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
