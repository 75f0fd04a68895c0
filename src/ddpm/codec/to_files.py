"""Many image files to .dpc files, together, so that they share network calls; a bad one does not stop the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ddpm.base.files import check_output, read_bytes, whole_file
from ddpm.base.progress import SILENT, Advance, Progress, unheard
from ddpm.base.tensors import Pixels
from ddpm.codec.codec_data import Codec
from ddpm.codec.container import checksum
from ddpm.codec.decode import LOSSLESS, LOSSY, Decoded, OpenFile, decode, open_file
from ddpm.codec.encode import Encoded, check_image, encode
from ddpm.codec.file_lists import MOST_BYTES, Planned, check_free, in_groups, in_the_way, refusing
from ddpm.codec.file_reports import CompressedFile, CompressionReport
from ddpm.codec.originals import Original, for_model, read_original
from ddpm.codec.tiles import tiles_in
from ddpm.errors import DdpmError, InputError, NotVerified

GROUP = 8
"""Batches of tiles that are compressed and written together: what a stop loses."""
MOST_RATE = 1000
"""In bits/dim: lossless files of the smallest images take fewer."""
UNLIKE = "what was compressed did not decompress to its image; please report this."


def compress_all(
    codec: Codec,
    images: Sequence[Pixels],
    limits: Sequence[int | None],
    *,
    verify: bool = True,
    batch_size: int | None = None,
    advance: Advance = unheard,
    progress: Progress = SILENT,
) -> list[Encoded | None]:
    """Compress images together; None for one that does not come back.

    limits    bytes that each file may have, None is lossless
    verify    decompress the files: lossless ones must be their images, lossy ones whole
    advance   told how many tiles went on by a step when compressing
    progress  of verifying
    """
    found = encode(codec, images, most_bytes=limits, batch_size=batch_size, advance=advance)
    if not verify:
        return list(found)
    opened = [open_file(codec, one.data) for one in found]
    with progress.stage("Verifying", sum(file.steps for file in opened)) as verifying:
        back = decode(codec, opened, batch_size=batch_size, advance=verifying)
    sound = [
        exact(one, image) if limit is None else one.status == LOSSY
        for image, limit, one in zip(images, limits, back, strict=True)
    ]
    return [one if good else None for one, good in zip(found, sound, strict=True)]


def exact(one: Decoded, image: Pixels) -> bool:
    """Whether a file is lossless, and of this image."""
    return one.status == LOSSLESS and one.image is not None and np.array_equal(one.image, image)


def check_limits(rate: float | None, most_bytes: int | None) -> None:
    """Raise InputError unless at most one is given, and that is positive."""
    if rate is not None and most_bytes is not None:
        raise InputError("a rate and a number of bytes were given: leave one of them out.")
    if rate is not None and not 0 < rate <= MOST_RATE:
        raise InputError(f"a rate is a number of bits/dim above 0 and up to {MOST_RATE}, such as 0.5, not {rate}.")
    if most_bytes is not None and (most_bytes != int(most_bytes) or most_bytes < 1):
        raise InputError(f"the bytes of a file must be a whole number of at least 1, not {most_bytes}.")


def byte_limit(image: Pixels, rate: float | None, most_bytes: int | None) -> int | None:
    """How many bytes an image may take: by a rate in bits/dim, or as such; None for lossless. See check_limits."""
    check_limits(rate, most_bytes)
    if rate is not None:
        return int(rate * image.size / 8)
    return None if most_bytes is None else int(most_bytes)


@dataclass
class Compression:
    """Images on their way to files.

    codec       the model's, made where it is first called
    plan        which image becomes which file
    rate        bits/dim, or
    most_bytes  bytes that a file may have; neither is lossless
    verify      decompress what was written, and what is there already, and compare
    force       replace what is there
    batch_size  tiles in a network call, None: codec.at_once
    takers      which image each output is of
    """

    codec: Callable[[], Codec]
    plan: Sequence[Planned]
    rate: float | None
    most_bytes: int | None
    verify: bool
    force: bool
    batch_size: int | None
    progress: Progress
    rows: dict[int, CompressedFile] = field(default_factory=dict)
    takers: dict[Path, str] = field(default_factory=dict)

    @property
    def lossless(self) -> bool:
        return self.rate is None and self.most_bytes is None

    def run(self) -> CompressionReport:
        """Look at every image, then compress those that can be, a group at a time."""
        check_limits(self.rate, self.most_bytes)
        tiles = {k: count for k in range(len(self.plan)) if (count := self._look(k))}
        if tiles:
            total = sum(tiles.values()) * len(self.codec().chain.steps)
            most = GROUP * self.codec().at_once(self.batch_size)
            with self.progress.stage("Compressing", total) as advance:
                for group in in_groups(list(tiles.values()), most):
                    self._compress({k: tiles[k] for k in list(tiles)[group.start : group.stop]}, advance)
        rows = tuple(self.rows[k] for k in range(len(self.plan)))
        return CompressionReport(rows, self.lossless, self.verify)

    def _look(self, k: int) -> int:
        """How many tiles an image has, 0 if it is refused."""
        one = self.plan[k]
        read: list[Original] = []
        with self._refusing(k):
            if one.problem is not None:
                raise one.problem
            check_output(one.target, folder=False)
            read.append(read_original(one.path, lossless=self.lossless))
        if not read:
            return 0
        codec = self.codec()  # what is wrong with the model is no matter of one image
        with self._refusing(k):
            check_free(one, self.takers)
            image = self._checked(read[0]).pixels
            if self._there(k):
                self._claimed(k, image)
            self.takers[one.target] = one.path
            return tiles_in(image.shape[1:], codec.geometry.size)
        return 0

    def _checked(self, original: Original) -> Original:
        """As the codec takes it; InputError if no file can hold it."""
        found = for_model(self.codec(), original)
        check_image(self.codec(), found.pixels, byte_limit(found.pixels, self.rate, self.most_bytes))
        return found

    def _compress(self, tiles: dict[int, int], advance: Advance) -> None:
        """Read a group of images again, and write the files that are not there and right."""
        codec, images = self.codec(), dict[int, Original]()
        for k in tiles:
            with self._refusing(k):
                images[k] = self._checked(read_original(self.plan[k].path, lossless=self.lossless))
        self._compare({k: one for k, one in images.items() if self._there(k)})
        new = [k for k in images if k not in self.rows]
        advance(sum(count for k, count in tiles.items() if k not in new) * len(codec.chain.steps))
        made = compress_all(
            codec,
            [images[k].pixels for k in new],
            [byte_limit(images[k].pixels, self.rate, self.most_bytes) for k in new],
            verify=self.verify,
            batch_size=self.batch_size,
            advance=advance,
            progress=self.progress,
        )
        for k, one in zip(new, made, strict=True):
            with self._refusing(k):
                self._write(k, images[k], one)

    def _compare(self, images: dict[int, Original]) -> None:
        """Take the files that are there for right, by their checksums and, if asked to verify, decompressed."""
        codec, opened = self.codec(), dict[int, OpenFile]()
        for k, original in images.items():
            with self._refusing(k):
                opened[k] = self._claimed(k, original.pixels)
        asked = opened if self.verify else {}
        back = decode(codec, list(asked.values()), batch_size=self.batch_size) if asked else []
        wrong = [k for k, one in zip(asked, back, strict=True) if not exact(one, images[k].pixels)]
        for k, file in opened.items():
            with self._refusing(k):
                if k in wrong:
                    raise in_the_way(self.plan[k].target)
                self._done(k, images[k], self.plan[k].target.stat().st_size, file.packet.header.stored, there=True)

    def _there(self, k: int) -> bool:
        """Whether there is a file that can be compared with its image, and may not be replaced."""
        return self.lossless and not self.force and os.path.exists(self.plan[k].target)

    def _claimed(self, k: int, image: Pixels) -> OpenFile:
        """Open the file that is there; InputError unless it is whole, of this codec, and by its checksums the image."""
        target, codec = self.plan[k].target, self.codec()
        try:
            opened = open_file(codec, read_bytes(target, MOST_BYTES))
        except DdpmError:
            raise in_the_way(target) from None
        packet, header = opened.packet, opened.packet.header
        shape = (1 if header.grey else codec.geometry.channels, *header.size)
        if packet.cut or packet.damaged or shape != image.shape or packet.crc != checksum(image):
            raise in_the_way(target)
        return opened

    def _write(self, k: int, original: Original, made: Encoded | None) -> None:
        """One file; one that is there must be the same, unless it may be replaced. Lossy files know no image."""
        target = self.plan[k].target
        if made is None:
            raise NotVerified(UNLIKE)
        there = not self.force and os.path.exists(target)
        if there and read_bytes(target) != made.data:
            raise in_the_way(target)
        if not there:
            with whole_file(target) as temporary:
                temporary.write_bytes(made.data)
        if self.verify and read_bytes(target) != made.data:
            raise NotVerified(f"'{target}' does not hold what was written to it: is the disk sound?")
        self._done(k, original, len(made.data), made.stored, there=there)

    def _done(self, k: int, original: Original, size: int, stored: bool, *, there: bool) -> None:
        one, pixels = self.plan[k], original.pixels.size
        self.rows[k] = CompressedFile(
            one.path, str(one.target), size, 8 * size / pixels, stored, there, pixels, original.notes
        )

    def _refusing(self, k: int) -> AbstractContextManager[None]:
        """What is wrong with an image in the block becomes its row."""
        path = self.plan[k].path
        return refusing(self.rows, k, path, partial(CompressedFile, path, None))
