"""Many .dpc files to image files: what is wrong with one does not stop the others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ddpm.base.files import check_output, read_bytes, whole_file
from ddpm.base.image_io import to_pil
from ddpm.base.progress import Advance, Progress
from ddpm.base.tensors import Pixels
from ddpm.codec.codec_data import Codec
from ddpm.codec.container import Cursor, checksum, read_header
from ddpm.codec.decode import DAMAGED, LOSSLESS, Decoded, OpenFile, decode, open_file
from ddpm.codec.file_lists import MOST_BYTES, Planned, check_free, in_groups, in_the_way, refusing
from ddpm.codec.file_reports import DecompressedFile, DecompressionReport
from ddpm.codec.lookup import Codecs
from ddpm.codec.originals import read_original
from ddpm.codec.to_files import GROUP
from ddpm.data.contents import BY_DECOMPRESS, DECOMPRESSED, sort_out
from ddpm.data.files import FolderTree
from ddpm.errors import DamagedFile, InputError, NotVerified


@dataclass
class Decompression:
    """Files on their way to images.

    codecs       of the run, by fingerprint
    plan         which file becomes which image
    out          the folder of the images
    most_bytes   of each file that are read, None: all
    reconstruct  see decode.decode
    force        replace what is there
    batch_size   tiles in a network call, None: codec.at_once
    takers       of which file each output is
    """

    codecs: Codecs
    plan: Sequence[Planned]
    out: Path
    most_bytes: int | None
    reconstruct: str
    force: bool
    batch_size: int | None
    progress: Progress
    rows: dict[int, DecompressedFile] = field(default_factory=dict)
    takers: dict[Path, str] = field(default_factory=dict)

    def run(self) -> DecompressionReport:
        """Look at every file, then decompress those that have no image yet, by checkpoint and a group at a time."""
        tiles: dict[str, dict[int, int]] = {}
        steps = 0
        for k in range(len(self.plan)):
            with self._refusing(k):
                file, codec, by = self._open(k)
                check_free(self.plan[k], self.takers)
                self.takers[self.plan[k].target] = self.plan[k].path
                if self._right(k, file):
                    count = (0, 0) if file.packet.header.stored else (int(file.done.min()), len(codec.chain.steps))
                    self._done(k, Decoded(None, LOSSLESS, count, file.packet.header.stored), by, there=True)
                else:
                    tiles.setdefault(file.packet.header.fingerprint.hex(), {})[k] = max(len(file.done), 1)
                    steps += file.steps
        with self.progress.stage("Decompressing", steps) as advance:
            for fingerprint, waiting in tiles.items():
                most = GROUP * self.codecs.wanted(fingerprint)[0].at_once(self.batch_size)
                for group in in_groups(list(waiting.values()), most):
                    self._decompress(list(waiting)[group.start : group.stop], advance)
        return DecompressionReport(tuple(self.rows[k] for k in range(len(self.plan))))

    def _open(self, k: int) -> tuple[OpenFile, Codec, str]:
        """A file, its codec, and the checkpoint that has it if that is another one."""
        one = self.plan[k]
        if one.problem is not None:
            raise one.problem
        check_output(one.target, folder=False)
        data = read_bytes(one.path, MOST_BYTES)
        codec, by = self.codecs.wanted(read_header(Cursor(data)).fingerprint.hex())
        return open_file(codec, data, self.most_bytes), codec, by

    def _right(self, k: int, file: OpenFile) -> bool:
        """Whether the image is there already: that of a whole lossless file has the checksum that the file names."""
        packet, target = file.packet, self.plan[k].target
        if self.force or packet.data is None or packet.damaged or not os.path.exists(target):
            return False
        there = pixels_in(target)
        return there is not None and there.shape[1:] == packet.header.size and checksum(there) == packet.crc

    def _decompress(self, rows: Sequence[int], advance: Advance) -> None:
        """Decompress files that want one codec, and write their images."""
        opened: dict[int, tuple[OpenFile, Codec, str]] = {}
        for k in rows:
            with self._refusing(k):
                opened[k] = self._open(k)
        if not opened:
            return
        files, codec = [file for file, _, _ in opened.values()], next(iter(opened.values()))[1]
        found = decode(codec, files, reconstruct=self.reconstruct, batch_size=self.batch_size, advance=advance)
        for (k, (_, _, by)), one in zip(opened.items(), found, strict=True):
            with self._refusing(k):
                self._done(k, one, by, there=self._write(self.plan[k].target, one.image))

    def _write(self, target: Path, image: Pixels | None) -> bool:
        """Write an image unless it is there; whether it was."""
        if image is None:
            return False
        if not self.force and os.path.exists(target):
            if not holds(target, image):
                raise in_the_way(target)
            return True
        mark(self.out)
        with whole_file(target) as temporary:
            to_pil(image).save(temporary)
        if not holds(target, image):
            raise NotVerified(f"'{target}' does not hold what was written to it: is the disk sound?")
        return False

    def _done(self, k: int, one: Decoded, by: str, *, there: bool) -> None:
        path, target = self.plan[k].path, self.plan[k].target
        code = DamagedFile.exit_code if one.status == DAMAGED else 0
        out = None if one.image is None and not there else str(target)
        self.rows[k] = DecompressedFile(path, out, one.status, *one.steps, one.stored, there, by, one.problem, code)

    def _refusing(self, k: int) -> AbstractContextManager[None]:
        """What is wrong with a file in the block becomes its row."""
        path = self.plan[k].path
        return refusing(self.rows, k, path, partial(DecompressedFile, path, None, "refused"))


def mark(folder: Path) -> None:
    """Say in a hidden file what the images are, so that a source around the folder leaves them out; not in a folder
    that holds other images already."""
    path = folder / DECOMPRESSED
    if not path.exists() and not (folder.is_dir() and sort_out(FolderTree(folder)).images):
        with whole_file(path) as temporary:
            temporary.write_bytes(BY_DECOMPRESS)


def pixels_in(path: Path) -> Pixels | None:
    """An image file's pixels, None if it is none or holds more than an 8-bit image."""
    try:
        return read_original(str(path), lossless=True).pixels
    except InputError:
        return None


def holds(path: Path, image: Pixels) -> bool:
    """Whether an image file has these pixels."""
    there = pixels_in(path)
    return there is not None and np.array_equal(there, image)
