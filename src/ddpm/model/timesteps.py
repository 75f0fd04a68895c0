"""Timesteps that `ddpm tune timesteps` found for short chains, by sampler and number of steps, beside a checkpoint.

levels-averaged.json   for the EMA weights (levels-raw.json: raw)
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ddpm.base.fields import Fields, Finite, Whole, Word
from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.model.limits import MOST_STEPS
from ddpm.model.sidecar import Sidecar, SideFields, Weights
from ddpm.samplers.plan import Tuned


class _Entry(Fields):
    levels: Annotated[list[Annotated[float, Field(ge=1, le=MOST_STEPS, allow_inf_nan=False)]], Field(min_length=1)]
    eta: Annotated[float, Field(ge=0, le=2)] | None
    criterion: str
    value: Finite
    before: Finite
    best_named: str
    samples: Annotated[Whole, Field(alias="pictures")]
    calls: Whole
    seed: Word
    data: str
    trials: Whole
    reach: Finite | None = None


class _TimestepFields(SideFields):
    samplers: dict[str, dict[Annotated[str, Field(pattern=r"^[0-9]{1,6}$")], _Entry]]


SIDECAR = Sidecar("levels", "ddpm levels", "timesteps", fields=_TimestepFields)


@dataclass(frozen=True)
class TunedTimesteps:
    """Levels for one sampler and number of steps, and how they were found.

    levels, eta    what to use, see samplers.Tuned
    criterion      what was minimised, in words
    value          of the criterion with these levels, on the trials' own samples: a minimum, so a little too good
    before         of the criterion with the best spacing by name and the eta that the search began with
    best_named     that spacing
    samples        drawn for each trial
    calls          network calls in all
    seed           where the trials' seeds start
    data           the images compared with
    trials         made
    """

    levels: tuple[float, ...]
    eta: float | None
    criterion: str
    value: float
    before: float
    best_named: str
    samples: int
    calls: int
    seed: int
    data: str
    trials: int


def read_timesteps(of: Weights, sampler: str, steps: int) -> TunedTimesteps | None:
    """What was found for one sampler and number of steps, None if nothing was."""
    table = SIDECAR.read(of)
    entry = None if table is None else table["samplers"].get(sampler, {}).get(str(steps))
    if entry is None:
        return None
    if (reach := entry.pop("reach", None)) not in (None, 1.0):  # earlier versions could scale a solver's extrapolation
        raise InputError(
            f"'{SIDECAR.path(of)}' holds {steps} timesteps of {sampler} for reach {reach}, which this ddpm "
            f"does not have: tune them again with {SIDECAR.made_by(of)}."
        )
    levels = entry["levels"]
    if len(levels) != steps or any(one >= other for one, other in itertools.pairwise(levels)):
        raise SIDECAR.damaged(of, f"its {steps} timesteps of {sampler} are {len(levels)}, or do not rise")
    known = {one.name: entry[one.name] for one in fields(TunedTimesteps) if one.name in entry}
    return TunedTimesteps(**known | {"levels": tuple(levels), "samples": entry["pictures"]})  # so called on disk


def tuned_for(of: Weights, sampler: str, steps: int) -> Tuned | None:
    """The levels and eta of read_timesteps."""
    found = read_timesteps(of, sampler, steps)
    return None if found is None else Tuned(found.levels, found.eta)


def add_timesteps(of: Weights, sampler: str, found: TunedTimesteps) -> Path:
    """Store levels beside those that are there; those of the same sampler and number of steps are replaced."""
    entry = asdict(found)
    entry["pictures"] = entry.pop("samples")
    with SIDECAR.lock(of):
        try:
            table = SIDECAR.read(of) or {"samplers": {}}
        except (DamagedFile, WrongModel):  # nothing in it is of use to this model
            table = {"samplers": {}}
        table["samplers"].setdefault(sampler, {})[str(len(found.levels))] = entry
        samplers = {
            name: {str(steps): by_steps[str(steps)] for steps in sorted(map(int, by_steps))}
            for name, by_steps in sorted(table["samplers"].items())
        }
        return SIDECAR.write(of, {"samplers": samplers})
