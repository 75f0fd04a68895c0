"""The one reader of .npy and .npz: nothing is unpickled, and sizes are checked before memory is taken."""

from __future__ import annotations

import errno
import io
import itertools
import math
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ddpm.base.files import cannot
from ddpm.errors import DamagedFile, InputError

LONGEST_HEADER = 16_384  # bytes of an array's header; NumPy's own reader takes 10,000
UNPACKED = "DDPM_MAX_UNPACKED"
MOST_UNPACKED = 2**30
MOST_EXPANSION = 100
"""Packed data may unpack to MOST_UNPACKED bytes (or the environment's DDPM_MAX_UNPACKED), or so many times itself."""


class BadArchive(ValueError):
    """A file is damaged, or no archive of its kind; the text is the reason, without the name."""


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Read a zip, a gzip or an array in the block: damage raises nearly any exception there, and here BadArchive.

    What the operating system refuses is an InputError.
    """
    try:
        yield
    except (InputError, BadArchive, MemoryError):
        raise
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # zipfile's and gzip's own, or a jump to a place before the file
            raise BadArchive(str(error)) from None
        raise cannot(path, "read", error) from None
    except Exception as error:
        raise BadArchive(str(error) or type(error).__name__) from None


def array_names(path: str | Path) -> list[str]:
    """The names of the arrays in an .npz. Errors: BadArchive; InputError if it cannot be read."""
    with reading(path), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_arrays(path: str | Path, *names: str) -> list[NDArray[Any]]:
    """Arrays of an .npz; their checksums are verified. Errors as array_names."""
    with reading(path), zipfile.ZipFile(path) as archive:
        return [_member(archive, archive.getinfo(f"{name}.npy"), path) for name in names]


def array_shape(path: str | Path, name: str) -> tuple[int, ...]:
    """The shape of one array of an .npz, from its header alone. Errors as array_names."""
    with reading(path), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        return _header(stream.read(LONGEST_HEADER), path)[0]


def read_own_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """Arrays of an .npz that ddpm wrote and can make again; DamagedFile if it is not whole."""
    try:
        return read_arrays(path, *names)
    except BadArchive:
        raise DamagedFile(f"'{path}' is cut short or damaged: remove it, and the same command goes on.") from None


def check_array(path: str | Path, name: str, shape: tuple[int, ...], dtype: type) -> None:
    """Read an array of an .npz to its end, a piece at a time; BadArchive unless it is whole, C-ordered and as said."""
    with reading(path), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        first = stream.read(LONGEST_HEADER)
        *found, start = _header(first, path)
        if found != [shape, False, np.dtype(dtype)]:
            raise ValueError(f"{name} is {found[2]} {found[0]}, not {np.dtype(dtype)} {shape}")
        left = math.prod(shape) * np.dtype(dtype).itemsize - len(first) + start
        while left >= 0 and (chunk := stream.read(2**16)):  # the end too: zipfile compares checksums there
            left -= len(chunk)
        if left:
            raise ValueError(f"{name} has another length than its header says")


def map_array(path: str | Path) -> NDArray[Any]:
    """The array in a .npy, memory-mapped, so it may be larger than memory. Errors as array_names."""
    with reading(path), open(path, "rb") as file:
        shape, fortran_order, dtype, start = _header(file.read(LONGEST_HEADER), path)
        _check_size(shape, dtype, os.fstat(file.fileno()).st_size - start)
        if not math.prod(shape):
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, mode="r", offset=start, shape=shape, order="F" if fortran_order else "C")


def check_unpacked(size: int, packed: int, path: str | Path) -> None:
    """Refuse what unpacks to far more than it is: `size` and `packed` in bytes. Errors (InputError)."""
    if size > max(limit_from(UNPACKED, MOST_UNPACKED), MOST_EXPANSION * packed):
        raise InputError(
            f"'{path}' unpacks from {packed:,} bytes to {size:,}, like a file made to fill the memory: if it is sound, "
            f"set the environment variable {UNPACKED} to {size}."
        )


def limit_from(variable: str, usual: int) -> int:
    """A limit that the user may have set in an environment variable. Errors (InputError): no such number."""
    given = os.environ.get(variable)
    if not given:
        return usual
    if not given.isdecimal() or len(given) > 15 or not int(given):
        raise InputError(f"the environment variable {variable} is '{given[:20]}': write a number, as {2 * usual}.")
    return int(given)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: str | Path) -> NDArray[Any]:
    with archive.open(member) as stream:
        first = stream.read(LONGEST_HEADER)
        shape, fortran_order, dtype, start = _header(first, path)
        _check_size(shape, dtype, member.file_size - start)
        check_unpacked(member.file_size, min(member.compress_size, os.path.getsize(path)), path)
        array = np.empty(math.prod(shape), dtype)
        _fill(array.view(np.uint8) if array.nbytes else np.empty(0, np.uint8), first[start:], stream)
    return array.reshape(shape, order="F" if fortran_order else "C")


def _fill(target: NDArray[np.uint8], first: bytes, stream: IO[bytes]) -> None:
    """Copy `first` and the rest of a stream; the end is read too, because zipfile compares checksums there."""
    done = 0
    for chunk in itertools.chain([first], iter(lambda: stream.read(2**20), b"")):
        target[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)  # ValueError if there is more than said
        done += len(chunk)
    if done != len(target):
        raise ValueError("cut short")


def _header(start: bytes, path: str | Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, type, and where the values begin."""
    stream = io.BytesIO(start)
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        shape, fortran_order, dtype = readers[version](stream)
    if dtype.hasobject:
        raise InputError(f"'{path}' holds Python objects, which are not read: save plain numbers.")
    return shape, fortran_order, dtype, stream.tell()


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> None:
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"the header says {shape} of {dtype}, and {size:,} bytes follow")
