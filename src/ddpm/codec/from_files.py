"""Many .dpc files to image files: a file that is damaged does not stop the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddpm.base.files import whole_file
from ddpm.base.image_io import to_pil
from ddpm.base.progress import Progress
from ddpm.codec.codec_data import Codec
from ddpm.codec.container import Cursor, read_header
from ddpm.codec.decode import DAMAGED, Decoded, decode, open_file
from ddpm.codec.to_files import GROUP, in_groups
from ddpm.errors import DamagedFile, DdpmError


@dataclass(frozen=True)
class DecompressedFile:
    """One file: the image file written (None if nothing could be read), how exact it is, and what is wrong with it.

    status     "lossless", "lossy", "partial", "damaged" as of decode.Decoded, or "refused"
    steps, of  steps of the chain that every tile has had, of how many
    stored     whether it holds the image as PNG
    problem    a sentence, "" without one
    exit_code  of the problem, 0 without one
    """

    file: str
    out: str | None
    status: str
    steps: int = 0
    of: int = 0
    stored: bool = False
    problem: str = ""
    exit_code: int = 0

    def line(self) -> str:
        """For a person, of a file that was not refused."""
        how = {
            "lossless": "stored as PNG, exact" if self.stored else "exact",
            "lossy": f"lossy, {self.steps} of {self.of} steps",
            "partial": f"the image so far, {self.steps} of {self.of} steps",
            "damaged": "damaged, not exact",
        }[self.status]
        return f"{self.out or self.file}: {how}"


@dataclass(frozen=True)
class DecompressionReport:
    """What `ddpm.decompress_files` returns: a row a file, in the order in which they were given."""

    files: tuple[DecompressedFile, ...]

    def table(self) -> dict[str, Any]:
        """As plain values."""
        return {"files": [asdict(one) for one in self.files]}

    def lines(self) -> list[str]:
        """For a person."""
        return [one.line() for one in self.files if one.status != "refused"]

    @property
    def exit_code(self) -> int:
        """0 unless something is wrong with a file."""
        return max((one.exit_code for one in self.files), default=0)


def write_decompressed(
    codec: Codec | DdpmError,
    paths: Sequence[str],
    contents: Sequence[bytes],
    targets: Sequence[Path],
    *,
    most_bytes: int | None,
    reconstruct: str,
    batch_size: int,
    progress: Progress,
) -> DecompressionReport:
    """Decompress files to PNGs; what cannot be opened does not stop the others.

    codec  or the error that says why the model has none
    """
    rows: dict[int, DecompressedFile] = {}
    opened = {}
    for k, (path, data) in enumerate(zip(paths, contents, strict=True)):
        try:
            if isinstance(codec, DdpmError):
                wanted = read_header(Cursor(data)).fingerprint.hex()
                raise type(codec)(f"it wants the model with fingerprint {wanted}; {codec}")
            opened[k] = open_file(codec, data, most_bytes)
        except DdpmError as error:
            rows[k] = DecompressedFile(path, None, "refused", problem=str(error), exit_code=error.exit_code)
    if not isinstance(codec, DdpmError):
        order, files = list(opened), list(opened.values())
        with progress.stage("Decompressing", sum(file.steps for file in files)) as advance:
            for group in in_groups([max(len(file.done), 1) for file in files], GROUP * batch_size):
                some = [files[place] for place in group]
                found = decode(codec, some, reconstruct=reconstruct, batch_size=batch_size, advance=advance)
                for k, one in zip(order[group.start : group.stop], found, strict=True):
                    rows[k] = _written(paths[k], one, targets[k])
    return DecompressionReport(tuple(rows[k] for k in sorted(rows)))


def _written(path: str, one: Decoded, target: Path) -> DecompressedFile:
    if one.image is not None:
        with whole_file(target) as temporary:
            to_pil(one.image).save(temporary)
    code, out = DamagedFile.exit_code if one.status == DAMAGED else 0, None if one.image is None else str(target)
    return DecompressedFile(path, out, one.status, *one.steps, one.stored, one.problem, code)
