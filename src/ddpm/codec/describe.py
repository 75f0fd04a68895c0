"""What a .dpc file says of itself: its header, and with its model's codec data where each step lies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.codec.codec_data import CodecData, read_codec_data
from ddpm.codec.container import Cursor, read_header, read_packet
from ddpm.codec.tiles import bits_of, grid
from ddpm.errors import DamagedFile, DdpmError, WrongModel
from ddpm.model.checkpoint import LINEAR, MODEL_FILE, WEIGHTS, find_checkpoint, is_run, read_config

PLACES = ("models", "runs")
"""Where models are looked for, beside the one that comes with the package."""


class _Weights(NamedTuple):
    """Whose codec data are read; see sidecar.Weights."""

    source: str
    weights: str
    weights_sha256: str


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


def codec_data_for(fingerprint: str, run: str | None) -> tuple[str, CodecData, tuple[int, int, int]] | None:
    """The model that a file wants, its codec data and the (C, h, w) of its tiles: the run named, or one that lies near.

    Errors, where a run is named: it is no run, or another model than the file wants (WrongModel).
    """
    near = [str(entry) for place in PLACES for entry in sorted(Path(place).glob("*")) if is_run(entry)]
    for name in [run] if run is not None else [LINEAR, *near]:
        try:
            found = list(_codec_data(name))
        except DdpmError:
            if run is not None:
                raise
            continue
        for made, shape in found:
            if made.own_sha256.startswith(fingerprint):
                return name, made, shape
        if run is not None:
            own = " and ".join(made.own_sha256 for made, _ in found) or "none, its codec data were never made"
            raise WrongModel(f"it wants the model with fingerprint {fingerprint}, and that of '{run}' is {own}.")
    return None


def _codec_data(run: str) -> Iterable[tuple[CodecData, tuple[int, int, int]]]:
    """All that was made for a run's newest checkpoint, for EMA and raw weights."""
    folder = find_checkpoint(run)
    config = read_config(folder)
    for weights in WEIGHTS:
        made = read_codec_data(_Weights(str(folder), weights, config.sha256[MODEL_FILE]))
        if made is not None:
            yield made, config.recipe.geometry.shape
