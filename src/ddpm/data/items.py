"""Where images come from, behind one small interface: rows of an array, files of a folder, entries of a zip.

A `Source` is what a path holds, by split and not yet read; a `Part` is one split of it.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ddpm.base.files import read_bytes
from ddpm.base.image_io import MODES
from ddpm.base.npz import BadArchive, reading
from ddpm.base.tensors import Integers, Pixels
from ddpm.data.decode import LIMIT, UNKNOWN, BadImage, RawImage, decode, most_file_bytes, most_pixels
from ddpm.data.formats import may_be_image
from ddpm.data.memory import DECODING
from ddpm.data.sizing import levels_of
from ddpm.errors import InputError

ROWS = 1024  # array rows hashed at a time
LONGEST_REASON = 80  # characters of what zipfile says, which may quote the file
PIECE = 2**20  # bytes of a zip unpacked at a time
LARGE = 2**26  # bytes of an entry of which the start is looked at first
SMALL_PIECE = 4096  # the same for bzip2 and LZMA, whose readers unpack all that one piece holds


class Items(Protocol):
    """A sequence of named images of any size and mode."""

    @property
    def encoded(self) -> bool:
        """Whether reading one costs a decoder's work, so that threads help."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What an error message calls the image."""

    def image(self, index: int) -> RawImage:
        """Read one image; raises BadImage."""

    def select(self, indices: Sequence[int]) -> Items:
        """Only these, in this order."""

    def digest(self) -> str:
        """A SHA-256 (hex) of what is here: contents for arrays and zips, names and sizes for folders."""


@dataclass(frozen=True, eq=False)
class ArrayItems:
    """Rows of one array.

    images   uint8 (N, C, H, W), possibly a view or a memory map
    origin   what the rows are called: row 3 is "origin[3]"
    rows     which rows, in order
    """

    images: Pixels
    origin: str
    rows: npt.NDArray[np.int64]
    encoded: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"{self.origin}[{self.rows[index]}]"

    def image(self, index: int) -> RawImage:
        return RawImage(MODES[self.images.shape[1]], self.images[self.rows[index]])

    def select(self, indices: Sequence[int]) -> ArrayItems:
        return replace(self, rows=self.rows[np.asarray(indices, np.int64)])

    def levels(self) -> tuple[int, int, int]:
        """The lowest and the highest level, alpha apart, and 255."""
        blocks = [levels_of(self.images[self.rows[start : start + ROWS]]) for start in range(0, len(self), ROWS)]
        return min(low for low, _, _ in blocks), max(high for _, high, _ in blocks), 255

    def digest(self) -> str:
        sha = hashlib.sha256(repr(self.images.shape[1:]).encode())
        for start in range(0, len(self), ROWS):
            sha.update(np.ascontiguousarray(self.images[self.rows[start : start + ROWS]]).data)
        return sha.hexdigest()


@dataclass(frozen=True)
class FolderItems:
    """Files below a folder: paths relative to it with "/", and their sizes in bytes."""

    folder: Path
    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    encoded: bool = True

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def image(self, index: int) -> RawImage:
        path = self.folder / self.paths[index]
        with DECODING.held():
            _take(self.sizes[index])
            try:
                data = read_bytes(path, most_file_bytes())
            except InputError as error:
                reason = str(error).removeprefix(f"'{path}' ").removeprefix("could not be read: ")
                raise BadImage(reason.rstrip(".")) from None
            return decode(data)

    def select(self, indices: Sequence[int]) -> FolderItems:
        return replace(self, paths=tuple(self.paths[i] for i in indices), sizes=tuple(self.sizes[i] for i in indices))

    def digest(self) -> str:
        return _digest(f"{path}\0{size}\n" for path, size in zip(self.paths, self.sizes, strict=True))


@dataclass(frozen=True, eq=False)
class ZipItems:
    """Entries of an open zip file, which may be read from several threads."""

    archive: zipfile.ZipFile
    entries: tuple[zipfile.ZipInfo, ...]
    encoded: bool = True

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        return self.entries[index].filename

    def image(self, index: int) -> RawImage:
        entry = self.entries[index]
        with DECODING.held():
            _take(entry.file_size)
            try:
                data = unpacked(self.archive, entry, image=True)
            except BadArchive as error:
                raise BadImage(f"damaged in the zip ({str(error)[:LONGEST_REASON]})") from None
            except InputError as error:
                raise BadImage(str(error).rstrip(".")) from None
            return decode(data)

    def select(self, indices: Sequence[int]) -> ZipItems:
        return replace(self, entries=tuple(self.entries[i] for i in indices))

    def digest(self) -> str:
        return _digest(f"{entry.filename}\0{entry.CRC}\n" for entry in self.entries)


def _take(size: int) -> None:
    """Claim the memory for a file of so many bytes; BadImage if an image within the limit has no such file."""
    if size > most_file_bytes():
        raise BadImage(
            f"{size:,} bytes, more than an image of {most_pixels():,} pixels takes; if it is sound, set the "
            f"environment variable {LIMIT} higher"
        )
    DECODING.take(max(size, 0))


def unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, *, image: bool = False) -> bytes:
    """An entry of a zip, never more than it says that it holds.

    image  of a large entry, unpack no more than the start if that is not how images begin

    Errors as npz.reading; InputError for such an entry.
    """
    piece = PIECE if entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else SMALL_PIECE
    whole = io.BytesIO()  # which hands its bytes out without a copy
    with reading(str(archive.filename)), archive.open(entry) as file:
        for chunk in iter(lambda: file.read(piece), b""):
            if image and not whole.tell() and entry.file_size > LARGE and not may_be_image(chunk):
                raise InputError(UNKNOWN)
            whole.write(chunk)
    return whole.getvalue()


def _digest(lines: Iterable[str]) -> str:
    sha = hashlib.sha256()
    for line in lines:
        sha.update(line.encode("utf-8", "surrogateescape"))
    return sha.hexdigest()


@dataclass(frozen=True, eq=False)
class Part:
    """One split: its images, and int64 (N,) class numbers where there are classes."""

    items: Items
    labels: Integers | None

    def select(self, indices: Sequence[int]) -> Part:
        labels = None if self.labels is None else self.labels[np.asarray(indices, np.int64)]
        return Part(self.items.select(indices), labels)


@dataclass(frozen=True)
class Source:
    """What a path holds.

    kind         in words, for reports
    splits       by name, read only when called; the one name is "" where a source has no splits
    class_names  of all splits together; () without classes
    left_out     what is not used, {reason: {kind or name: files}}
    notes        what else to say of it
    stray        images beside the splits: then a split must be named
    """

    kind: str
    splits: Mapping[str, Callable[[], Part]]
    class_names: tuple[str, ...]
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stray: tuple[str, ...] = ()


def array_part(images: Pixels, labels: Integers | None, origin: str) -> Part:
    """All rows of uint8 (N, C, H, W) as a part."""
    return Part(ArrayItems(images, origin, np.arange(len(images))), labels)
