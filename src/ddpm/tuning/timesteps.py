"""Tune the N timesteps of a short chain for a model, by the distance of its samples to real images.

A trial draws some samples, always of the same seeds, and takes their distance to training images (criterion.py).
Tried are the spacings by name; then curves of the family of Karras et al. 2022, eq. 5, with the first and the last
level, the bend and eta free (sigma^bend falls uniformly: 1 / 7 is their choice, 0 is uniform in the log-SNR); then each
level by itself. The search is in search.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.base.progress import Advance, Progress, progress_of, unheard
from ddpm.base.tensors import Floats
from ddpm.data.sources import ImageData
from ddpm.diffusion.schedule import Schedule
from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.generation.draw import draw, plan_for
from ddpm.model.checkpoint import check_tunable
from ddpm.model.model import Model
from ddpm.model.timesteps import SIDECAR, TunedTimesteps, add_timesteps
from ddpm.samplers.plan import DEFAULT_ETA, ETA, FAST, TUNED, Sampling, Tuned, plan
from ddpm.samplers.spacing import SPACINGS, spaced
from ddpm.tuning.criterion import Criterion, training_criterion
from ddpm.tuning.search import Point, compass

CURVE_SHARE = 0.7  # of the trials that may go into the curve; the rest is for single levels
LEAST_BEND = 0.01


@dataclass(frozen=True)
class Curve:
    """Levels of one family.

    first, last  log-SNR of the first level visited and of the last
    bend         the power of sigma that falls uniformly
    eta          None for samplers without
    """

    first: float
    last: float
    bend: float
    eta: float | None = None

    def tuned(self, schedule: Schedule, steps: int) -> Tuned:
        """The levels of N steps, rising."""
        last, first = math.exp(-0.5 * self.bend * self.last), math.exp(-0.5 * self.bend * self.first)
        sigmas = np.linspace(last, first, steps) if steps > 1 else np.array([first])
        return levels_at(schedule, -2 / self.bend * np.log(sigmas), self.eta)

    @classmethod
    def usual(cls, schedule: Schedule, sampler: str) -> Curve:
        """Where a search begins: from 0.85 T, where little of the image is left, to 0.03 T."""
        ends = [schedule.log_snr_at(max(1.0, share * schedule.steps)) for share in (0.85, 0.03)]
        return cls(ends[0], ends[1], 1 / 7, DEFAULT_ETA.get(sampler))


def levels_at(schedule: Schedule, log_snrs: Floats, eta: float | None) -> Tuned:
    """Levels at falling log-SNRs, kept inside the process."""
    return Tuned(tuple(round(schedule.level_at(value), 3) for value in log_snrs.tolist()), eta)


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


@dataclass(frozen=True)
class TimestepsReport:
    """What `ddpm.tune_timesteps` returns: the file it wrote, the sampler, the criterion, and what was found."""

    file: Path
    sampler: str
    criterion: str
    found: tuple[TunedTimesteps, ...]

    def table(self) -> dict[str, Any]:
        """As plain values."""
        found = {len(one.levels): asdict(one) for one in self.found}
        return {"file": str(self.file), "sampler": self.sampler, "criterion": self.criterion, "tuned": found}

    def lines(self) -> list[str]:
        """For a person."""
        lines = []
        for one in self.found:
            levels = ", ".join(f"{level:.4g}" for level in reversed(one.levels))
            lines += [
                f"{len(one.levels)} levels: {levels}{'' if one.eta is None else f', eta {one.eta:.3g}'}",
                f"  distance {one.value:.4g}, with the best spacing by name ({one.best_named}) {one.before:.4g}; "
                f"{one.calls:,} network calls",
            ]
        last = len(self.found[-1].levels)
        return [*lines, f"{self.file}: {self.criterion}", f"sample --steps {last} --sampler {self.sampler} uses them"]


def tune_timesteps(
    model: Model,
    data: ImageData | None = None,
    *,
    steps: Sequence[int],
    sampler: str = FAST,
    features: Sequence[str] = ("pixels",),
    trials: int = 32,
    samples: int = 1024,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress | bool = True,
) -> TimestepsReport:
    """Tune the timesteps of short chains for a model, and store them beside its checkpoint.

    data        None: the model's own training images; never those that samples will be compared with
    steps       numbers of levels, each tuned by itself; `sample` with so many steps uses them
    features    that samples are compared by, see metrics.open_extractor; of several, the geometric mean counts
    trials      for each number of steps, each of so many `samples`
    batch_size  samples drawn at a time

    Errors: InputError, as for evaluate_fid; a folder that cannot be written to; a model that predicts the mean.
    """
    report_to = progress_of(progress)
    numbers = sorted(set(steps))
    check_tuning(model, sampler, numbers, trials)
    criterion = training_criterion(model, data, features, samples=samples, seed=seed)
    calls = sum(plan_for(model, Sampling(sampler, number, "uniform")).calls for number in numbers) * trials * samples
    report_to.say(
        f"Timesteps for {sampler}: up to {trials} trials of {samples:,} samples each, {calls:,} network calls."
    )
    found, curve, file = [], None, Path()
    with report_to.stage("Sampling", trials * samples * sum(numbers)) as advance:
        for number in numbers:  # each search starts where the one before ended
            one, curve = search_timesteps(
                model, criterion, sampler, number, trials=trials, start=curve, batch_size=batch_size, advance=advance
            )
            found.append(one)
            file = add_timesteps(model, sampler, one)
    return TimestepsReport(file, sampler, str(criterion), tuple(found))


def search_timesteps(
    model: Model,
    criterion: Criterion,
    sampler: str,
    steps: int,
    *,
    trials: int,
    batch_size: int,
    start: Curve | None = None,
    advance: Advance = unheard,
) -> tuple[TunedTimesteps, Curve]:
    """N = steps levels for one sampler; also the best curve, a start for a similar N.

    trials   at most; the network calls are trials x samples x those of the chain
    advance  told after every step of a batch how many images are in it
    """
    schedule = model.denoiser.process.schedule
    calls = 0

    def cost(tuned: Tuned) -> float:
        nonlocal calls
        how = plan(Sampling(sampler, len(tuned.levels), TUNED), schedule, tuned)
        calls += how.calls * criterion.samples
        return criterion.of(draw(model, criterion.seeds(), how, batch_size=batch_size, advance=advance))

    start = start or Curve.usual(schedule, sampler)
    trial = Trials(cost, trials)
    named = {
        name: trial(Tuned(tuple(spaced(schedule, name, steps).levels[1:].tolist()), start.eta)) for name in SPACINGS
    }
    curve = _search_curve(trial, schedule, steps, start, sampler)
    _search_levels(trial, schedule)
    best_named = min(named, key=named.__getitem__)
    assert trial.best is not None
    found = TunedTimesteps(
        trial.best.levels,
        trial.best.eta,
        str(criterion),
        trial.value,
        named[best_named],
        best_named,
        criterion.samples,
        calls,
        criterion.seed,
        criterion.data,
        trial.spent,
    )
    return found, curve


def check_tuning(model: Model, sampler: str, steps: Sequence[int], trials: int) -> None:
    """Refuse, before any sample is drawn, a model or settings that cannot be tuned."""
    if model.recipe.objective.prediction == "mean":
        raise InputError(f"'{model.source}' predicts the mean, at whole levels only: tune a model of eps, x0 or v.")
    if not steps:
        raise InputError("name the numbers of steps to tune for, such as 5, 8, 10.")
    check_tunable(model.source)
    if trials < len(SPACINGS) + 1:
        raise InputError(f"trials must be at least {len(SPACINGS) + 1}, not {trials}.")
    for number in steps:
        plan_for(model, Sampling(sampler, number, "karras"))  # too many steps, or a variance
    with suppress(DamagedFile, WrongModel):  # new levels replace such a file, but not one of a newer ddpm
        SIDECAR.read(model)


def _search_curve(trial: Trials, schedule: Schedule, steps: int, start: Curve, sampler: str) -> Curve:
    def curve(point: Point) -> Curve:
        first, last, bend, *coefficients = point
        low, high = ETA.get(sampler, (0.0, 0.0))
        return Curve(first, last, max(bend, LEAST_BEND), *(min(max(eta, low), high) for eta in coefficients))

    begin = (start.first, start.last, start.bend, *([] if start.eta is None else [start.eta]))
    sizes = (1.0, 1.0, 0.1, 0.3)[: len(begin)]
    most = round(CURVE_SHARE * trial.budget)
    found = compass(lambda point: trial(curve(point).tuned(schedule, steps)), begin, sizes, lambda: trial.spent < most)
    return curve(found)


def _search_levels(trial: Trials, schedule: Schedule) -> None:
    assert trial.best is not None
    log_snrs = np.array([schedule.log_snr_at(level) for level in trial.best.levels])
    gap = float(np.abs(np.diff(log_snrs)).mean()) if len(log_snrs) > 1 else 1.0
    eta = trial.best.eta
    compass(
        lambda point: trial(levels_at(schedule, np.array(point), eta)),
        tuple(log_snrs.tolist()),
        (gap / 4,) * len(log_snrs),
        lambda: trial.spent < trial.budget,
    )
