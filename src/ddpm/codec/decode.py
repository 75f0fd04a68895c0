"""Files in, images out: as far as the bytes reach, and never called exact without proof."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddpm.base.device_memory import within_memory
from ddpm.base.progress import Advance, unheard
from ddpm.base.tensors import Integers, Pixels
from ddpm.base.units import x_to_images
from ddpm.codec.codec_data import Codec
from ddpm.codec.container import MOST_PIXELS, Cursor, Packet, checksum, read_header, read_packet
from ddpm.codec.encode import whole_guess
from ddpm.codec.mixture import SIXTEENTHS
from ddpm.codec.progressive import View
from ddpm.codec.tiles import bits_of, joined, steps_each, tiles_in, units_done
from ddpm.codec.trellis import Bits
from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.model.sidecar import FINGERPRINT_BYTES
from ddpm.samplers.ddim import ddim

RECONSTRUCTIONS = ("mean", "flow")
GREY_LEVEL = 128
"""Of tiles that no step has reached."""
MOST_TOGETHER = 2**15
"""Pixels of images whose lossless layers are decoded together."""
LOSSLESS, LOSSY, PARTIAL, DAMAGED = "lossless", "lossy", "partial", "damaged"


@dataclass(frozen=True, eq=False)
class Decoded:
    """One image, and how far it may be trusted.

    image    uint8 (C, H, W), None where nothing of a damaged file can be shown
    status   "lossless": exact, its checksum says so; "lossy": all that a lossy file holds; "partial": all that is left
             of a file that is cut; "damaged"
    steps    steps of the chain that every tile has had, of how many
    stored   whether the file holds it as PNG
    problem  what is wrong with a cut or damaged file, a sentence; "" if no more of it was asked for
    """

    image: Pixels | None = field(repr=False)
    status: str
    steps: tuple[int, int]
    stored: bool = False
    problem: str = ""


@dataclass(frozen=True, eq=False)
class OpenFile:
    """A file taken apart for its model.

    done   (M,) how many steps of the chain its bytes hold for each tile; no tiles for an image that is stored as PNG
    asked  whether only some of its bytes were asked for
    """

    packet: Packet
    done: Integers
    asked: bool

    @property
    def steps(self) -> int:
        """Steps of tiles that decoding takes."""
        return int(self.done.sum())

    @property
    def whole(self) -> bool:
        """Whether all of a lossless file is there, as far as its bytes tell."""
        return self.packet.header.lossless and self.packet.data is not None and not self.packet.damaged


def open_file(codec: Codec, data: bytes, most_bytes: int | None = None) -> OpenFile:
    """Read a file's header and layers, or no more than some bytes of them, for the model it wants.

    Errors: not a .dpc file or damaged (DamagedFile), of another model (WrongModel), fewer bytes than the header has
    (InputError).
    """
    cursor = Cursor(data)
    header = read_header(cursor)
    if most_bytes is not None:
        if most_bytes < cursor.place:
            raise InputError(f"{most_bytes} bytes do not reach the end of its header: read at least {cursor.place}.")
        if header.stored and most_bytes < len(data):
            raise InputError("it is stored as PNG and has no coarser image: read all of its bytes.")
        cursor.data = data[:most_bytes]
    own = bytes.fromhex(codec.fingerprint)[:FINGERPRINT_BYTES]
    if header.fingerprint != own:
        raise WrongModel(
            f"it wants the model with fingerprint {header.fingerprint.hex()}, and that of '{codec.name}' is "
            f"{own.hex()} ({codec.fingerprint})."
        )
    tiles = tiles_in(header.size, codec.geometry.size)
    if header.grey and codec.geometry.channels == 1:
        raise DamagedFile("it is marked as a grey image of a colour model, and the model is grey.")
    if (header.label is None) != (codec.classes == 0 or codec.no_class is not None or header.stored):
        raise DamagedFile("it names a class and its model has none, or it names none and its model has classes.")
    if header.label is not None and header.label >= codec.classes:
        raise DamagedFile(f"it claims class number {header.label}; its model has {codec.classes} classes, from 0 on.")
    if any(tile >= tiles for tile, _ in header.seeds):
        raise DamagedFile(f"it has a seed for a tile that it does not have: its image has {tiles}.")
    costs = codec.chain.bits
    packet = read_packet(cursor, header, bits_of(costs, tiles, header.units_of(tiles * len(costs))))
    done = steps_each(tiles, units_done(costs, tiles, len(packet.bits)))
    return OpenFile(packet, done[:0] if header.stored else done, most_bytes is not None and most_bytes < len(data))


def check_reconstruct(way: str) -> None:
    """Raise InputError for an unknown way to reconstruct."""
    if way not in RECONSTRUCTIONS:
        raise InputError(f"there is no reconstruction '{way}': choose {' or '.join(RECONSTRUCTIONS)}.")


def decode(
    codec: Codec,
    files: Sequence[OpenFile],
    *,
    reconstruct: str = "mean",
    batch_size: int | None = None,
    advance: Advance = unheard,
) -> list[Decoded]:
    """Decompress files, the tiles of all of them together.

    reconstruct  lossy images as the "mean" of what they may be (best in squared error), or along the "flow" of the
                 probability ODE from the last state (sharper, as samples are)
    batch_size   tiles in a network call, None: codec.at_once
    advance      told how many tiles went on by a step

    Errors: InputError for an unknown way to reconstruct; a file that is cut or damaged behind its header is no error,
    see Decoded.
    """
    check_reconstruct(reconstruct)
    batch_size = codec.at_once(batch_size)
    with within_memory(batch_size, codec.chain.device):
        states = _walk_all(codec, files, batch_size, advance)
        clean = partial(_clean, codec, files, states, batch_size)
        exact = _exact(codec, files, clean([k for k, file in enumerate(files) if file.whole]))
        rest = [k for k, file in enumerate(files) if not file.packet.header.stored and k not in exact]
        images = clean(rest, view=partial(_flow, codec) if reconstruct == "flow" else None)
        return [_finish(codec, file, exact.get(k), images.get(k)) for k, file in enumerate(files)]


def _walk_all(codec: Codec, files: Sequence[OpenFile], batch_size: int, advance: Advance) -> list[Tensor]:
    """The last states of the tiles of each file that have had a step, (n, C, h, w); these tiles are its first n.

    They wait on the CPU, so that a device holds one batch at a time.
    """
    seeds = [dict(file.packet.header.seeds) for file in files]
    sizes = [int((file.done > 0).sum()) for file in files]
    every = [(k, tile) for k, size in enumerate(sizes) for tile in range(size)]
    found = [torch.empty(0, *codec.geometry.shape, dtype=torch.float64, device="cpu")]
    for begin in range(0, len(every), batch_size):
        part = every[begin : begin + batch_size]
        counts = np.array([files[k].done[tile] for k, tile in part])
        bits = [
            np.stack([_unit(codec, files[k], step, tile) for k, tile in part if files[k].done[tile] > step])
            for step in range(int(counts.max()))
        ]
        start = codec.chain.start([(seeds[k].get(tile, 0), tile) for k, tile in part], codec.geometry.shape)
        labels = codec.labels([files[k].packet.header.label for k, _ in part])
        found.append(codec.chain.decode(bits, start, counts, labels, advance=advance).cpu())
    return list(torch.split(torch.cat(found), sizes))


def _clean(
    codec: Codec,
    files: Sequence[OpenFile],
    states: Sequence[Tensor],
    batch_size: int,
    chosen: Sequence[int],
    view: View | None = None,
) -> dict[int, Tensor]:
    """The clean tiles (n, C, h, w), on the CPU, of some of the files."""
    if not chosen:
        return {}
    sizes = [len(states[k]) for k in chosen]
    counts = np.concatenate([files[k].done[: len(states[k])] for k in chosen])
    labels = codec.labels([files[k].packet.header.label for k in chosen for _ in states[k]])
    x = torch.cat([states[k] for k in chosen])
    clean = codec.chain.clean(x, counts, labels, batch_size=batch_size, view=view)
    return dict(zip(chosen, torch.split(clean, sizes), strict=True))


def _exact(codec: Codec, files: Sequence[OpenFile], clean: dict[int, Tensor]) -> dict[int, Pixels]:
    """The images of lossless files whose checksums are right; those of one shape are decoded together."""
    alike: dict[tuple[int, tuple[int, int]], list[int]] = {}
    for k in clean:
        header = files[k].packet.header
        alike.setdefault((1 if header.grey else codec.geometry.channels, header.size), []).append(k)
    found: dict[int, Pixels] = {}
    for (channels, size), rows in alike.items():
        most = max(1, MOST_TOGETHER // math.prod(size))
        for part in (rows[start : start + most] for start in range(0, len(rows), most)):
            whole = np.concatenate([whole_guess((clean[k] + 1) * (127.5 * SIXTEENTHS), size) for k in part])
            pixels = codec.causal.decode(whole, [files[k].packet.data or b"" for k in part], channels)
            found |= {k: one for k, one in zip(part, pixels, strict=True) if checksum(one) == files[k].packet.crc}
    return found


def _unit(codec: Codec, file: OpenFile, step: int, tile: int) -> Bits:
    begin = bits_of(codec.chain.bits, len(file.done), step * len(file.done) + tile)
    return file.packet.bits[begin : begin + codec.chain.bits[step]]


def _finish(codec: Codec, file: OpenFile, exact: Pixels | None, clean: Tensor | None) -> Decoded:
    packet = file.packet
    if packet.header.stored:
        return _open_stored(codec, packet)
    steps = (int(file.done.min()), len(codec.chain.steps))
    if exact is not None:
        return Decoded(exact, LOSSLESS, steps)
    assert clean is not None
    image = _image(codec, file, clean)
    if packet.damaged or packet.data is not None:
        what = "its progressive layer" if packet.damaged else "its lossless layer"
        return Decoded(image, DAMAGED, steps, problem=f"{what} is damaged, and the image is not exact.")
    if packet.cut:
        problem = f"it is cut short: this is the image after {steps[0]} of {steps[1]} steps."
        return Decoded(image, PARTIAL, steps, problem="" if file.asked else problem)
    return Decoded(image, LOSSY, steps)


def _image(codec: Codec, file: OpenFile, clean: Tensor) -> Pixels:
    """The lossy image, from its first tiles; those without a single step are mid-grey."""
    header, channels = file.packet.header, 1 if file.packet.header.grey else codec.geometry.channels
    tiles = np.full((len(file.done), channels, *codec.geometry.size), GREY_LEVEL, np.uint8)
    tiles[: len(clean)] = x_to_images(clean.mean(1, keepdim=True) if header.grey else clean).numpy()
    return np.ascontiguousarray(joined(torch.from_numpy(tiles), header.size).numpy())


def _flow(codec: Codec, x: Tensor, count: int, labels: Tensor | None) -> Tensor:
    """Along the probability-flow ODE from states to clean images: DDIM on the codec's levels, then on halves."""
    levels = list(codec.chain.levels[count:])
    while levels[-1] > 1:
        levels.append(levels[-1] // 2)
    denoiser = codec.chain.denoiser
    chain = denoiser.process.schedule.subset(levels)
    *_, last = ddim(denoiser, x, chain=chain, noise=_no_noise, labels=labels)
    return last.x


def _no_noise(level: float) -> Tensor:
    raise AssertionError("the flow draws no noise")


def _open_stored(codec: Codec, packet: Packet) -> Decoded:
    """An image that is stored as PNG; the PNG's own header must agree before its pixels are unpacked."""
    header, steps = packet.header, (0, 0)
    if packet.data is None:
        return Decoded(
            None, DAMAGED, steps, True, "it is cut short, and an image stored as PNG can be read only whole."
        )
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
