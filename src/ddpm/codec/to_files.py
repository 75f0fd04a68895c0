"""Many image files to .dpc files, together, so that they share network calls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.base.files import check_output, whole_file, writable_folder
from ddpm.base.progress import Advance, Progress, unheard
from ddpm.base.tensors import Pixels
from ddpm.codec.codec_data import Codec
from ddpm.codec.container import MAGIC
from ddpm.codec.decode import LOSSLESS, LOSSY, decode, open_file
from ddpm.codec.encode import Encoded, check_image, check_limit, encode, tiles_of
from ddpm.codec.progressive import AT_ONCE
from ddpm.data.decode import BadImage
from ddpm.data.decode import decode as decode_image
from ddpm.errors import InputError, NotVerified

SUFFIX = ".dpc"
GROUP = 8  # network calls whose tiles are written together, so that a stop loses only those in hand


def compress_all(
    codec: Codec,
    images: Sequence[Pixels],
    *,
    limits: Sequence[int] | None = None,
    verify: bool = True,
    batch_size: int = AT_ONCE,
    advance: Advance = unheard,
    advance_verifying: Advance = unheard,
) -> list[Encoded]:
    """Compress images together.

    limits   bytes that each file may have, None is lossless
    verify   decompress the files: lossless ones must be their images, lossy ones whole
    advance  told how many tiles went on by a step; advance_verifying the same of decompressing
    """
    found = encode(codec, images, most_bytes=limits, batch_size=batch_size, advance=advance)
    if verify:
        opened = [open_file(codec, one.data) for one in found]
        back = decode(codec, opened, batch_size=batch_size, advance=advance_verifying)
        for image, one in zip(images, back, strict=True):
            exact = one.status == LOSSLESS and one.image is not None and np.array_equal(one.image, image)
            if not (exact if limits is None else one.status == LOSSY):
                raise NotVerified("what was compressed did not decompress to its image; please report this.")
    return found


def byte_limit(image: Pixels, rate: float | None, most_bytes: int | None) -> int | None:
    """How many bytes an image may take: by a rate in bits/dim, or as such; None for lossless."""
    if rate is not None and most_bytes is not None:
        raise InputError("a rate and a number of bytes were given: leave one of them out.")
    if rate is not None and not 0 < rate < math.inf:
        raise InputError(f"a rate must be a positive number of bits/dim, such as 0.5, not {rate}.")
    if most_bytes is not None and (most_bytes != int(most_bytes) or most_bytes < 1):
        raise InputError(f"a file has a whole number of bytes, at least 1, not {most_bytes}.")
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
        lines = [
            f"{one.file}: {one.bytes:,} bytes, {one.bits_per_dim:.3f} bits/dim{', stored as PNG' if one.stored else ''}"
            for one in self.files
        ]
        kind = "lossless" if self.lossless else "lossy"
        checked = "decompressed and compared" if self.lossless else "decompressed again"
        table = self.table()
        count = f"{len(self.files)} {'file' if len(self.files) == 1 else 'files'}"
        return [
            *lines,
            f"{count}, {kind}, {checked if self.verified else 'not verified'}: {self.bytes:,} bytes, "
            f"{table['bits_per_dim']:.3f} bits/dim; {table['stored']} stored as PNG",
        ]


def read_images(paths: Sequence[str]) -> list[Pixels]:
    """Grey or RGB image files as uint8 (C, H, W), exactly as they are; anything else is refused."""
    return [_read_image(path) for path in paths]


def _read_image(path: str) -> Pixels:
    try:
        image = decode_image(read_file(path))
    except BadImage as error:
        raise InputError(f"'{path}' cannot be read: {error}.") from None
    if image.mode not in ("L", "RGB"):
        raise InputError(f"'{path}' has mode {image.mode}; the codec holds 8-bit grey (L) and RGB.")
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
    limits = [_checked_limit(codec, *pair, rate, most_bytes) for pair in zip(paths, images, strict=True)]
    tiles = [tiles_of(codec, image) for image in images]
    steps = sum(tiles) * len(codec.chain.steps)
    lossless = rate is None and most_bytes is None
    found: list[Encoded] = []
    with progress.stage("Compressing", steps) as advance, progress.stage("Verifying", steps * verify) as verifying:
        for rows in in_groups(tiles, GROUP * batch_size):
            made = compress_all(
                codec,
                [images[k] for k in rows],
                limits=None if lossless else [limits[k] or 0 for k in rows],
                verify=verify,
                batch_size=batch_size,
                advance=advance,
                advance_verifying=verifying,
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
    return CompressionReport(tuple(files), sum(image.size for image in images), lossless, verify)


def _checked_limit(codec: Codec, path: str, image: Pixels, rate: float | None, most_bytes: int | None) -> int | None:
    limit = byte_limit(image, rate, most_bytes)
    try:
        check_image(codec, image)
        if limit is not None:
            check_limit(codec, image, limit)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from None
    return limit


def in_groups(tiles: Sequence[int], most: int) -> Iterator[range]:
    """Whole images together, until they have so many tiles."""
    start, total = 0, 0
    for k, count in enumerate(tiles):
        total += count
        if total >= most or k == len(tiles) - 1:
            yield range(start, k + 1)
            start, total = k + 1, 0


def targets_in(inputs: Sequence[str], out: str | Path, suffix: str, *, force: bool) -> list[Path]:
    """Where each input's output goes; refuses two of one name and files that are there, before any work is done."""
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
