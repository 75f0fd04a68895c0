"""What the codec is worth on images: rate against PSNR and lossless size, from files on disk, beside other formats."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ddpm.base.files import read_bytes, whole_file
from ddpm.base.progress import Advance, Progress, unheard
from ddpm.base.tensors import Floats, Integers, Pixels
from ddpm.base.units import x_to_images
from ddpm.codec.codec_data import SIDECAR, Codec, check_codes, make_codec, read_codec_data
from ddpm.codec.decode import GREY_LEVEL, LOSSLESS, OpenFile, decode, open_file
from ddpm.codec.encode import Encoded, encode
from ddpm.data.sources import ImageSet
from ddpm.data.stream import Reader
from ddpm.data.subsets import chosen_rows, seen_before
from ddpm.errors import InputError, NotVerified
from ddpm.evaluation.image_formats import FormatResult, measure_others, psnr
from ddpm.evaluation.rate_plots import without_nan
from ddpm.likelihood.estimate import Estimate, estimate_of
from ddpm.model.model import Model
from ddpm.model.trained_on import TrainedOn

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
    curves       PSNR of each image after so many steps, in dB (N, K + 1); images that are stored as PNG have no such
                 prefixes, their curves are those of lossy files (`--bytes`)
    theory       mean divergence up to there, in bytes: what an ideal code of the same chain takes, see _theory
    lossless     mean bytes of the lossless files, from the disk
    stored       share of the images that were stored as PNG
    others       other formats
    files        of each image: bytes, stored, index_bits, divergence, delivered, residual_bytes, ideal_bytes, reseeded
    seconds      of encoding and decoding an image
    seen         whether the model was trained on the images; None where it was not asked
    lost         a sentence for each file that could not be written
    """

    images: int
    dimensions: int
    headers: Integers
    ends: Integers
    curves: Floats
    theory: list[float]
    lossless: float
    stored: float
    others: list[FormatResult]
    files: list[dict[str, Any]]
    seconds: dict[str, float]
    seen: TrainedOn | None = None
    lost: tuple[str, ...] = ()

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
        """Mean PSNR of the images' prefixes of `size` bytes, header included: each the last whole step in it; NaN if
        one does not hold its header."""
        step = np.searchsorted(self.ends, size - self.headers, side="right") - 1
        return float(self.curves[np.arange(self.images), step].mean()) if step.min() >= 0 else float("nan")

    def bytes_at(self, decibels: float) -> float:
        """Bytes of a prefix of so many dB, linear between whole steps; NaN if the chain does not reach them."""
        if self.psnr[-1] < decibels:
            return float("nan")
        return float(np.interp(decibels, self.psnr, self.prefixes))

    def table(self) -> dict[str, Any]:
        """For JSON."""
        apart = ("headers", "ends", "curves", "seen", "lost")
        plain = {name: value for name, value in asdict(self).items() if name not in apart}
        if self.seen is not None:
            plain["trained_on"] = self.seen.table()
        derived = {"bits_per_dim": self.bits_per_dim, "bytes_at_28_db": self.bytes_at(28.0)}
        return dict(without_nan({"prefixes": self.prefixes, "psnr": self.psnr, **plain, **derived}))

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
            *(self.seen.sentences() if self.seen is not None else ()),
        ]


def codec_for(model: Model, images: ImageSet, limit: int | None) -> tuple[Codec, Integers]:
    """A model's codec, and the rows of the images to measure: at most `limit` (None: LIMIT), drawn by seed 0.

    Errors (InputError): no codec data were made, or they were made on these very images.
    """
    check_codes(model)
    made = read_codec_data(model)
    if made is None:
        raise InputError(f"the codec data of '{model.source}' were not made yet: run {SIDECAR.made_by(model)}.")
    rows = chosen_rows(len(images), LIMIT if limit is None else limit, 0)
    if seen_before(images, Reader(images, rows), made.data_fingerprint, made.image_hashes):
        raise InputError(f"the codec of the model was fitted on images of '{images.name}': name other images.")
    return make_codec(model, made), rows


def prepared_code(model: Model, images: ImageSet, limit: int | None) -> Callable[[Progress], Estimate]:
    """What measures bits/dim of lossless files on images; every InputError (see codec_for) is raised here."""
    codec, rows = codec_for(model, images, limit)

    def measured(progress: Progress) -> Estimate:
        sizes: list[int] = []
        with progress.stage("Compressing", len(rows)) as advance:
            for part in np.array_split(rows, -(-len(rows) // BATCH)):
                sizes += [len(one.data) for one in encode(codec, list(images.array(part.tolist())))]
                advance(len(part))
        return estimate_of(8 * np.array(sizes) / np.prod(images.geometry.shape))

    return measured


def measure_codec(
    codec: Codec, images: ImageSet, rows: Integers, folder: Path, *, advance: Advance = unheard
) -> CodecReport:
    """Compress images to files in `folder`, read them back whole and step by step, and do the same with other formats.

    rows  which of the images, see codec_for
    """
    count, originals = len(rows), list(images.array(rows.tolist()))
    files = [folder / f"{k:05d}.dpc" for k in range(count)]
    found: list[Encoded] = []
    headers: list[int] = []
    curves: list[Floats] = []
    seconds = {"encode": 0.0, "decode": 0.0}
    for first in range(0, count, BATCH):
        part, paths = originals[first : first + BATCH], files[first : first + BATCH]
        start = time.perf_counter()
        found += encode(codec, part)
        seconds["encode"] += time.perf_counter() - start
        for path, one in zip(paths, found[first:], strict=True):
            with whole_file(path) as temporary:
                temporary.write_bytes(one.data)
        start = time.perf_counter()
        opened = [open_file(codec, read_bytes(path)) for path in paths]
        back = decode(codec, opened)
        seconds["decode"] += time.perf_counter() - start
        headers += [len(file.packet.header.pack()) for file in opened]
        for image, path, decoded in zip(part, paths, back, strict=True):
            if decoded.status != LOSSLESS or decoded.image is None or not np.array_equal(decoded.image, image):
                raise NotVerified(f"'{path}' did not decompress to its image; please report this.")
        curves += _curves(codec, part, opened)
        advance(len(part))
    return CodecReport(
        count,
        originals[0].size,
        np.array(headers),
        -(-np.cumsum([0, *codec.chain.bits]) // 8),
        np.array(curves),
        _theory(found, len(codec.chain.steps)),
        float(np.mean([path.stat().st_size for path in files])),
        float(np.mean([one.stored for one in found])),
        list(measure_others(originals)),
        [_row(one) for one in found],
        {name: value / count for name, value in seconds.items()},
    )


def _curves(codec: Codec, originals: Sequence[Pixels], opened: Sequence[OpenFile]) -> list[Floats]:
    """PSNR after 0, 1, ... steps of each image of one tile; what was stored as PNG is coded again, as a lossy file."""
    chain = codec.chain
    packets = [
        open_file(codec, encode(codec, [image], most_bytes=[MANY])[0].data).packet
        if file.packet.header.stored
        else file.packet
        for image, file in zip(originals, opened, strict=True)
    ]
    bits = np.split(np.stack([packet.bits for packet in packets]), np.cumsum(chain.bits)[:-1], axis=1)
    seeds = [(dict(packet.header.seeds).get(0, 0), 0) for packet in packets]
    labels = codec.labels([packet.header.label for packet in packets])
    seen: list[Tensor] = []
    counts = np.full(len(packets), len(chain.steps))
    x = chain.decode(bits, chain.start(seeds, codec.geometry.shape), counts, labels, on_x0=seen.append)
    seen.append(chain.clean(x.cpu(), counts, labels, batch_size=codec.at_once()))
    shown = [np.full(x.shape, GREY_LEVEL, np.uint8), *(x_to_images(x0).numpy() for x0 in seen[1:])]
    return [np.array([psnr(step[k], image) for step in shown]) for k, image in enumerate(originals)]


def _theory(found: Sequence[Encoded], steps: int) -> list[float]:
    """What an ideal code of the same chain takes for 0, 1, ... steps, in bytes: mean of the images that are not stored
    as PNG, NaN if all are."""
    bits = np.mean([one.divergence for one in found if one.divergence] or [(math.nan,) * steps], axis=0)
    return [float(value) for value in np.cumsum([0.0, *bits]) / 8]


def _row(one: Encoded) -> dict[str, Any]:
    plain = {name: getattr(one, name) for name in ("stored", "index_bits", "residual_bytes", "reseeded")}
    sums = {name: round(sum(getattr(one, name)), 2) for name in ("divergence", "delivered")}
    return {"bytes": len(one.data), **plain, **sums, "ideal_bytes": round(one.ideal_bytes, 2)}
