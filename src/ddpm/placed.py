"""Levels that `ddpm tune --steps` placed, by sampler and number of steps, in a side file of the checkpoint.

levels-averaged.json   for the averaged weights (levels-raw.json: raw)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ddpm.errors import DamagedFile, WrongModel
from ddpm.samplers import Tuned
from ddpm.sidefile import read_side_file, write_side_file

FORMAT = "ddpm levels"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Placed:
    """Levels for one sampler and number of steps, and how they were found.

    levels, eta, reach  what to use, see samplers.Tuned
    criterion        what was made small, in words
    value            of it, with these levels, on the trials' own pictures: a minimum, so a little too good
    before           of it, with the best spacing by name and the coefficients that the search began with
    best_named       that spacing
    pictures, calls  drawn for each trial; network calls in all
    seed             where the trials' seeds start
    data             the images compared with
    trials           made
    """

    levels: tuple[float, ...]
    eta: float | None
    reach: float | None
    criterion: str
    value: float
    before: float
    best_named: str
    pictures: int
    calls: int
    seed: int
    data: str
    trials: int

    @property
    def tuned(self) -> Tuned:
        """What samplers want to know."""
        return Tuned(self.levels, self.eta, self.reach)


def levels_file(checkpoint: Path, weights: str) -> Path:
    """Where a checkpoint's placed levels lie."""
    return checkpoint / f"levels-{weights}.json"


def read_placed(checkpoint: Path, weights: str, weights_sha256: str) -> dict[str, dict[int, Placed]]:
    """All levels that were placed: by sampler, by number of steps; {} if none were."""
    command = f"`ddpm tune {checkpoint} --steps ...{'' if weights == 'averaged' else f' --weights {weights}'}`"
    path = levels_file(checkpoint, weights)
    table = read_side_file(path, FORMAT, FORMAT_VERSION, weights_sha256=weights_sha256, command=command)
    if table is None:
        return {}
    return {
        sampler: {int(steps): _placed(entry) for steps, entry in found.items()}
        for sampler, found in table["samplers"].items()
    }


def tuned_levels(checkpoint: Path, weights: str, weights_sha256: str, sampler: str, steps: int) -> Tuned | None:
    """What was placed for one sampler and number of steps, None if nothing was."""
    placed = read_placed(checkpoint, weights, weights_sha256).get(sampler, {}).get(steps)
    return None if placed is None else placed.tuned


def add_placed(checkpoint: Path, weights: str, weights_sha256: str, sampler: str, placed: Placed) -> Path:
    """Store levels beside those that are there; those of the same sampler and number of steps are replaced."""
    path = levels_file(checkpoint, weights)
    with FileLock(path.with_name(f".{path.name}.lock")):
        return _add(path, weights, weights_sha256, sampler, placed)


def _add(path: Path, weights: str, weights_sha256: str, sampler: str, placed: Placed) -> Path:
    try:
        every = read_placed(path.parent, weights, weights_sha256)
    except (DamagedFile, WrongModel):  # nothing in it is of use to this model
        every = {}
    every.setdefault(sampler, {})[len(placed.levels)] = placed
    table = {
        "weights": weights,
        "weights_sha256": weights_sha256,
        "samplers": {
            name: {str(steps): asdict(found[steps]) for steps in sorted(found)} for name, found in sorted(every.items())
        },
    }
    return write_side_file(path, FORMAT, FORMAT_VERSION, table)


def _placed(entry: dict[str, Any]) -> Placed:
    return Placed(**{**entry, "levels": tuple(entry["levels"])})
