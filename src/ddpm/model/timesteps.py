"""Timesteps that `ddpm tune timesteps` found for short chains, by sampler and number of steps, beside a checkpoint.

levels-averaged.json   for the EMA weights (levels-raw.json: raw)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.model.sidecar import Sidecar, Weights
from ddpm.samplers import Tuned

SIDECAR = Sidecar("levels", "ddpm levels", "timesteps")


@dataclass(frozen=True)
class TunedTimesteps:
    """Levels for one sampler and number of steps, and how they were found.

    levels, eta    what to use, see samplers.Tuned
    criterion      what was made small, in words
    value          of it, with these levels, on the trials' own samples: a minimum, so a little too good
    before         of it, with the best spacing by name and the coefficients that the search began with
    best_named     that spacing
    samples, calls  drawn for each trial; network calls in all
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

    @property
    def tuned(self) -> Tuned:
        """What samplers want to know."""
        return Tuned(self.levels, self.eta)


def read_timesteps(of: Weights) -> dict[str, dict[int, TunedTimesteps]]:
    """All that were found: by sampler, by number of steps; {} if none were."""
    table = SIDECAR.read(of)
    if table is None:
        return {}
    return {
        sampler: {int(steps): _entry(entry, SIDECAR.path(of)) for steps, entry in found.items()}
        for sampler, found in table["samplers"].items()
    }


def tuned_for(of: Weights, sampler: str, steps: int) -> Tuned | None:
    """What was found for one sampler and number of steps, None if nothing was."""
    found = read_timesteps(of).get(sampler, {}).get(steps)
    return None if found is None else found.tuned


def add_timesteps(of: Weights, sampler: str, found: TunedTimesteps) -> Path:
    """Store levels beside those that are there; those of the same sampler and number of steps are replaced."""
    with SIDECAR.lock(of):
        try:
            every = read_timesteps(of)
        except (DamagedFile, WrongModel):  # nothing in it is of use to this model
            every = {}
        every.setdefault(sampler, {})[len(found.levels)] = found
        samplers = {
            name: {str(steps): _plain(by_steps[steps]) for steps in sorted(by_steps)}
            for name, by_steps in sorted(every.items())
        }
        return SIDECAR.write(of, {"samplers": samplers})


def _plain(found: TunedTimesteps) -> dict[str, Any]:
    """As JSON; on disk the number of samples is called pictures."""
    table = asdict(found)
    return {"pictures" if key == "samples" else key: value for key, value in table.items()}


def _entry(entry: dict[str, Any], path: Path) -> TunedTimesteps:
    """Back from JSON. Earlier versions could scale a solver's extrapolation by `reach`; now it is always 1."""
    table = {"samples" if key == "pictures" else key: value for key, value in entry.items() if key != "reach"}
    if entry.get("reach") not in (None, 1.0):
        raise InputError(
            f"'{path}' holds levels tuned for reach {entry['reach']}, which this ddpm does not have; tune them again."
        )
    return TunedTimesteps(**{**table, "levels": tuple(table["levels"])})
