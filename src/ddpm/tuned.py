"""Optimal variances that `ddpm tune --variance` measured, in a side file of the checkpoint.

variance-averaged.json   errors by level and decoder variances of the averaged weights (variance-raw.json: raw)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddpm.errors import InputError
from ddpm.measured import Measured
from ddpm.schedule import Table
from ddpm.sidefile import read_side_file, write_side_file

FORMAT = "ddpm variances"
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Variances:
    """A side file's content.

    measured          the tables
    weights           "averaged" or "raw"
    weights_sha256    of the file that holds them
    data              the source that was measured on, as the user wrote it
    data_fingerprint  of that source
    image_hashes      of the images that were used, see hashes
    seed, calls       how it was measured
    own_sha256        of the file's content, "" before it is written
    """

    measured: Measured
    weights: str
    weights_sha256: str
    data: str
    data_fingerprint: str
    image_hashes: tuple[str, ...]
    seed: int
    calls: int
    own_sha256: str = ""


def variance_file(checkpoint: Path, weights: str) -> Path:
    """Where a checkpoint's variances lie."""
    return checkpoint / f"variance-{weights}.json"


def write_variances(checkpoint: Path, variances: Variances) -> Path:
    """Store variances beside their checkpoint; returns the file."""
    measured = variances.measured
    table = {
        "weights": variances.weights,
        "weights_sha256": variances.weights_sha256,
        "data": variances.data,
        "data_fingerprint": variances.data_fingerprint,
        "seed": variances.seed,
        "calls": variances.calls,
        "second_moment": measured.second_moment,
        "squared_error": _numbers(measured.squared_error),
        "decoder_log_variance": _numbers(measured.decoder_log_variance),
        "decoder_nats": _numbers(measured.decoder_nats),
        "image_hashes": list(variances.image_hashes),
    }
    return write_side_file(variance_file(checkpoint, variances.weights), FORMAT, FORMAT_VERSION, table)


def read_variances(checkpoint: Path, weights: str, weights_sha256: str) -> Variances:
    """Read what was measured of these weights.

    Errors: none measured (InputError, names the command), of another model (WrongModel), damaged (DamagedFile).
    """
    path = variance_file(checkpoint, weights)
    command = f"`ddpm tune {checkpoint} --variance{'' if weights == 'averaged' else f' --weights {weights}'}`"
    table = read_side_file(path, FORMAT, FORMAT_VERSION, weights_sha256=weights_sha256, command=command)
    if table is None:
        raise InputError(f"the optimal variances of '{checkpoint}' were not measured yet; {command} does it.")
    return Variances(
        Measured(
            _table(table["squared_error"]),
            _table(table["decoder_log_variance"]),
            _table(table["decoder_nats"]),
            table["second_moment"],
            source=str(path),
        ),
        table["weights"],
        table["weights_sha256"],
        table["data"],
        table["data_fingerprint"],
        tuple(table["image_hashes"]),
        table["seed"],
        table["calls"],
        table["own_sha256"],
    )


def hashes(images: NDArray[np.uint8]) -> list[str]:
    """A short hash of each image (B, C, H, W), to tell whether two sets share some."""
    return [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in images]


def _numbers(table: Table) -> list[float | None]:
    """NaN has no place in JSON."""
    return [None if np.isnan(value) else float(f"{value:.9g}") for value in table]


def _table(numbers: Sequence[float | None]) -> Table:
    return np.array([np.nan if value is None else value for value in numbers])
