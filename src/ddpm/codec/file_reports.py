"""What `ddpm compress` and `ddpm decompress` say of each file, and of all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ddpm.base.progress import one_line


@dataclass(frozen=True)
class CompressedFile:
    """One image.

    file        the .dpc file, None if there is none
    there       whether that was there already, and right
    stored      whether it holds the image as PNG
    dimensions  of the image
    notes       what of the image file is not in it
    problem     why there is none, a sentence; "" without one
    exit_code   of the problem, 0 without one
    """

    image: str
    file: str | None
    bytes: int = 0
    bits_per_dim: float = 0.0
    stored: bool = False
    there: bool = False
    dimensions: int = 0
    notes: tuple[str, ...] = ()
    problem: str = ""
    exit_code: int = 0

    def line(self) -> str:
        """For a person, of an image with a file."""
        more = ", stored as PNG" * self.stored + ", there already" * self.there
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        return one_line(f"{self.file}: {self.bytes:,} bytes, {self.bits_per_dim:.3f} bits/dim{more}{notes}")


@dataclass(frozen=True)
class CompressionReport:
    """What `ddpm.compress_files` returns: a row an image, and whether files are lossless and were verified."""

    files: tuple[CompressedFile, ...]
    lossless: bool
    verified: bool

    @property
    def done(self) -> list[CompressedFile]:
        """Those with a file."""
        return [one for one in self.files if one.file is not None]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(one.bytes for one in self.done)

    @property
    def exit_code(self) -> int:
        """The largest of the images', 0 if all have a file."""
        return max((one.exit_code for one in self.files), default=0)

    def table(self) -> dict[str, Any]:
        """As plain values."""
        dimensions = sum(one.dimensions for one in self.done)
        return {
            "files": [asdict(one) for one in self.files],
            "lossless": self.lossless,
            "verified": self.verified,
            "bytes": self.bytes,
            "bits_per_dim": 8 * self.bytes / dimensions if dimensions else None,
            "stored": sum(one.stored for one in self.done),
            "there": sum(one.there for one in self.done),
            "refused": len(self.files) - len(self.done),
        }

    def lines(self) -> list[str]:
        """For a person; nothing of images without a file but their number."""
        if not self.done:
            return []
        kind, checked = "lossy", "decompressed again"
        if self.lossless:
            kind, checked = "lossless", "decompressed and compared"
        table, count = self.table(), len(self.done)
        phrases = {"stored": "stored as PNG", "there": "there already", "refused": "refused"}
        counts = [f"{table[key]} {phrase}" for key, phrase in phrases.items() if table[key] or key == "stored"]
        return [
            *(one.line() for one in self.done),
            f"{count} {'file' if count == 1 else 'files'}, {kind}, {checked if self.verified else 'not verified'}: "
            f"{self.bytes:,} bytes, {table['bits_per_dim']:.3f} bits/dim; {'; '.join(counts)}",
        ]


@dataclass(frozen=True)
class DecompressedFile:
    """One file: the image file written (None if nothing could be read), how exact it is, and what is wrong with it.

    status      "lossless", "lossy", "partial", "damaged" as of decode.Decoded, or "refused"
    steps, of   steps of the chain that every tile has had, of how many
    stored      whether it holds the image as PNG
    there       whether the image file was there already, and right
    checkpoint  another checkpoint than the one that was asked for, if that decompressed it, in words
    problem     a sentence, "" without one
    exit_code   of the problem, 0 without one
    """

    file: str
    out: str | None
    status: str
    steps: int = 0
    of: int = 0
    stored: bool = False
    there: bool = False
    checkpoint: str = ""
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
        by = f"; by {self.checkpoint}" if self.checkpoint else ""
        return one_line(f"{self.out or self.file}: {how}{', there already' * self.there}{by}")


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
        """The largest of the files', 0 unless something is wrong with one."""
        return max((one.exit_code for one in self.files), default=0)
