"""What the codec is worth on images: rate against PSNR and lossless size, from files on disk, beside other formats."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ddpm.base.progress import Advance, Progress, unheard
from ddpm.base.tensors import Integers, Pixels
from ddpm.base.units import x_to_images
from ddpm.codec.codec_data import Codec, CodecData, make_codec, required_codec_data
from ddpm.codec.container import Cursor, read_header
from ddpm.codec.decode import GREY_LEVEL, LOSSLESS, decode, labels_of, open_file, open_packet
from ddpm.codec.encode import Encoded, encode
from ddpm.data import ImageSet, Reader
from ddpm.data.subsets import chosen_rows, seen_before
from ddpm.errors import InputError, NotVerified
from ddpm.evaluation.image_formats import FormatResult, measure_others, psnr
from ddpm.likelihood.estimate import Estimate, estimate_of
from ddpm.model.model import Model

LIMIT = 200
SHOWN_BYTES = (20, 40, 60, 80, 100, 120, 135, 160, 200)
BATCH = 64
MANY = 10**6  # bytes, more than any chain takes


@dataclass(frozen=True, eq=False)
class CodecReport:
    """The codec on N images.

    images, dimensions  how many, and of how many values each
    headers      bytes of each image's header (N,)
    ends         bytes behind the header after 0, 1, ... steps of the chain (K + 1,)
    curves       PSNR of each image after so many steps, in dB (N, K + 1); those that are stored as PNG have no such
                 prefix, and stand here as the lossy files that `--bytes` would make of them
    theory       mean divergence up to there, in bytes: what an ideal code of the same chain would take
    lossless     mean bytes of the lossless files, from the disk
    stored       share of the images that were stored as PNG
    others       other formats
    files        of each image: bytes, stored, index_bits, divergence, delivered, residual_bytes, ideal_bytes, reseeded
    seconds      of encoding and decoding an image, and their parts
    """

    images: int
    dimensions: int
    headers: NDArray[np.int64]
    ends: NDArray[np.int64]
    curves: NDArray[np.float64]
    theory: list[float]
    lossless: float
    stored: float
    others: list[FormatResult]
    files: list[dict[str, Any]]
    seconds: dict[str, float]

    @property
    def bits_per_dim(self) -> float:
        """Of the lossless files."""
        return 8 * self.lossless / self.dimensions

    @property
    def prefixes(self) -> list[int]:
        """Bytes of a file after 0, 1, ... steps, with the usual header."""
        return [int(end) + int(np.median(self.headers)) for end in self.ends]

    @property
    def psnr(self) -> list[float]:
        """Mean of the images' PSNR there."""
        return [float(value) for value in self.curves.mean(0)]

    def psnr_at(self, size: int) -> float:
        """Mean of the PSNR of the images' prefixes of `size` bytes: each the last whole step in it, header included."""
        step = np.searchsorted(self.ends, size - self.headers, side="right") - 1
        return (
            float(self.curves[np.arange(self.images), np.maximum(step, 0)].mean()) if step.min() >= 0 else float("nan")
        )

    def bytes_at(self, decibels: float) -> float:
        """Bytes of a prefix of so many dB, linear between whole steps; NaN if the chain does not reach them."""
        if self.psnr[-1] < decibels:
            return float("nan")
        return float(np.interp(decibels, self.psnr, self.prefixes))

    def table(self) -> dict[str, Any]:
        """For JSON."""
        plain = {name: value for name, value in asdict(self).items() if name not in ("headers", "ends", "curves")}
        derived = {"bits_per_dim": self.bits_per_dim, "bytes_at_28_db": self.bytes_at(28.0)}
        return {"prefixes": self.prefixes, "psnr": self.psnr, **plain, **derived}

    def lines(self) -> list[str]:
        """For a person."""
        lossless = {one.name: one.bytes for one in sorted(self.others, key=lambda one: -one.bytes) if one.psnr is None}
        rows = [("ddpm", self.lossless), *lossless.items()]
        width = max(len(name) for name, _ in rows)
        theory, index, delivered = (
            sum(row[key] for row in self.files) for key in ("divergence", "index_bits", "delivered")
        )
        shown = [f"{size}: {self.psnr_at(size):.2f}" for size in SHOWN_BYTES if size >= self.prefixes[0]]
        return [
            f"{self.images:,} images, mean bytes of lossless files and bits/dim",
            *(f"  {name:{width}}  {size:8.1f}  {8 * size / self.dimensions:.3f}" for name, size in rows),
            f"  stored as PNG {self.stored:.1%}",
            "bytes of a prefix, header included, and mean PSNR in dB",
            f"  {', '.join(shown)}",
            f"index bits over delivered divergence {index / max(delivered, 1e-9):.3f}, over the theoretical rate "
            f"{index / max(theory, 1e-9):.3f}",
            f"seconds an image: encode {self.seconds['encode']:.2f}, decode {self.seconds['decode']:.2f}",
        ]


def unseen_rows(made: CodecData, images: ImageSet, limit: int | None) -> Integers:
    """At most so many of the images (None: LIMIT), drawn by seed 0; InputError if codec data were fitted on them."""
    rows = chosen_rows(len(images), LIMIT if limit is None else limit, 0)
    if seen_before(images, Reader(images, rows), made.data_fingerprint, made.image_hashes):
        raise InputError(f"the codec of the model was fitted on images of '{images.name}' itself: name others.")
    return rows


def prepared_code(model: Model, images: ImageSet, limit: int | None) -> Callable[[Progress], Estimate]:
    """What measures bits/dim of lossless files on images; all that can be refused is, before it is called."""
    made = required_codec_data(model)
    codec, rows = make_codec(model, made), unseen_rows(made, images, limit)

    def measured(progress: Progress) -> Estimate:
        sizes: list[int] = []
        with progress.stage("Compressing", len(rows)) as advance:
            for part in np.array_split(rows, -(-len(rows) // BATCH)):
                sizes += [len(one.data) for one in encode(codec, list(images.array(part.tolist())))]
                advance(len(part))
        return estimate_of(8 * np.array(sizes) / np.prod(images.geometry.shape))

    return measured


def measure_codec(
    codec: Codec,
    images: ImageSet,
    rows: Integers,
    folder: Path,
    *,
    advance: Advance = unheard,
) -> CodecReport:
    """Compress images to files in `folder`, read them back whole and step by step, and do the same with other formats.

    images  never those that the codec was made on, see require_unseen
    rows    which of them
    """
    count = len(rows)
    originals = [np.asarray(image) for image in images.array(rows.tolist())]
    folder.mkdir(parents=True, exist_ok=True)
    parts = [originals[start : start + BATCH] for start in range(0, count, BATCH)]
    found: list[Encoded] = []
    curves: list[NDArray[np.float64]] = []
    seconds = {"encode": 0.0, "decode": 0.0}
    for part in parts:
        start = time.perf_counter()
        made_now = encode(codec, part)
        seconds["encode"] += time.perf_counter() - start
        files = [folder / f"{len(found) + k:05d}.dpc" for k in range(len(part))]
        for file, written in zip(files, made_now, strict=True):
            file.write_bytes(written.data)
        start = time.perf_counter()
        back = decode(codec, [open_file(codec, file.read_bytes()) for file in files])
        seconds["decode"] += time.perf_counter() - start
        for image, one in zip(part, back, strict=True):
            if one.status != LOSSLESS or one.image is None or not np.array_equal(one.image, image):
                raise NotVerified(f"a file in '{folder}' did not come back as its image; please report this.")
        curves += _curves(codec, part, made_now)
        found += made_now
        advance(len(part))
    sizes = [(folder / f"{k:05d}.dpc").stat().st_size for k in range(count)]
    return CodecReport(
        count,
        originals[0].size,
        np.array([header_bytes(one.data) for one in found]),
        -(-np.cumsum([0, *codec.chain.bits]) // 8),
        np.array(curves),
        _theory(found),
        float(np.mean(sizes)),
        float(np.mean([one.stored for one in found])),
        list(measure_others(originals, folder / "other")),
        [_row(one) for one in found],
        {name: value / count for name, value in seconds.items()},
    )


def _curves(codec: Codec, originals: Sequence[Pixels], found: Sequence[Encoded]) -> list[NDArray[np.float64]]:
    """PSNR after 0, 1, ... steps of each image of one tile; what was stored is coded once more, as a lossy file."""
    chain, size = codec.chain, codec.geometry
    again = [
        encode(codec, [image], most_bytes=[MANY])[0] if one.stored else one
        for image, one in zip(originals, found, strict=True)
    ]
    packets = [open_packet(codec, one.data) for one in again]
    edges = np.cumsum([0, *chain.bits])
    rows = np.stack([packet.bits for packet in packets])
    seeds = [(dict(packet.header.seeds).get(0, 0), 0) for packet in packets]
    labels = labels_of(codec, [packet.header for packet in packets])
    seen: list[Tensor] = []
    counts = np.full(len(rows), len(chain.steps))
    bits = [rows[:, begin:end] for begin, end in itertools.pairwise(edges)]
    x = chain.decode(bits, chain.start(seeds, size.shape), counts, labels, on_x0=lambda steps, x0: seen.append(x0))
    seen.append(chain.last_x0(x, counts, labels))
    shown = [np.full(rows.shape[:1] + size.shape, GREY_LEVEL, np.uint8), *(x_to_images(x0).numpy() for x0 in seen[1:])]
    return [np.array([psnr(step[k], image) for step in shown]) for k, image in enumerate(originals)]


def _theory(found: Sequence[Encoded]) -> list[float]:
    """What an ideal code of the same chain would take for 0, 1, ... steps, in bytes, mean of the images."""
    steps = np.mean([one.divergence for one in found if one.divergence], axis=0)
    return [float(value) for value in np.cumsum([0.0, *steps]) / 8]


def header_bytes(data: bytes) -> int:
    """Of a file."""
    cursor = Cursor(data)
    read_header(cursor)
    return cursor.place


def _row(one: Encoded) -> dict[str, Any]:
    return {
        "bytes": len(one.data),
        "stored": one.stored,
        "index_bits": one.index_bits,
        "divergence": round(sum(one.divergence), 2),
        "delivered": round(sum(one.delivered), 2),
        "residual_bytes": one.residual_bytes,
        "ideal_bytes": round(one.ideal_bytes, 2),
        "reseeded": one.reseeded,
    }
