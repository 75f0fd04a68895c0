"""Images in, files out: the chain over all tiles of all images in batches, then each image's lossless layer."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm.base.image_io import to_pil
from ddpm.base.progress import Advance, unheard
from ddpm.base.tensors import Integers, Pixels
from ddpm.base.units import bits, images_to_x
from ddpm.codec.codec_data import Codec
from ddpm.codec.container import (
    CLASS,
    FINGERPRINT_BYTES,
    GREY,
    LOSSLESS,
    MOST_PIXELS,
    MOST_SIDE,
    SEEDS,
    STORED,
    Header,
    closed_layer,
    progressive_layer,
)
from ddpm.codec.labels import choose_label
from ddpm.codec.mixture import SIXTEENTHS
from ddpm.codec.progressive import AT_ONCE
from ddpm.codec.tiles import bits_of, cut, grid, joined, units_done
from ddpm.errors import InputError

MARGIN = 1e-6
"""Sixteenths of a grey level that a guess must keep from the middle between two. Between machines guesses differ by a
thousandth of that (results/codec-margin.json); six tiles of 32 x 32 x 3 in a thousand begin again with another seed."""
MOST_SEEDS = 100


@dataclass(frozen=True, eq=False)
class Encoded:
    """One file, and what it is made of.

    data             the bytes
    stored           whether the image lies in it by ordinary means
    index_bits       of the progressive layer
    divergence       of each step, all tiles together: the theoretical rate of this chain, its own levels and variances,
                     for this image, in bits
    delivered        of each step: the divergence that its noise delivered, in bits
    residual_bytes   of the range coder, 0 for lossy files
    ideal_bytes      the ideal code length of the same pixels by the same model
    reseeded         tiles that had to begin with another seed
    """

    data: bytes = field(repr=False)
    stored: bool = False
    index_bits: int = 0
    divergence: tuple[float, ...] = ()
    delivered: tuple[float, ...] = ()
    residual_bytes: int = 0
    ideal_bytes: float = 0.0
    reseeded: int = 0


@dataclass(frozen=True, eq=False)
class _Job:
    """An image on its way: its tiles as the model sees them, how many units it gets, and where its tiles stand."""

    image: Pixels
    tiles: Pixels
    flags: int
    units: int | None
    label: int | None = None


@dataclass(eq=False)
class _Walked:
    """What the chain gave for one tile."""

    bits: list[NDArray[np.uint8]]
    guess: Tensor
    seed: int
    nats: NDArray[np.float64]
    delivered: NDArray[np.float64]


def encode(
    codec: Codec,
    images: Sequence[Pixels],
    *,
    most_bytes: Sequence[int] | None = None,
    batch_size: int = AT_ONCE,
    advance: Advance = unheard,
) -> list[Encoded]:
    """Compress images, uint8 (C, H, W), grey or RGB, of any sizes.

    most_bytes  of each file: lossy ones that do not exceed them; None is lossless
    advance     told how many tiles went on by a step

    Errors (InputError): another mode than the model's, too many pixels, fewer bytes than a header takes.
    """
    limits = [None] * len(images) if most_bytes is None else list(most_bytes)
    jobs = [_job(codec, image, limit) for image, limit in zip(images, limits, strict=True)]
    walked = _walk_all(codec, jobs, batch_size, advance)
    found, start = [], 0
    for job in jobs:
        found.append(_finish(codec, job, walked[start : start + len(job.tiles)]))
        start += len(job.tiles)
    return found


def tiles_of(codec: Codec, image: Pixels) -> int:
    """How many tiles an image becomes."""
    return math.prod(grid((image.shape[1], image.shape[2]), codec.geometry.size))


def _job(codec: Codec, image: Pixels, limit: int | None) -> _Job:
    channels, height, width = check_image(codec, image)
    grey = channels < codec.geometry.channels
    tiles = cut(np.repeat(image, 3, axis=0) if grey else image, codec.geometry.size)
    label = choose_label(codec, tiles) if codec.classes else None
    flags = lossy_flags(codec, image)
    if limit is None:
        return _Job(image, tiles, flags | LOSSLESS, None, label)
    units = _units_within(codec, len(tiles), plain_header(codec, flags, (height, width), label), limit)
    return _Job(image, tiles, flags, units, label)


def check_image(codec: Codec, image: Pixels) -> tuple[int, ...]:
    """Refuse what the codec cannot hold; returns (C, H, W)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3):
        raise InputError(
            f"an image of {image.dtype} {'x'.join(map(str, image.shape))} came; uint8 (C, H, W), grey (1) or RGB "
            "(3), would fit."
        )
    if image.shape[0] > codec.geometry.channels:
        raise InputError(f"the image is in colour and the model of '{codec.name}' is grey; a grey image would fit.")
    height, width = image.shape[1:]
    if not 1 <= height * width <= MOST_PIXELS or max(height, width) > MOST_SIDE:
        raise InputError(f"{height} x {width} pixels do not fit; 1 to {MOST_PIXELS:,} would.")
    return image.shape


def lossy_flags(codec: Codec, image: Pixels) -> int:
    """The flags that an image's file has whatever its layers: a grey one of a colour model, a class."""
    grey = len(image) < codec.geometry.channels
    return GREY * grey | CLASS * (codec.classes > 0 and codec.no_class is None)


def check_limit(codec: Codec, image: Pixels, limit: int) -> None:
    """Refuse fewer bytes than a lossy file of an image takes at least."""
    size = image.shape[1], image.shape[2]
    flags = lossy_flags(codec, image)
    _units_within(codec, tiles_of(codec, image), plain_header(codec, flags, size, 0), limit)


def plain_header(codec: Codec, flags: int, size: tuple[int, int], label: int | None) -> Header:
    """A header without units and seeds."""
    fingerprint = bytes.fromhex(codec.fingerprint)[:FINGERPRINT_BYTES]
    return Header(flags, fingerprint, size, label=label if flags & CLASS else None)


def _units_within(codec: Codec, tiles: int, header: Header, limit: int) -> int:
    """The most units whose file, with header and checksum, has at most `limit` bytes."""

    def size(units: int) -> int:
        return len(replace(header, units=units).pack()) + -(-bits_of(codec.chain.bits, tiles, units) // 8) + 2

    units = units_done(codec.chain.bits, tiles, 8 * limit)
    while units and size(units) > limit:
        units -= 1
    if size(units) > limit:
        raise InputError(f"{limit} bytes are fewer than a header takes; {size(0)} would fit.")
    return units


def _walk_all(codec: Codec, jobs: Sequence[_Job], batch_size: int, advance: Advance) -> list[_Walked]:
    every = [(job, number) for job in jobs for number in range(len(job.tiles))]
    found: list[_Walked] = []
    for start in range(0, len(every), batch_size):
        part = every[start : start + batch_size]
        walked = _walk(codec, part, [0] * len(part), advance)
        for seed in range(1, MOST_SEEDS):
            again = [k for k, ((job, _), one) in enumerate(zip(part, walked, strict=True)) if _unsure(job, one)]
            if not again:
                break
            fresh = _walk(codec, [part[k] for k in again], [seed] * len(again), unheard)
            for k, one in zip(again, fresh, strict=True):
                walked[k] = one
        found += walked
    return found


def _walk(codec: Codec, part: Sequence[tuple[_Job, int]], seeds: Sequence[int], advance: Advance) -> list[_Walked]:
    """Take some tiles down the chain as far as any of them has to go."""
    chain = codec.chain
    images = images_to_x(torch.from_numpy(np.stack([job.tiles[number] for job, number in part])), torch.float64)
    start = chain.start([(seed, number) for (_, number), seed in zip(part, seeds, strict=True)], codec.geometry.shape)
    labels = None
    if codec.classes:
        labels = torch.tensor([job.label for job, _ in part], device=chain.device)
    deepest = max(len(chain.steps) if job.units is None else -(-job.units // len(job.tiles)) for job, _ in part)
    walk = chain.encode(images, start, labels, steps=deepest, advance=advance)
    lossless = any(job.units is None for job, _ in part)
    guess = chain.x0(walk.x, deepest, labels) if lossless else images
    return [
        _Walked(
            [rows[k] for rows in walk.bits],
            (guess[k] + 1) * (127.5 * SIXTEENTHS),
            seed,
            walk.nats[:, k],
            walk.delivered[:, k],
        )
        for k, seed in enumerate(seeds)
    ]


def _unsure(job: _Job, walked: _Walked) -> bool:
    """Whether a guess lies so near the middle between two integers that another machine might round it otherwise."""
    if job.units is not None:
        return False
    apart = walked.guess - walked.guess.floor() - 0.5
    return not bool((apart.abs() >= MARGIN).all())  # nor is what is no number sure


def _finish(codec: Codec, job: _Job, walked: Sequence[_Walked]) -> Encoded:
    """Put one image's file together."""
    tiles, size = len(walked), (job.image.shape[1], job.image.shape[2])
    seeds = tuple((k, one.seed) for k, one in enumerate(walked) if one.seed)
    header = replace(plain_header(codec, job.flags, size, job.label), units=job.units, seeds=seeds)
    header = replace(header, flags=header.flags | (SEEDS if seeds else 0))
    steps = len(walked[0].bits)
    units = tiles * len(codec.chain.steps) if job.units is None else job.units
    ordered = [walked[tile].bits[step] for step in range(steps) for tile in range(tiles)][:units]
    index = np.concatenate([np.empty(0, np.uint8), *ordered])
    data = header.pack() + progressive_layer(index)
    layer = Encoded(
        b"",
        index_bits=len(index),
        divergence=tuple(float(bits(value)) for value in np.sum([one.nats for one in walked], axis=0)),
        delivered=tuple(float(bits(value)) for value in np.sum([one.delivered for one in walked], axis=0)),
    )
    if job.units is not None:
        return replace(layer, data=data)
    if any(_unsure(job, one) for one in walked):
        return stored(codec, job.image)
    residual, ideal = codec.causal.encode(
        whole_guess(torch.stack([one.guess for one in walked]), size), job.image[None]
    )
    found = replace(
        layer,
        data=data + closed_layer(job.image, residual[0]),
        residual_bytes=len(residual[0]),
        ideal_bytes=float(ideal[0]) / 8,
        reseeded=len(seeds),
    )
    plain = stored(codec, job.image)
    return found if len(found.data) <= len(plain.data) else plain


def whole_guess(tiles: Tensor, size: tuple[int, int]) -> Integers:
    """Guesses of tiles, in sixteenths of a grey level, rounded and joined: (1, C, H, W)."""
    return np.asarray(joined(tiles.round().to(torch.int64), size).numpy()[None])


def stored(codec: Codec, image: Pixels) -> Encoded:
    """A file that holds the image as a PNG."""
    png = io.BytesIO()
    to_pil(image).save(png, format="PNG", optimize=True)
    flags = STORED | GREY * (len(image) < codec.geometry.channels)
    header = plain_header(codec, flags, (image.shape[1], image.shape[2]), None)
    return Encoded(header.pack() + closed_layer(image, png.getvalue()), stored=True)
