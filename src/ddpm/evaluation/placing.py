"""Place the N levels of a short chain where they serve a model best, by the distance of its pictures to real ones.

A trial draws some pictures, always of the same seeds, and takes their distance to training images (criterion.py). What
is tried are the spacings by name; then curves of the family of Karras et al. 2022, eq. 5, with the first and the last
level, the bend and the sampler's own coefficients free (sigma^bend falls uniformly: 1 / 7 is their choice, 0 is uniform
in the log-SNR); then each level by itself. The search is in search.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.evaluation.criterion import Criterion
from ddpm.evaluation.search import Point, compass
from ddpm.files import writable_folder
from ddpm.model import Model
from ddpm.placed import Placed, add_placed, read_placed
from ddpm.samplers import SPACINGS, Plan, Sampling, Tuned, plan
from ddpm.samplers.sampling import DEFAULT_ETA, DEFAULT_REACH, ETA, REACH, TUNED
from ddpm.samplers.spacing import spaced
from ddpm.schedule import Schedule, Table

CURVE_SHARE = 0.7  # of the trials that may go into the curve; the rest is for single levels
LEAST_BEND = 0.01


@dataclass(frozen=True)
class Curve:
    """Levels of one family.

    first, last  log-SNR of the first level visited and of the last
    bend         the power of sigma that falls uniformly
    eta, reach   None for samplers without
    """

    first: float
    last: float
    bend: float
    eta: float | None = None
    reach: float | None = None

    def tuned(self, schedule: Schedule, steps: int) -> Tuned:
        """The levels of N steps, rising."""
        last, first = math.exp(-0.5 * self.bend * self.last), math.exp(-0.5 * self.bend * self.first)
        sigmas = np.linspace(last, first, steps) if steps > 1 else np.array([first])
        return levels_at(schedule, -2 / self.bend * np.log(sigmas), self.eta, self.reach)

    @classmethod
    def usual(cls, schedule: Schedule, sampler: str) -> Curve:
        """Where a search begins: from 0.85 T, where little is to be seen, to 0.03 T."""
        ends = [_log_snr(schedule, max(1.0, share * schedule.steps)) for share in (0.85, 0.03)]
        return cls(ends[0], ends[1], 1 / 7, DEFAULT_ETA.get(sampler), DEFAULT_REACH.get(sampler))


def levels_at(schedule: Schedule, log_snrs: Table, eta: float | None, reach: float | None) -> Tuned:
    """Levels at falling log-SNRs, kept inside the process."""
    inside = np.clip(log_snrs, schedule.log_snr[-1], schedule.log_snr[1]).tolist()
    return Tuned(tuple(round(schedule.level_at(value), 3) for value in inside), eta, reach)


@dataclass
class Trials:
    """A budget of trials, and the best one so far.

    cost    of drawing so; never called twice for the same levels
    budget  trials at most
    """

    cost: Callable[[Tuned], float]
    budget: int
    best: Tuned | None = None
    value: float = math.inf
    known: dict[Tuned, float] = field(default_factory=dict)

    def __call__(self, tuned: Tuned) -> float:
        """What it costs; infinite if levels meet, or if nothing is left of the budget."""
        if tuned not in self.known:
            if self.spent >= self.budget or (np.diff(tuned.levels) <= 0).any():
                return math.inf
            self.known[tuned] = self.cost(tuned)
            if self.known[tuned] < self.value:
                self.best, self.value = tuned, self.known[tuned]
        return self.known[tuned]

    @property
    def spent(self) -> int:
        """Trials made."""
        return len(self.known)


def place_each(
    model: Model,
    criterion: Criterion,
    sampler: str,
    steps: Sequence[int],
    *,
    trials: int = 32,
    batch_size: int = 64,
    on_calls: Callable[[int], None] = lambda calls: None,
) -> Iterator[tuple[Path, Placed]]:
    """Place levels for several numbers of steps, each search starting where the one before ended, and store them.

    Options and errors as in place_levels; what is yielded lies beside the checkpoint already.
    """
    check_placing(model, sampler, steps, trials)
    curve = None
    for number in sorted(steps):
        placed, curve = place_levels(
            model, criterion, sampler, number, trials=trials, start=curve, batch_size=batch_size, on_calls=on_calls
        )
        yield add_placed(Path(model.source), model.weights, model.weights_sha256, sampler, placed), placed


def place_levels(
    model: Model,
    criterion: Criterion,
    sampler: str,
    steps: int,
    *,
    trials: int = 32,
    start: Curve | None = None,
    batch_size: int = 64,
    on_calls: Callable[[int], None] = lambda calls: None,
) -> tuple[Placed, Curve]:
    """Place N = steps levels for one sampler; also the best curve, a start for a similar N.

    trials    at most; the network calls are trials x pictures x those of the chain
    on_calls  called after every step of a batch with the number of pictures in it

    Errors (InputError): a model that predicts the mean (whole levels only), too few trials, steps that do not fit.
    """
    schedule = model.denoiser.process.schedule
    check_placing(model, sampler, [steps], trials)
    calls = 0

    def cost(tuned: Tuned) -> float:
        nonlocal calls
        how = trial_plan(schedule, sampler, tuned)
        calls += how.calls * criterion.pictures
        return criterion.of(model.draw(criterion.seeds(), how, batch_size=batch_size, on_step=on_calls))

    start = start or Curve.usual(schedule, sampler)
    trial = Trials(cost, trials)
    named = {name: trial(named_levels(schedule, name, steps, start)) for name in SPACINGS}
    curve = _search_curve(trial, schedule, steps, start, sampler)
    _search_levels(trial, schedule)
    best_named = min(named, key=named.__getitem__)
    assert trial.best is not None
    placed = Placed(
        trial.best.levels,
        trial.best.eta,
        trial.best.reach,
        str(criterion),
        trial.value,
        named[best_named],
        best_named,
        criterion.pictures,
        calls,
        criterion.seed,
        criterion.data,
        trial.spent,
    )
    return placed, curve


def named_levels(schedule: Schedule, name: str, steps: int, start: Curve) -> Tuned:
    """A spacing by name, with a curve's coefficients."""
    return Tuned(tuple(spaced(schedule, name, steps).levels[1:].tolist()), start.eta, start.reach)


def check_placing(model: Model, sampler: str, steps: Sequence[int], trials: int) -> None:
    """Refuse, before any picture is drawn, what cannot be placed."""
    if model.recipe.objective.prediction == "mean":
        raise InputError(f"'{model.source}' predicts the mean, at whole levels only; levels are placed between them.")
    if not steps:
        raise InputError("no number of steps was asked for; 5, 8, 10 would fit.")
    writable_folder(model.source)
    if trials < len(SPACINGS) + 1:
        raise InputError(f"{trials} trials are too few to search; {len(SPACINGS) + 1} would fit.")
    for number in steps:
        model.plan(Sampling(sampler, number, "karras"))  # steps that do not fit, or a variance
    with suppress(DamagedFile, WrongModel):  # which new levels replace; those of a newer ddpm they do not
        read_placed(Path(model.source), model.weights, model.weights_sha256)


def trial_plan(schedule: Schedule, sampler: str, tuned: Tuned) -> Plan:
    """Draw along given levels."""
    return plan(Sampling(sampler, len(tuned.levels), TUNED), schedule, tuned)


def _search_curve(trial: Trials, schedule: Schedule, steps: int, start: Curve, sampler: str) -> Curve:
    def curve(point: Point) -> Curve:
        first, last, bend, *coefficients = point
        limits = [ranges[sampler] for ranges in (ETA, REACH) if sampler in ranges]
        inside = [min(max(value, low), high) for value, (low, high) in zip(coefficients, limits, strict=True)]
        return Curve(first, last, max(bend, LEAST_BEND), *inside)

    coefficients = [(value, 0.3) for value in (start.eta, start.reach) if value is not None]
    begin = (start.first, start.last, start.bend, *(value for value, _ in coefficients))
    sizes = (1.0, 1.0, 0.1, *(size for _, size in coefficients))
    most = round(CURVE_SHARE * trial.budget)
    found = compass(lambda point: trial(curve(point).tuned(schedule, steps)), begin, sizes, lambda: trial.spent < most)
    return curve(found)


def _search_levels(trial: Trials, schedule: Schedule) -> None:
    assert trial.best is not None
    log_snrs = np.array([_log_snr(schedule, level) for level in trial.best.levels])
    gap = float(np.abs(np.diff(log_snrs)).mean()) if len(log_snrs) > 1 else 1.0
    eta, reach = trial.best.eta, trial.best.reach
    compass(
        lambda point: trial(levels_at(schedule, np.array(point), eta, reach)),
        tuple(log_snrs.tolist()),
        (gap / 4,) * len(log_snrs),
        lambda: trial.spent < trial.budget,
    )


def _log_snr(schedule: Schedule, level: float) -> float:
    return -float(np.interp(level, schedule.levels[1:], -schedule.log_snr[1:]))


def most_calls(model: Model, sampler: str, steps: int, *, trials: int, pictures: int) -> int:
    """Network calls that placing takes at most."""
    how = plan(Sampling(sampler, steps), model.denoiser.process.schedule)
    return trials * pictures * how.calls
