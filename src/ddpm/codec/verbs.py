"""What users ask of the codec: pictures to bytes and back, and what a file says of itself."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddpm.codec.calibrate import FIT_STEPS, Progress, tune_codec
from ddpm.codec.chain import AT_ONCE
from ddpm.codec.container import Cursor, read_header, read_packet
from ddpm.codec.decode import DAMAGED, LOSSLESS, LOSSY, PARTIAL, decode
from ddpm.codec.encode import Encoded, check_picture, encode
from ddpm.codec.tables import Codec, CodecData, codec_data_of, codec_file, make_codec
from ddpm.codec.tiles import bits_of, grid
from ddpm.data import ImageSet
from ddpm.errors import DamagedFile, InputError, NotVerified, PartialImageWarning, WrongModel
from ddpm.model import Model
from ddpm.opened import training_images

Pixels = NDArray[np.uint8]


def prepare_codec(
    model: Model,
    images: ImageSet | None = None,
    *,
    seed: int = 0,
    fit_steps: int = FIT_STEPS,
    batch_size: int = 128,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Make a model's codec data on images and store them beside its checkpoint; returns the file.

    images     None: the model's own training images; never those that a comparison compresses
    fit_steps  of the pixel model's optimiser
    batch_size  images in a network call
    force      replace data that are there: what was compressed with them can then no longer be read

    Errors: InputError, see calibrate.tune_codec.
    """
    found = training_images(model, option="images") if images is None else images
    return tune_codec(
        model, found, seed=seed, fit_steps=fit_steps, batch_size=batch_size, force=force, progress=progress
    )


def codec_of(model: Model, *, make: Callable[[], Path] | None = None) -> Codec:
    """A model's codec; `make` is called if its data were never made, without it that is a WrongModel.

    Errors: data of other weights (WrongModel) or damaged (DamagedFile), channels the codec cannot hold (InputError).
    """
    data = codec_data_of(model)
    if data is None and make is not None:
        try:
            make()
            data = codec_data_of(model)
        except InputError:
            data = codec_data_of(model)  # somebody else made them meanwhile
            if data is None:
                raise
    if data is None:
        path = codec_file(Path(model.source), model.weights)
        raise WrongModel(f"'{path}' is missing, so the codec of '{model.source}' has no fingerprint.")
    return make_codec(model, data)


def compress(
    model: Model, picture: ArrayLike, *, rate: float | None = None, most_bytes: int | None = None, verify: bool = True
) -> bytes:
    """Compress one picture to the bytes of a .dpc file; lossless unless a rate or a size is given.

    picture     uint8 (C, H, W), grey or RGB, of any size
    rate        bits per dimension that the file may have
    most_bytes  or how many bytes
    verify      decompress the bytes and compare before they are handed out

    The first call of a model without codec data makes them, on its training images, which takes minutes; see
    prepare_codec.
    Errors: InputError for what no file can hold, NotVerified.
    """
    codec = codec_of(model, make=lambda: prepare_codec(model))
    array = np.array(np.asarray(picture))
    check_picture(codec, array)
    limits = _limits(array, rate, most_bytes)
    return compress_all(codec, [array], limits=limits, verify=verify)[0].data


def compress_all(
    codec: Codec,
    pictures: Sequence[Pixels],
    *,
    limits: Sequence[int] | None = None,
    verify: bool = True,
    batch_size: int = AT_ONCE,
    on_step: Callable[[int], None] = lambda tiles: None,
) -> list[Encoded]:
    """Compress pictures together, so that they share network calls.

    limits   bytes that each file may have, None is lossless
    verify   decompress the files: lossless ones must be their pictures, lossy ones whole
    on_step  called with the number of tiles that were advanced by a step, once more for each when verifying
    """
    found = encode(codec, pictures, most_bytes=limits, batch_size=batch_size, on_step=on_step)
    if verify:
        back = decode(codec, [one.data for one in found], batch_size=batch_size, on_step=on_step)
        for picture, one in zip(pictures, back, strict=True):
            assert one.picture is not None
            exact = one.status == LOSSLESS and np.array_equal(one.picture, picture)
            if not (exact if limits is None else one.status == LOSSY):
                raise NotVerified("what was compressed did not decompress to its picture; please report this.")
    return found


def _limits(picture: Pixels, rate: float | None, most_bytes: int | None) -> list[int] | None:
    if rate is not None and most_bytes is not None:
        raise InputError("a rate and a number of bytes were given; leave one of them out.")
    if rate is not None and not 0 < rate < math.inf:
        raise InputError(f"a rate of {rate} bits per dimension is none; 0.5 would fit.")
    if most_bytes is not None and (most_bytes != int(most_bytes) or most_bytes < 1):
        raise InputError(f"{most_bytes} bytes are no size; 100 would fit.")
    if rate is not None:
        return [int(rate * picture.size / 8)]
    return None if most_bytes is None else [int(most_bytes)]


def decompress(model: Model, data: bytes, *, most_bytes: int | None = None, reconstruct: str = "mean") -> Pixels:
    """Decompress the bytes of a .dpc file, or of any prefix of one that holds its header: uint8 (C, H, W).

    most_bytes   read no more than this
    reconstruct  coarse pictures as "mean" or along the "flow", see decode.decode

    A file that is cut gives the picture so far and a PartialImageWarning. Errors: DamagedFile, whose `picture` is what
    could still be read of it, never the exact one; WrongModel, which names both fingerprints.
    """
    data = bytes(data)
    codec = codec_for(model, data)
    found = decode(codec, [data], most_bytes=most_bytes, reconstruct=reconstruct)[0]
    if found.status == DAMAGED:
        error = DamagedFile(found.problem)
        error.picture = found.picture
        raise error
    if found.status == PARTIAL and found.problem:
        warnings.warn(found.problem, PartialImageWarning, stacklevel=2)
    assert found.picture is not None
    return found.picture


def codec_for(model: Model, data: bytes) -> Codec:
    """The codec of a model that is to read a file: never made; if it is missing, the error says what the file wants."""
    header = read_header(Cursor(data))
    try:
        return codec_of(model)
    except WrongModel as error:
        raise WrongModel(
            f"it wants the model with fingerprint {header.fingerprint.hex()}; {error} Its weights have the SHA-256 "
            f"{model.weights_sha256}."
        ) from None


def describe_file(data: bytes) -> dict[str, Any]:
    """What the header of a .dpc file says, as plain values; no model is needed."""
    header = read_header(Cursor(data))
    return {
        "bytes": len(data),
        "height": header.size[0],
        "width": header.size[1],
        "kind": "stored" if header.stored else "lossless" if header.lossless else "lossy",
        "grey_on_colour": header.grey,
        "fingerprint": header.fingerprint.hex(),
        "class": header.label,
        "reseeded_tiles": len(header.seeds),
    }


def describe_steps(data: bytes, made: CodecData, tile: tuple[int, int, int]) -> dict[str, Any]:
    """Where the steps of a file lie, as plain values: state ("whole", "cut", or "damaged" by the progressive layer's
    checksum), tiles, header_bytes, progressive_end, and of each step where it arrives: level, bytes of the file up to
    there, the PSNR expected of such a prefix in dB, and whether it is there.

    made  codec data of the model that the file wants
    tile  (C, h, w) of that model
    """
    cursor = Cursor(data)
    header = read_header(cursor)
    if header.stored:
        packet = read_packet(cursor, header, 0)
        return {"state": "cut" if packet.cut else "whole"}
    tiles = math.prod(grid(header.size, tile[1:]))
    count = len(made.bits)
    units = tiles * count if header.units is None else header.units
    if units > tiles * count:
        raise DamagedFile(f"it claims {units:,} steps of tiles, of {tiles * count:,} that there are.")
    rows, start = [], cursor.place
    for step in range(count + 1):
        end = start + -(-bits_of(made.bits, tiles, step * tiles) // 8)
        there = step * tiles <= units and end <= len(data)
        psnr = 10 * math.log10(4 / made.errors[step]) if step else None  # without a step it is mid-grey
        rows.append({"step": step, "level": made.levels[step], "bytes": end, "psnr": psnr, "there": there})
    end = start + -(-bits_of(made.bits, tiles, units) // 8) + 2
    packet = read_packet(cursor, header, bits_of(made.bits, tiles, units))
    state = "damaged" if packet.damaged else "cut" if packet.cut else "whole"
    return {"state": state, "tiles": tiles, "header_bytes": start, "progressive_end": end, "steps": rows}
