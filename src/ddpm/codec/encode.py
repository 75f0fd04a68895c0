"""Images in, files out: the chain over all tiles of all images in batches, then each image's lossless layer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ddpm.base.device_memory import within_memory
from ddpm.base.image_io import to_pil
from ddpm.base.progress import Advance, unheard
from ddpm.base.tensors import Floats, Integers, Pixels, to_device
from ddpm.base.units import bits, images_to_x
from ddpm.codec.codec_data import Codec
from ddpm.codec.container import (
    CLASS,
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
from ddpm.codec.mixture import SIXTEENTHS
from ddpm.codec.randomness import CHOICE, UNIT, normals
from ddpm.codec.tiles import bits_of, cut, joined, tiles_in, units_done
from ddpm.codec.trellis import Bits
from ddpm.errors import InputError
from ddpm.model.sidecar import FINGERPRINT_BYTES

MARGIN = 1e-6
"""Sixteenths of a grey level that a guess must keep from the middle between two. Between machines guesses differ by a
thousandth of that (results/codec-margin.json); six tiles of 32 x 32 x 3 in a thousand begin again with another seed."""
MOST_SEEDS = 100
LABEL_TILES = 4
"""Tiles looked at to choose the class of an image."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """One file, and what it is made of.

    data             the bytes
    stored           whether it holds the image as PNG
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
    """An image to encode: its tiles as the model sees them, its header without seeds, and its class for the network."""

    image: Pixels
    tiles: Pixels
    header: Header
    label: int | None

    def units(self, codec: Codec) -> int:
        """Of the progressive layer."""
        return self.header.units_of(len(self.tiles) * len(codec.chain.steps))


@dataclass(eq=False)
class _Walked:
    """What the chain gave for one tile."""

    bits: list[Bits]
    guess: Tensor
    seed: int
    nats: Floats
    delivered: Floats


def encode(
    codec: Codec,
    images: Sequence[Pixels],
    *,
    most_bytes: Sequence[int | None] | None = None,
    batch_size: int | None = None,
    advance: Advance = unheard,
) -> list[Encoded]:
    """Compress images, uint8 (C, H, W), grey or RGB, of any sizes.

    most_bytes  of each file: a lossy one that does not exceed them; None is lossless
    batch_size  tiles in a network call, None: codec.at_once
    advance     told how many tiles went on by a step; steps that lossy files do without count as done

    Errors (InputError): see check_image.
    """
    limits = [None] * len(images) if most_bytes is None else list(most_bytes)
    batch_size = codec.at_once(batch_size)
    with within_memory(batch_size, codec.chain.device):
        jobs = [_job(codec, image, limit, batch_size) for image, limit in zip(images, limits, strict=True)]
        walked = _walk_all(codec, jobs, batch_size, advance)
    found, start = [], 0
    for job in jobs:
        found.append(_finish(codec, job, walked[start : start + len(job.tiles)]))
        start += len(job.tiles)
    return found


def check_image(codec: Codec, image: Pixels, limit: int | None = None) -> None:
    """Raise InputError for what no file can hold: another mode than the model's, an empty or a too large image, fewer
    bytes than a header takes (limit, of a lossy file)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3):
        shape = " x ".join(map(str, image.shape))
        raise InputError(f"an image of {image.dtype} {shape} was given: give uint8 (C, H, W), grey (1) or RGB (3).")
    if image.shape[0] > codec.geometry.channels:
        raise InputError(f"the image has 3 channels and the model of '{codec.name}' is grey: give a grey image.")
    height, width = image.shape[1:]
    if not 1 <= height * width <= MOST_PIXELS:
        raise InputError(f"the image has {height} x {width} pixels; a file holds 1 to {MOST_PIXELS:,}.")
    if max(height, width) > MOST_SIDE:
        raise InputError(f"the image has {height} x {width} pixels; a side has at most {MOST_SIDE:,}.")
    if limit is not None:
        _lossy_header(codec, image, limit, 0)


def _job(codec: Codec, image: Pixels, limit: int | None, batch_size: int) -> _Job:
    check_image(codec, image)
    grey = len(image) < codec.geometry.channels
    tiles = cut(np.repeat(image, 3, axis=0) if grey else image, codec.geometry.size)
    label = choose_label(codec, tiles, batch_size) if codec.classes else None
    if limit is None:
        return _Job(image, tiles, _header(codec, image, LOSSLESS, label), label)
    return _Job(image, tiles, _lossy_header(codec, image, limit, label), label)


def _header(codec: Codec, image: Pixels, flags: int, label: int | None) -> Header:
    """A header without units and seeds; flags LOSSLESS, STORED or 0."""
    flags |= GREY * (len(image) < codec.geometry.channels)
    if codec.classes and codec.no_class is None and not flags & STORED:
        flags |= CLASS
    fingerprint = bytes.fromhex(codec.fingerprint)[:FINGERPRINT_BYTES]
    return Header(flags, fingerprint, (image.shape[1], image.shape[2]), label=label if flags & CLASS else None)


def _lossy_header(codec: Codec, image: Pixels, limit: int, label: int | None) -> Header:
    """With the most units whose file, header and checksum included, has at most `limit` bytes."""
    header, costs = _header(codec, image, 0, label), codec.chain.bits
    tiles = tiles_in(header.size, codec.geometry.size)

    def size(units: int) -> int:
        return len(replace(header, units=units).pack()) + -(-bits_of(costs, tiles, units) // 8) + 2

    units = units_done(costs, tiles, 8 * limit)
    while units and size(units) > limit:
        units -= 1
    if size(units) > limit:
        raise InputError(f"{limit} bytes are fewer than its header takes: allow at least {size(0)}.")
    return replace(header, units=units)


def choose_label(codec: Codec, tiles: Pixels, batch_size: int) -> int:
    """The class whose network sees an image best half way down the chain; "no class" where the model learned that.

    tiles       (M, C, h, w); the first few are looked at
    batch_size  tiles in a network call
    """
    if codec.no_class is not None:
        return codec.no_class
    chain, number = codec.chain, len(codec.chain.steps) // 2
    some = images_to_x(to_device(torch.from_numpy(tiles[:LABEL_TILES]), chain.device), torch.float64)
    index = len(chain.levels) - number
    noise = torch.from_numpy(normals(CHOICE, count=some.numel()).astype(np.float64) * UNIT).reshape(some.shape)
    x = float(chain.schedule.signal[index]) * some + float(chain.schedule.sigma[index]) * to_device(noise, some.device)
    labels = codec.labels([label for label in range(codec.classes) for _ in x])
    assert labels is not None
    errors = []
    for rows in torch.split(torch.arange(len(labels), device=x.device), batch_size):
        tile = rows % len(x)
        errors.append(((chain.x0(x[tile], number, labels[rows]) - some[tile]) ** 2).flatten(1).sum(1))
    return int(torch.cat(errors).reshape(codec.classes, -1).sum(1).argmin())


def _walk_all(codec: Codec, jobs: Sequence[_Job], batch_size: int, advance: Advance) -> list[_Walked]:
    every = [(job, number) for job in jobs for number in range(len(job.tiles))]
    found: list[_Walked] = []
    for start in range(0, len(every), batch_size):
        part = every[start : start + batch_size]
        walked = _walk(codec, part, 0, advance)
        for seed in range(1, MOST_SEEDS):
            again = [k for k, ((job, _), one) in enumerate(zip(part, walked, strict=True)) if _unsure(job, one)]
            if not again:
                break
            for k, one in zip(again, _walk(codec, [part[k] for k in again], seed, unheard), strict=True):
                walked[k] = one
        found += walked
    return found


def _walk(codec: Codec, part: Sequence[tuple[_Job, int]], seed: int, advance: Advance) -> list[_Walked]:
    """Take some tiles down the chain as far as any of them has to go."""
    chain = codec.chain
    tiles = to_device(torch.from_numpy(np.stack([job.tiles[number] for job, number in part])), chain.device)
    images = images_to_x(tiles, torch.float64)
    start = chain.start([(seed, number) for _, number in part], codec.geometry.shape)
    labels = codec.labels([job.label for job, _ in part])
    deepest = max(-(-job.units(codec) // len(job.tiles)) for job, _ in part)
    walk = chain.encode(images, start, labels, steps=deepest, advance=advance)
    advance(len(part) * (len(chain.steps) - deepest))
    lossless = any(job.header.lossless for job, _ in part)
    guess = ((chain.x0(walk.x, deepest, labels) if lossless else images).cpu() + 1) * (127.5 * SIXTEENTHS)
    return [
        _Walked([rows[k] for rows in walk.bits], guess[k], seed, walk.nats[:, k], walk.delivered[:, k])
        for k in range(len(part))
    ]


def _unsure(job: _Job, walked: _Walked) -> bool:
    """Whether a guess lies so near the middle between two integers that another machine might round it otherwise."""
    apart = walked.guess - walked.guess.floor() - 0.5
    return job.header.lossless and not bool((apart.abs() >= MARGIN).all())  # NaN is unsure, too


def _finish(codec: Codec, job: _Job, walked: Sequence[_Walked]) -> Encoded:
    """Put one image's file together."""
    seeds = tuple((k, one.seed) for k, one in enumerate(walked) if one.seed)
    header = replace(job.header, flags=job.header.flags | (SEEDS if seeds else 0), seeds=seeds)
    ordered = [one.bits[step] for step in range(len(walked[0].bits)) for one in walked][: job.units(codec)]
    index = np.concatenate([np.empty(0, np.uint8), *ordered])
    data, residual, ideal = header.pack() + progressive_layer(index), b"", 0.0
    if header.lossless:
        plain = stored(codec, job.image)
        if any(_unsure(job, one) for one in walked):
            return plain
        guess = whole_guess(torch.stack([one.guess for one in walked]), header.size)
        (residual,), (ideal,) = codec.causal.encode(guess, job.image[None])
        data += closed_layer(job.image, residual)
        if len(data) > len(plain.data):
            return plain
    divergence = tuple(float(bits(value)) for value in np.sum([one.nats for one in walked], axis=0))
    delivered = tuple(float(bits(value)) for value in np.sum([one.delivered for one in walked], axis=0))
    return Encoded(data, False, len(index), divergence, delivered, len(residual), float(ideal) / 8, len(seeds))


def whole_guess(tiles: Tensor, size: tuple[int, int]) -> Integers:
    """Guesses of tiles, in sixteenths of a grey level, rounded and joined: (1, C, H, W)."""
    return np.asarray(joined(tiles.round().to(torch.int64), size).numpy()[None])


def stored(codec: Codec, image: Pixels) -> Encoded:
    """A file that holds the image as a PNG."""
    png = io.BytesIO()
    to_pil(image).save(png, format="PNG", optimize=True)
    return Encoded(_header(codec, image, STORED, None).pack() + closed_layer(image, png.getvalue()), stored=True)
