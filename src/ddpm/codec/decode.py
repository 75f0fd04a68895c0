"""Files in, images out: as far as the bytes reach, and never called exact without proof."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddpm.base.progress import Advance, unheard
from ddpm.base.tensors import Pixels
from ddpm.base.units import x_to_images
from ddpm.codec.codec_data import Codec
from ddpm.codec.container import (
    FINGERPRINT_BYTES,
    MOST_PIXELS,
    Cursor,
    Header,
    Packet,
    checksum,
    read_header,
    read_packet,
)
from ddpm.codec.encode import whole_guess
from ddpm.codec.mixture import SIXTEENTHS
from ddpm.codec.progressive import AT_ONCE
from ddpm.codec.tiles import bits_of, grid, joined, steps_each, units_done
from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.samplers.ddim import ddim

RECONSTRUCTIONS = ("mean", "flow")
GREY_LEVEL = 128
"""Of tiles that no step has reached."""
LOSSLESS, LOSSY, PARTIAL, DAMAGED = "lossless", "lossy", "partial", "damaged"


@dataclass(frozen=True, eq=False)
class Decoded:
    """One image, and how far it may be trusted.

    image  uint8 (C, H, W), None where a damaged file has none to show
    status   "lossless": exact, its checksum says so; "lossy": all that a lossy file holds; "partial": all that is left
             of a file that is cut; "damaged"
    steps    steps of the chain that every tile has had, of how many
    stored   whether it lay there as PNG
    problem  what is wrong with a cut or damaged file, a sentence; "" if it was only to be read so far
    """

    image: Pixels | None = field(repr=False)
    status: str
    steps: tuple[int, int]
    stored: bool = False
    problem: str = ""


@dataclass(frozen=True, eq=False)
class OpenFile:
    """A file taken apart for its model.

    tiles  how many it has, 0 for an image that is stored as PNG
    done   (M,) how many steps of the chain its bytes hold for each
    asked  whether only some of its bytes were asked for
    """

    packet: Packet
    tiles: int
    done: NDArray[np.int64]
    asked: bool

    @property
    def steps(self) -> int:
        """Steps of tiles that decoding takes."""
        return int(self.done.sum())


def open_file(codec: Codec, data: bytes, most_bytes: int | None = None) -> OpenFile:
    """Read a file's header and layers, or no more than some bytes of them, for the model it wants; see open_packet."""
    packet = open_packet(codec, data, most_bytes)
    tiles = 0 if packet.header.stored else math.prod(grid(packet.header.size, codec.geometry.size))
    units = units_done(codec.chain.bits, tiles, len(packet.bits)) if tiles else 0
    asked = most_bytes is not None and most_bytes < len(data)
    return OpenFile(packet, tiles, steps_each(tiles, units) if tiles else np.zeros(0, np.int64), asked)


def open_packet(codec: Codec, data: bytes, most_bytes: int | None = None) -> Packet:
    """Read a file's header and layers, or no more than some bytes of them, for the model it wants.

    Errors: not a file of ours or damaged (DamagedFile), of another model (WrongModel), fewer bytes than the header has
    (InputError).
    """
    cursor = Cursor(data)
    header = read_header(cursor)
    if most_bytes is not None:
        if most_bytes < cursor.place:
            raise InputError(f"{most_bytes} bytes do not reach the end of its header; {cursor.place} would fit.")
        if header.stored and most_bytes < len(data):
            raise InputError("it is stored as PNG and has no coarser image; all of its bytes would fit.")
        cursor.data = data[:most_bytes]
    own = bytes.fromhex(codec.fingerprint)[:FINGERPRINT_BYTES]
    if header.fingerprint != own:
        raise WrongModel(
            f"it wants the model with fingerprint {header.fingerprint.hex()}, and that of '{codec.name}' is "
            f"{own.hex()} ({codec.fingerprint})."
        )
    tiles = math.prod(grid(header.size, codec.geometry.size))
    if header.grey and codec.geometry.channels == 1:
        raise DamagedFile("it calls itself a grey image of a colour model, and this model is grey.")
    if (header.label is None) != (codec.classes == 0 or codec.no_class is not None or header.stored):
        raise DamagedFile("it names a class where its model has none, or none where it has.")
    if header.label is not None and header.label >= codec.classes:
        raise DamagedFile(f"it claims class number {header.label} of {codec.classes}.")
    if any(tile >= tiles for tile, _ in header.seeds):
        raise DamagedFile(f"it has a seed for a tile beyond its {tiles}.")
    whole = tiles * len(codec.chain.steps)
    units = 0 if header.stored else whole if header.units is None else header.units
    if units > whole:
        raise DamagedFile(f"it claims {units:,} steps of tiles, of {whole:,} that there are.")
    return read_packet(cursor, header, bits_of(codec.chain.bits, tiles, units))


def check_reconstruct(way: str) -> None:
    """Refuse an unknown way to reconstruct."""
    if way not in RECONSTRUCTIONS:
        raise InputError(f"there is no way '{way}' to reconstruct; there are {', '.join(RECONSTRUCTIONS)}.")


def decode(
    codec: Codec,
    files: Sequence[OpenFile],
    *,
    reconstruct: str = "mean",
    batch_size: int = AT_ONCE,
    advance: Advance = unheard,
) -> list[Decoded]:
    """Decompress files.

    reconstruct  lossy images as the "mean" of what they may be (best in squared error), or along the "flow" of the
                 probability ODE from the last state (sharper, as samples are)
    advance      told how many tiles went on by a step

    Errors: InputError for an unknown way to reconstruct; a file that is cut or damaged behind its header is no error,
    see Decoded.
    """
    check_reconstruct(reconstruct)
    states = _walk_all(codec, files, batch_size, advance)
    return [_finish(codec, file, rows, reconstruct, batch_size) for file, rows in zip(files, states, strict=True)]


def _walk_all(codec: Codec, files: Sequence[OpenFile], batch_size: int, advance: Advance) -> list[list[Tensor]]:
    """The last states of the tiles of each file, as many as have had a step; these stand in front."""
    seeds = [dict(file.packet.header.seeds) for file in files]
    every = [(k, tile) for k, file in enumerate(files) for tile in np.flatnonzero(file.done).tolist()]
    found: list[list[Tensor]] = [[] for _ in files]
    for begin in range(0, len(every), batch_size):
        part = every[begin : begin + batch_size]
        counts = np.array([files[k].done[tile] for k, tile in part])
        bits = [
            np.stack([_unit(codec, files[k], step, tile) for k, tile in part if files[k].done[tile] > step])
            for step in range(int(counts.max()))
        ]
        start = codec.chain.start([(seeds[k].get(tile, 0), tile) for k, tile in part], codec.geometry.shape)
        labels = labels_of(codec, [files[k].packet.header for k, _ in part])
        for (k, _), state in zip(part, codec.chain.decode(bits, start, counts, labels, advance=advance), strict=True):
            found[k].append(state)
    return found


def _unit(codec: Codec, file: OpenFile, step: int, tile: int) -> NDArray[np.uint8]:
    begin = bits_of(codec.chain.bits, file.tiles, step * file.tiles) + tile * codec.chain.bits[step]
    return file.packet.bits[begin : begin + codec.chain.bits[step]]


def labels_of(codec: Codec, headers: Sequence[Header]) -> Tensor | None:
    """The classes of some tiles as the network counts them, None for a model without classes."""
    if not codec.classes:
        return None
    wanted = [codec.no_class if header.label is None else header.label for header in headers]
    return torch.tensor(wanted, device=codec.chain.device)


def _finish(codec: Codec, file: OpenFile, states: Sequence[Tensor], reconstruct: str, batch_size: int) -> Decoded:
    packet, header = file.packet, file.packet.header
    if header.stored:
        return _open_stored(codec, packet)
    steps = int(file.done.min()), len(codec.chain.steps)
    if header.lossless and packet.data is not None and not packet.damaged:
        labels = labels_of(codec, [header] * file.tiles)
        guess = codec.chain.last_x0(torch.stack(list(states)), file.done, labels, batch_size=batch_size)
        whole = whole_guess((guess + 1) * (127.5 * SIXTEENTHS), header.size)
        pixels = codec.causal.decode(whole, [packet.data], 1 if header.grey else codec.geometry.channels)[0]
        if checksum(pixels) == packet.crc:
            return Decoded(pixels, LOSSLESS, steps)
    image = _image(codec, file, states, reconstruct, batch_size)
    if packet.damaged or packet.data is not None:
        what = "its progressive layer" if packet.damaged else "its lossless layer"
        return Decoded(image, DAMAGED, steps, problem=f"{what} is damaged, and the image is not exact.")
    if packet.cut:
        problem = f"it is cut short: this is the image after {steps[0]} of {steps[1]} steps."
        return Decoded(image, PARTIAL, steps, problem="" if file.asked else problem)
    return Decoded(image, LOSSY, steps)


def _image(codec: Codec, file: OpenFile, states: Sequence[Tensor], reconstruct: str, batch_size: int) -> Pixels:
    """The lossy image; tiles without a single step are mid-grey, and cost nothing."""
    header, channels = file.packet.header, 1 if file.packet.header.grey else codec.geometry.channels
    tiles = torch.full((file.tiles, channels, *codec.geometry.size), GREY_LEVEL, dtype=torch.uint8)
    for count in np.unique(file.done[: len(states)]):
        rows = np.flatnonzero(file.done == count)
        for part in np.array_split(rows, -(-len(rows) // batch_size)):
            x, labels = torch.stack([states[k] for k in part]), labels_of(codec, [header] * len(part))
            flow = reconstruct == "flow"
            clean = _flow(codec, x, int(count), labels) if flow else codec.chain.x0(x, int(count), labels)
            tiles[torch.from_numpy(part)] = x_to_images(clean.mean(1, keepdim=True) if header.grey else clean)
    return np.ascontiguousarray(joined(tiles, header.size).numpy())


def _flow(codec: Codec, x: Tensor, count: int, labels: Tensor | None) -> Tensor:
    """Along the probability-flow ODE from a state to a clean image: DDIM on the codec's levels, then on halves."""
    levels = list(codec.chain.levels[count:])
    while levels[-1] > 1:
        levels.append(levels[-1] // 2)
    denoiser = codec.chain.denoiser
    chain = denoiser.process.schedule.subset(levels)
    *_, last = ddim(denoiser, x.to(codec.chain.device), chain=chain, noise=_no_noise, labels=labels)
    return last.x.cpu()


def _no_noise(level: float) -> Tensor:
    raise AssertionError("the flow draws no noise")


def _open_stored(codec: Codec, packet: Packet) -> Decoded:
    """An image that lies there as a PNG; its own header must agree before its pixels are unpacked."""
    header, steps = packet.header, (0, 0)
    if packet.data is None:
        sentence = "it is cut short, and an image that is stored as PNG has none before its end."
        return Decoded(None, DAMAGED, steps, True, sentence)
    channels = 1 if header.grey else codec.geometry.channels
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(packet.data), formats=("PNG",)) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if image.size != (header.size[1], header.size[0]) or image.width * image.height > MOST_PIXELS:
                raise ValueError
            pixels = np.array(np.atleast_3d(np.asarray(image)).transpose(2, 0, 1), order="C")
        if pixels.dtype != np.uint8 or pixels.shape[0] != channels or checksum(pixels) != packet.crc:
            raise ValueError
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return Decoded(None, DAMAGED, steps, True, "the image stored in it is damaged.")
    return Decoded(pixels, LOSSLESS, steps, True)
