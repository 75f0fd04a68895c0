"""What a .dpc file says of itself: its header, and where each step lies if its model's codec data are found."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.codec.codec_data import CodecData, read_codec_data
from ddpm.codec.container import Cursor, Header, read_header, read_packet
from ddpm.codec.tiles import bits_of, tiles_in
from ddpm.errors import DdpmError, WrongModel
from ddpm.model.checkpoint import LINEAR, MODEL_FILE, WEIGHTS, find_checkpoint, is_run, read_config

PLACES = ("models", "runs")
"""Folders in which models are looked for, besides the one that comes with the package."""


class _Weights(NamedTuple):
    """The weights whose codec data are read, see sidecar.Weights."""

    source: str
    weights: str
    weights_sha256: str


def describe_file(data: bytes, run: str | Path | None = None) -> dict[str, Any]:
    """What a .dpc file says of itself, as plain values; and, if the model that it wants is found, where its steps lie.

    run  the model, see find_codec_data

    With a model: state ("whole", "cut", or "damaged" by the progressive layer's checksum), tiles, header_bytes,
    progressive_end, and of each step where it arrives: level, bytes of the file up to there, the PSNR expected of such
    a prefix in dB, and whether it is there.
    """
    cursor = Cursor(data)
    header = read_header(cursor)
    table = {
        "bytes": len(data),
        "height": header.size[0],
        "width": header.size[1],
        "kind": "stored" if header.stored else "lossless" if header.lossless else "lossy",
        "grey_on_colour": header.grey,
        "fingerprint": header.fingerprint.hex(),
        "class": header.label,
        "reseeded_tiles": len(header.seeds),
    }
    found = find_codec_data(header.fingerprint.hex(), None if run is None else str(run))
    return table if found is None else table | {"model": found[0]} | _steps(cursor, header, *found[1:])


def _steps(cursor: Cursor, header: Header, made: CodecData, shape: tuple[int, int, int]) -> dict[str, Any]:
    tiles, count, start = tiles_in(header.size, shape[1:]), len(made.bits), cursor.place
    units = header.units_of(tiles * count)
    packet = read_packet(cursor, header, bits_of(made.bits, tiles, units))
    state = "damaged" if packet.damaged else "cut" if packet.cut else "whole"
    if header.stored:
        return {"state": state}
    ends = [start + -(-bits_of(made.bits, tiles, done) // 8) for done in (*range(0, tiles * count + 1, tiles), units)]
    rows = [
        {
            "step": step,
            "level": made.levels[step],
            "bytes": ends[step],
            "psnr": 10 * math.log10(4 / made.errors[step]) if step else None,  # without a step it is mid-grey
            "there": step * tiles <= units and ends[step] <= len(cursor.data),
        }
        for step in range(count + 1)
    ]
    return {"state": state, "tiles": tiles, "header_bytes": start, "progressive_end": ends[-1] + 2, "steps": rows}


def find_codec_data(fingerprint: str, run: str | None) -> tuple[str, CodecData, tuple[int, int, int]] | None:
    """The model that a file wants, its codec data and the (C, h, w) of its tiles; None if it is not found.

    run  a run folder or a checkpoint; None looks for the model where PLACES says

    Errors, if a run is named: it is not a run (InputError), or another model than the file wants (WrongModel).
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
            own = " and ".join(made.own_sha256 for made, _ in found) or "missing: its codec data were never made"
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
