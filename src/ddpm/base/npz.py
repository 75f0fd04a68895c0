"""The one reader of .npy and .npz: nothing is unpickled, and sizes are checked before memory is taken."""

from __future__ import annotations

import errno
import io
import itertools
import lzma
import math
import os
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ddpm.base.files import cannot
from ddpm.errors import DamagedFile, InputError

Result = TypeVar("Result")
LONGEST_HEADER = 16_384  # bytes of an array's header; NumPy's own reader takes 10,000
UNPACKED = "DDPM_MAX_UNPACKED"
MOST_UNPACKED = 2**30
MOST_EXPANSION = 100
"""Packed data may unpack to MOST_UNPACKED bytes (or the environment's DDPM_MAX_UNPACKED), or so many times itself."""
ARCHIVE_ERRORS = (
    *(OSError, EOFError, ValueError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error),
    *(SyntaxError, TypeError, OverflowError, tokenize.TokenError),  # from NumPy's parser of headers
    lzma.LZMAError,
)
"""What reading a zip or a gzip raises where the file is damaged or of another kind."""


class BadArchive(ValueError):
    """A file is damaged, or no .npy or .npz; the text is the reason, without the name."""


def array_names(path: str | Path) -> list[str]:
    """The names of the arrays in an .npz. Errors: BadArchive; InputError if it cannot be read."""
    return _guarded(path, lambda: [name.removesuffix(".npy") for name in _names(path) if name.endswith(".npy")])


def read_arrays(path: str | Path, *names: str) -> list[NDArray[Any]]:
    """Arrays of an .npz; their checksums are verified. Errors as array_names."""

    def read() -> list[NDArray[Any]]:
        with zipfile.ZipFile(path) as archive:
            return [_member(archive, archive.getinfo(f"{name}.npy"), path) for name in names]

    return _guarded(path, read)


def array_shape(path: str | Path, name: str) -> tuple[int, ...]:
    """The shape of one array of an .npz, from its header alone. Errors as array_names."""

    def read() -> tuple[int, ...]:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            return _header(stream.read(LONGEST_HEADER), path)[0]

    return _guarded(path, read)


def read_own_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """Arrays of an .npz that ddpm wrote and can make again; DamagedFile if it is not whole."""
    try:
        return read_arrays(path, *names)
    except BadArchive:
        raise DamagedFile(f"'{path}' is cut short or damaged: remove it, and the same command goes on.") from None


def check_array(path: str | Path, name: str, shape: tuple[int, ...], dtype: type) -> None:
    """Read an array of an .npz to its end, a piece at a time; BadArchive unless it is whole, C-ordered and as said."""

    def read() -> None:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            first = stream.read(LONGEST_HEADER)
            *found, start = _header(first, path)
            if found != [shape, False, np.dtype(dtype)]:
                raise ValueError(f"{name} is {found[2]} {found[0]}, not {np.dtype(dtype)} {shape}")
            left = math.prod(shape) * np.dtype(dtype).itemsize - len(first) + start
            while left >= 0 and (chunk := stream.read(2**16)):  # the end too: zipfile compares checksums there
                left -= len(chunk)
            if left:
                raise ValueError(f"{name} has another length than its header says")

    _guarded(path, read)


def map_array(path: str | Path) -> NDArray[Any]:
    """The array in a .npy, memory-mapped, so it may be larger than memory. Errors as array_names."""

    def read() -> NDArray[Any]:
        with open(path, "rb") as file:
            shape, fortran_order, dtype, start = _header(file.read(LONGEST_HEADER), path)
            _check_size(shape, dtype, os.fstat(file.fileno()).st_size - start)
        if not math.prod(shape):
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, mode="r", offset=start, shape=shape, order="F" if fortran_order else "C")

    return _guarded(path, read)


def check_unpacked(size: int, packed: int, path: str | Path) -> None:
    """Refuse what unpacks to far more than it is: `size` and `packed` in bytes. Errors (InputError)."""
    given = os.environ.get(UNPACKED, "")
    if size > max(int(given) if given.isdecimal() else MOST_UNPACKED, MOST_EXPANSION * packed):
        raise InputError(
            f"'{path}' unpacks from {packed:,} bytes to {size:,}, like a file made to fill the memory: if it is sound, "
            f"set the environment variable {UNPACKED} to {size}."
        )


def _guarded(path: str | Path, read: Callable[[], Result]) -> Result:
    """Call a reader; damage raises nearly any exception in zipfile and NumPy, and here one."""
    try:
        return read()
    except InputError:
        raise
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # zipfile's own, or its jump to a place before the file
            raise BadArchive(str(error)) from None
        raise cannot(path, "read", error) from None
    except Exception as error:
        raise BadArchive(str(error) or type(error).__name__) from None


def _names(path: str | Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


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
