"""Timesteps that `ddpm tune timesteps` found for short chains, by sampler and number of steps, beside a checkpoint.

levels-averaged.json   for the EMA weights (levels-raw.json: raw)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.model.sidecar import Sidecar, Weights
from ddpm.samplers.plan import Tuned

SIDECAR = Sidecar("levels", "ddpm levels", "timesteps")


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
    samples, levels = entry.pop("pictures"), tuple(entry.pop("levels"))  # on disk the samples are called pictures
    return TunedTimesteps(levels=levels, samples=samples, **entry)


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
