"""What a .dpc file says of itself: its header, and where each step lies if its model's codec data are found."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from ddpm.codec.codec_data import CodecData
from ddpm.codec.container import Cursor, Header, read_header, read_packet
from ddpm.codec.lookup import Found, find_in_run
from ddpm.codec.tiles import bits_of, tiles_in
from ddpm.errors import DdpmError
from ddpm.model.checkpoint import LINEAR, is_run

PLACES = ("models", "runs")
"""Folders in which models are looked for, besides the one that comes with the package."""


def describe_file(data: bytes, run: str | Path | None = None) -> dict[str, Any]:
    """What a .dpc file says of itself, as plain values; and, if the model that it wants is found, where its steps lie.

    run  the model, see find_codec_data

    With a model: its checkpoint, and whether that is older than its run's newest; state ("whole", "cut", or "damaged"
    by the progressive layer's checksum), tiles, header_bytes, progressive_end, and of each step where it arrives:
    level, bytes of the file up to there, the PSNR expected of such a prefix in dB, and whether it is there.
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
    named = find_codec_data(header.fingerprint.hex(), None if run is None else str(run))
    if named is None:
        return table
    model, found = named
    where = {"model": model, "checkpoint": found.of.source, "older": found.older}
    return table | where | _steps(cursor, header, found.made, found.shape)


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


def find_codec_data(fingerprint: str, run: str | None) -> tuple[str, Found] | None:
    """The model that a file wants, by the name of its run, and its codec data; None if it is not found.

    run  a run folder or a checkpoint, all checkpoints of its run are looked through; None looks for the model where
         PLACES says

    Errors, if a run is named: those of lookup.find_in_run.
    """
    if run is not None:
        return run, find_in_run(run, fingerprint)
    near = [str(entry) for place in PLACES for entry in sorted(Path(place).glob("*")) if is_run(entry)]
    for name in (LINEAR, *near):
        with suppress(DdpmError):
            return name, find_in_run(name, fingerprint)
    return None
