"""Optimal variances that `ddpm tune variance` measured, beside a checkpoint, and denoisers that use them.

variance-averaged.json   errors by level and decoder variances of the EMA weights (variance-raw.json: raw)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from ddpm.base.fields import Amount, Finite, Whole, Word
from ddpm.base.tensors import Floats
from ddpm.diffusion.denoiser import LEARNED, OPTIMAL, Denoiser
from ddpm.diffusion.optimal_variance import Measured
from ddpm.diffusion.schedule import VARIANCES
from ddpm.errors import InputError
from ddpm.model.limits import MOST_STEPS
from ddpm.model.model import Model
from ddpm.model.sidecar import Sidecar, SideFields, Weights

LogVariance = Annotated[float, Field(ge=-100, le=100)]


class _VarianceFields(SideFields):
    data: str
    data_fingerprint: str
    seed: Word
    calls: Whole
    second_moment: Finite
    squared_error: Annotated[list[Amount], Field(min_length=2, max_length=MOST_STEPS + 1)]
    decoder_log_variance: list[LogVariance | None]
    decoder_nats: list[Finite | None]
    image_hashes: list[str]


SIDECAR = Sidecar("variance", "ddpm variances", "variance", fields=_VarianceFields)


@dataclass(frozen=True, eq=False)
class Variances:
    """A side file's content.

    measured          the tables
    data              the source of the images, as the user wrote it
    data_fingerprint  of that source
    image_hashes      of the images that were used, see data.subsets.hashes
    seed, calls       of the measurement
    own_sha256        of the file's content, "" before it is written
    """

    measured: Measured
    data: str
    data_fingerprint: str
    image_hashes: tuple[str, ...]
    seed: int
    calls: int
    own_sha256: str = ""


def write_variances(of: Weights, variances: Variances) -> Path:
    """Store variances beside their checkpoint; returns the file."""
    measured = variances.measured
    table = {
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
    return SIDECAR.write(of, table)


def read_variances(of: Weights, steps: int | None = None) -> Variances:
    """Read the variances of these weights.

    steps  T of their process, to check the tables' length; None: any

    Errors: none measured (InputError, names the command), of another model (WrongModel), damaged (DamagedFile).
    """
    table = SIDECAR.read(of)
    if table is None:
        raise InputError(f"the optimal variances of '{of.source}' were not measured yet: run {SIDECAR.made_by(of)}.")
    lengths = {len(table[name]) for name in ("squared_error", "decoder_log_variance", "decoder_nats")}
    if len(lengths) != 1 or (steps is not None and lengths != {steps + 1}):
        raise SIDECAR.damaged(of, "its tables do not have a value for each level")
    return Variances(
        Measured(
            _table(table["squared_error"]),
            _table(table["decoder_log_variance"]),
            _table(table["decoder_nats"]),
            table["second_moment"],
            source=str(SIDECAR.path(of)),
        ),
        table["data"],
        table["data_fingerprint"],
        tuple(table["image_hashes"]),
        table["seed"],
        table["calls"],
        table["own_sha256"],
    )


def denoiser_for(model: Model, variance: str | None) -> Denoiser:
    """A model's denoiser with another variance of the reverse steps; None keeps the model's own.

    "optimal" needs `ddpm tune variance` first; a learned variance needs a network that was trained with it.
    """
    own = model.recipe.process.variance
    if variance in (None, own):
        return model.denoiser
    if variance in LEARNED:
        choices = ", ".join(dict.fromkeys([own, *VARIANCES, OPTIMAL]))
        raise InputError(
            f"the model in '{model.source}' was not trained with variance '{variance}'; choose one of {choices}."
        )
    measured = read_variances(model, model.recipe.process.steps).measured if variance == OPTIMAL else None
    return replace(model.denoiser, variance=str(variance), measured=measured)


def _numbers(table: Floats) -> list[float | None]:
    """For JSON, which has no NaN: to nine digits, NaN as null."""
    return [None if np.isnan(value) else float(f"{value:.9g}") for value in table]


def _table(numbers: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in numbers], np.float64)
