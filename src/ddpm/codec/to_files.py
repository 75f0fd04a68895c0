"""Many image files to .dpc files, together, so that they share network calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.base.files import check_output, whole_file, writable_folder
from ddpm.base.progress import SILENT, Advance, Progress, unheard
from ddpm.base.tensors import Pixels
from ddpm.codec.codec_data import Codec
from ddpm.codec.container import MAGIC
from ddpm.codec.decode import LOSSLESS, LOSSY, decode, open_file
from ddpm.codec.encode import Encoded, check_image, encode
from ddpm.codec.progressive import AT_ONCE
from ddpm.codec.tiles import tiles_in
from ddpm.data.decode import BadImage
from ddpm.data.decode import decode as decode_image
from ddpm.errors import InputError, NotVerified

SUFFIX = ".dpc"
GROUP = 8
MOST_RATE = 1000
"""In bits/dim: lossless files of the smallest images take fewer."""
"""Batches of tiles that are compressed and written together: what a stop loses."""


def compress_all(
    codec: Codec,
    images: Sequence[Pixels],
    limits: Sequence[int | None],
    *,
    verify: bool = True,
    batch_size: int = AT_ONCE,
    advance: Advance = unheard,
    progress: Progress = SILENT,
) -> list[Encoded]:
    """Compress images together.

    limits    bytes that each file may have, None is lossless
    verify    decompress the files: lossless ones must be their images, lossy ones whole
    advance   told how many tiles went on by a step when compressing
    progress  of verifying
    """
    found = encode(codec, images, most_bytes=limits, batch_size=batch_size, advance=advance)
    if verify:
        opened = [open_file(codec, one.data) for one in found]
        with progress.stage("Verifying", sum(file.steps for file in opened)) as verifying:
            back = decode(codec, opened, batch_size=batch_size, advance=verifying)
        for image, limit, one in zip(images, limits, back, strict=True):
            exact = one.status == LOSSLESS and one.image is not None and np.array_equal(one.image, image)
            if not (exact if limit is None else one.status == LOSSY):
                raise NotVerified("what was compressed did not decompress to its image; please report this.")
    return found


def byte_limit(image: Pixels, rate: float | None, most_bytes: int | None) -> int | None:
    """How many bytes an image may take: by a rate in bits/dim, or as such; None for lossless.

    Errors (InputError): both given, or one that is not positive.
    """
    if rate is not None and most_bytes is not None:
        raise InputError("a rate and a number of bytes were given: leave one of them out.")
    if rate is not None and not 0 < rate <= MOST_RATE:
        raise InputError(f"a rate is a number of bits/dim above 0 and up to {MOST_RATE}, such as 0.5, not {rate}.")
    if most_bytes is not None and (most_bytes != int(most_bytes) or most_bytes < 1):
        raise InputError(f"the bytes of a file must be a whole number of at least 1, not {most_bytes}.")
    if rate is not None:
        return int(rate * image.size / 8)
    return None if most_bytes is None else int(most_bytes)


@dataclass(frozen=True)
class CompressedFile:
    """One file: which image became which file, of how many bytes; `stored`: whether it holds the image as PNG."""

    image: str
    file: str
    bytes: int
    bits_per_dim: float
    stored: bool


@dataclass(frozen=True)
class CompressionReport:
    """What `ddpm.compress_files` returns: the files, and whether they are lossless and were verified."""

    files: tuple[CompressedFile, ...]
    dimensions: int
    lossless: bool
    verified: bool

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(one.bytes for one in self.files)

    def table(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "files": [asdict(one) for one in self.files],
            "lossless": self.lossless,
            "verified": self.verified,
            "bytes": self.bytes,
            "bits_per_dim": 8 * self.bytes / self.dimensions,
            "stored": sum(one.stored for one in self.files),
        }

    def lines(self) -> list[str]:
        """For a person."""
        kind, checked = "lossy", "decompressed again"
        if self.lossless:
            kind, checked = "lossless", "decompressed and compared"
        table = self.table()
        return [
            *(
                f"{one.file}: {one.bytes:,} bytes, {one.bits_per_dim:.3f} bits/dim{', stored as PNG' * one.stored}"
                for one in self.files
            ),
            f"{len(self.files)} {'file' if len(self.files) == 1 else 'files'}, {kind}, "
            f"{checked if self.verified else 'not verified'}: {self.bytes:,} bytes, "
            f"{table['bits_per_dim']:.3f} bits/dim; {table['stored']} stored as PNG",
        ]


def read_image(path: str) -> Pixels:
    """A grey or RGB image file as uint8 (C, H, W), exactly as it is; InputError for anything else."""
    try:
        image = decode_image(read_file(path))
    except BadImage as error:
        raise InputError(f"'{path}' cannot be read: {error}.") from None
    if image.mode not in ("L", "RGB"):
        raise InputError(f"'{path}' has mode {image.mode}; the codec holds grey (L) and RGB of 8 bits.")
    return np.array(image.pixels)


def is_dpc(data: bytes, path: str | Path) -> bool:
    """Whether a file is, by its name or its first bytes, a .dpc file."""
    return Path(path).suffix == SUFFIX or data.startswith(MAGIC)


def read_file(path: str) -> bytes:
    """All bytes of a file."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {(error.strerror or 'unreadable').lower()}.") from None


def write_compressed(
    codec: Codec,
    paths: Sequence[str],
    images: Sequence[Pixels],
    targets: Sequence[Path],
    *,
    rate: float | None,
    most_bytes: int | None,
    verify: bool,
    batch_size: int,
    progress: Progress,
) -> CompressionReport:
    """Compress images to files; what no file can hold is refused by name before the first is written."""
    limits = [byte_limit(image, rate, most_bytes) for image in images]
    for path, image, limit in zip(paths, images, limits, strict=True):
        try:
            check_image(codec, image, limit)
        except InputError as error:
            raise InputError(f"'{path}': {error}") from None
    tiles = [tiles_in(image.shape[1:], codec.geometry.size) for image in images]
    found: list[Encoded] = []
    with progress.stage("Compressing", sum(tiles) * len(codec.chain.steps)) as advance:
        for rows in in_groups(tiles, GROUP * batch_size):
            made = compress_all(
                codec,
                [images[k] for k in rows],
                [limits[k] for k in rows],
                verify=verify,
                batch_size=batch_size,
                advance=advance,
                progress=progress,
            )
            for k, one in zip(rows, made, strict=True):
                with whole_file(targets[k]) as temporary:
                    temporary.write_bytes(one.data)
                if verify and targets[k].read_bytes() != one.data:
                    raise NotVerified(f"'{targets[k]}' does not hold what was written to it: is the disk sound?")
            found += made
    files = [
        CompressedFile(path, str(target), len(one.data), 8 * len(one.data) / image.size, one.stored)
        for path, target, image, one in zip(paths, targets, images, found, strict=True)
    ]
    lossless = rate is None and most_bytes is None
    return CompressionReport(tuple(files), sum(image.size for image in images), lossless, verify)


def in_groups(tiles: Sequence[int], most: int) -> Iterator[range]:
    """Rows of images that are compressed together: as few as have `most` tiles."""
    start, total = 0, 0
    for k, count in enumerate(tiles):
        total += count
        if total >= most or k == len(tiles) - 1:
            yield range(start, k + 1)
            start, total = k + 1, 0


def targets_in(inputs: Sequence[str], out: str | Path, suffix: str, *, force: bool) -> list[Path]:
    """Where each input's output goes; refuses two of one name and files that are there, before any work is done."""
    if not inputs:
        raise InputError("no files were given: name at least one.")
    folder = writable_folder(out)
    targets = [folder / f"{Path(path).stem}{suffix}" for path in inputs]
    for place, target in enumerate(targets):
        check_output(target, folder=False)
        if target in targets[:place]:
            first = inputs[targets.index(target)]
            if first == inputs[place]:
                raise InputError(f"'{first}' was given twice.")
            raise InputError(f"'{first}' and '{inputs[place]}' would both become '{target}': rename one of them.")
        if target.exists() and not force:
            raise InputError(f"'{target}' is there already; --force replaces it.")
    return targets
