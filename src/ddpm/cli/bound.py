"""The metrics of ddpm evaluate that cost bits: the bound, rate and distortion, the ODE."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.cli.console import counted, duration, progress_bar, say
from ddpm.errors import InputError

if TYPE_CHECKING:
    from ddpm.data import ImageSet
    from ddpm.evaluation import FullSum, OdeBound
    from ddpm.likelihood.estimate import Bound
    from ddpm.likelihood.profile import Profile
    from ddpm.likelihood.scoring import Scoring
    from ddpm.model import Model
    from ddpm.scored import Manner

CALLS = 4096
SOLVER_STEPS = 40
SHOWN_LEVELS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
BOUND_METRICS = ("bits", "rate", "ode")

Result = tuple[dict[str, Any], list[str]]


@dataclass(frozen=True)
class Options:
    """What the command line says about the bound; None is unsaid."""

    metrics: tuple[str, ...]
    calls: int | None = None
    full: bool = False
    shard: str | None = None
    levels: int | None = None
    steps: int | None = None
    variance: str | None = None
    limit: int | None = None
    seed: int = 0
    batch_size: int = 128
    keep: str | None = None

    def check(self) -> None:
        """Refuse options that would do nothing, and budgets that are none."""
        asked = set(self.metrics)
        if self.calls is not None and self.calls < 1:
            raise InputError(f"--calls {self.calls} is no budget; {CALLS} would fit.")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit} leaves nothing to score; 1 would fit.")
        if self.full and self.calls is not None:
            raise InputError("--full sums every level of every image, so there is no budget: leave --calls out.")
        if self.shard is not None and not self.full:
            raise InputError("--shard shares out a full sum: it needs --full.")
        unused = {
            "--calls": self.calls is not None and not asked & set(BOUND_METRICS),
            "--full": self.full and not asked & {"bits", "rate"},
            "--levels": self.levels is not None and not asked & {"bits", "rate"},
            "--limit": self.limit is not None and not asked & set(BOUND_METRICS),
        }
        for option, idle in unused.items():
            if idle:
                raise InputError(f"{option} means nothing to --metric {' and '.join(self.metrics)}; leave it out.")

    @property
    def manner(self) -> Manner:
        """How the bound is computed."""
        from ddpm.scored import Manner

        return Manner(self.variance, self.levels)

    @property
    def part(self) -> tuple[int, int]:
        """Which shards of a full sum are this process's: (i, n) from "i/n"."""
        if self.shard is None:
            return (1, 1)
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.shard)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--shard '{self.shard}' is no share of the work; 1/4 to 4/4 would fit.")
        return int(match[1]), int(match[2])

    def folder(self, model: Model) -> Path:
        """Where files go: --keep, else evaluation/ in the run or checkpoint."""
        return Path(self.keep) if self.keep is not None else Path(model.source) / "evaluation"


def bound_metrics(model: Model, images: ImageSet, options: Options) -> Result:
    """Compute the bits, rate and ode that were asked for: what goes into the JSON, and lines for a person."""
    from ddpm.scored import scoring_for

    advance: list[Callable[[int], None]] = [lambda calls: None]
    scoring = scoring_for(
        model,
        images,
        options.manner,
        limit=options.limit,
        seed=options.seed,
        batch_size=options.batch_size,
        on_calls=lambda calls: advance[0](calls),
    )
    about = _about(model, scoring, options)
    for file in about["side_files"]:
        say(f"Variances: {file}.")
    table: dict[str, Any] = {}
    lines = _header(model, images, scoring, about)
    run = _Run(model, scoring, options, about, advance)
    for metric in BOUND_METRICS:
        if metric in options.metrics:
            found, said = run.measure(metric)
            table[metric] = found
            lines += said
    return _beside(table, lines, options)


class _Run:
    """One evaluation: its parts share a progress bar's hook, and a full sum."""

    def __init__(
        self,
        model: Model,
        scoring: Scoring,
        options: Options,
        about: dict[str, Any],
        advance: list[Callable[[int], None]],
    ) -> None:
        self.model, self.scoring, self.options, self.about, self.advance = model, scoring, options, about, advance
        self.summed: tuple[FullSum, float] | None = None

    def measure(self, metric: str) -> Result:
        """One metric."""
        return {"bits": self._bits, "rate": self._rate, "ode": self._ode}[metric]()

    def _bits(self) -> Result:
        from ddpm.likelihood.estimate import estimate_bound

        calls = self.options.calls or CALLS
        if self.options.full:
            full, seconds = self._full()
            if full.missing():
                return self._unfinished(full)
            bound = full.bound()
        else:
            bound, seconds = self._timed(calls, lambda: estimate_bound(self.scoring, calls))
        found = asdict(bound) | self.about | {"seconds": round(seconds, 2)}
        found |= {name: getattr(bound, name)._asdict() for name in ("total", "prior", "steps", "decoder")}
        lines = [f"bits per dimension, {'full sum' if self.options.full else 'estimate'} of the variational bound"]
        lines += [*_term_lines(bound), _cost(bound.calls, seconds, bound.error_of)]
        if self.options.levels is not None:
            found["curve"], more = self._curve()
            lines += more
        return found, lines

    def _rate(self) -> Result:
        from ddpm.evaluation.rate import write_profile
        from ddpm.files import check_output
        from ddpm.likelihood.profile import estimate_profile

        folder = self.options.folder(self.model)
        check_output(folder, folder=True)
        calls = self.options.calls or max(CALLS, self.scoring.chain.steps)
        if self.options.full:
            full, seconds = self._full()
            if full.missing():
                return self._unfinished(full)
            profile = full.profile()
        else:
            profile, seconds = self._timed(calls, lambda: estimate_profile(self.scoring, calls))
        files = [str(file) for file in write_profile(profile, folder, self.about)]
        found = {"rows": profile.rows(), **self.about, "files": files, "seconds": round(seconds, 2)}
        return found, ["", *_rate_lines(profile), f"every level and the plot: {', '.join(files)}"]

    def _ode(self) -> Result:
        from ddpm.evaluation.ode import CALLS_PER_STEP, images_within, ode_bound

        calls, steps = self.options.calls or CALLS, self.options.steps or SOLVER_STEPS
        images = min(images_within(calls, steps), len(self.scoring.images))
        start = time.monotonic()
        ode_bound(self.scoring, calls=CALLS_PER_STEP * max(images, 2), steps=1)
        each = (time.monotonic() - start) / (CALLS_PER_STEP * images)
        ode, seconds = self._timed(
            CALLS_PER_STEP * steps * images, lambda: ode_bound(self.scoring, calls=calls, steps=steps), each
        )
        found = asdict(ode) | {key: self.about[key] for key in ("weights", "variance", "side_files")}
        found |= {name: getattr(ode, name)._asdict() for name in ("total", "flow", "decoder")}
        found["seconds"] = round(seconds, 2)
        return found, _ode_lines(ode, seconds)

    def _full(self) -> tuple[FullSum, float]:
        from ddpm.evaluation import full_sum

        if self.summed is None:
            full = full_sum(self.model, self.scoring, self.options.folder(self.model))
            part = self.options.part
            say(f"{full.shards:,} shards in {full.folder}; the same command goes on after a stop.")
            _, seconds = self._timed(full.calls(part), lambda: full.compute(part))
            self.summed = full, seconds
        return self.summed

    def _timed(self, calls: int, work: Callable[[], Any], each: float | None = None) -> tuple[Any, float]:
        """Say what it will take (`each` seconds a call, measured if not given), do it, and take the time."""
        if calls:
            each = _seconds_per_call(self.scoring) if each is None else each
            say(f"{calls:,} network calls, about {duration(calls * each)}.")
        start = time.monotonic()
        with progress_bar("Network calls", calls) as bar:
            self.advance[0] = counted(bar)
            result = work()
            self.advance[0] = lambda more: None
        return result, time.monotonic() - start

    def _curve(self) -> tuple[list[float], list[str]]:
        """What the best chains of 1..K levels are expected to cost on images like those that were tuned on."""
        from ddpm.evaluation.rate import plot_levels
        from ddpm.scored import chosen_levels

        most = self.options.levels or 1
        costs = chosen_levels(self.model, most).bits.tolist()
        path = self.options.folder(self.model) / "levels.png"
        plot_levels(costs, path)
        shown = [k for k in SHOWN_LEVELS if k < most] + [most]
        curve = ", ".join(f"{costs[k - 1]:.3f} at {k}" for k in shown)
        return costs, [f"expected from the tuned errors, by number of levels: {curve} ({path})"]

    def _unfinished(self, full: FullSum) -> Result:
        missing = len(full.missing())
        line = f"{full.shards - missing:,} of {full.shards:,} shards are there; the rest are other processes' share."
        return {"shards": full.shards, "missing": missing, "folder": str(full.folder)}, [line]


def _seconds_per_call(scoring: Scoring) -> float:
    """Time one batch after another that nobody times."""
    import numpy as np

    from ddpm.likelihood.scoring import Calls

    count = min(scoring.batch_size, 32)
    zeros = np.zeros(count, np.int64)
    for _ in range(2):
        start = time.monotonic()
        scoring.terms(Calls(zeros, zeros + scoring.chain.steps, zeros), "timing")
    return (time.monotonic() - start) / count


def _about(model: Model, scoring: Scoring, options: Options) -> dict[str, Any]:
    denoiser, chain = scoring.denoiser, scoring.chain
    measured = denoiser.measured
    return {
        "weights": model.weights,
        "variance": denoiser.variance,
        "levels": chain.steps,
        "of_levels": denoiser.process.schedule.steps,
        "clip": denoiser.clip,
        "seed": options.seed,
        "side_files": [] if measured is None else [measured.source],
    }


def _header(model: Model, images: ImageSet, scoring: Scoring, about: dict[str, Any]) -> list[str]:
    levels = f"all {about['levels']:,} levels"
    if about["levels"] < about["of_levels"]:
        levels = f"the best {about['levels']:,} of {about['of_levels']:,} levels"
    clipping = "clipped to [-1, 1]" if about["clip"] else "not clipped"
    return [
        f"{images.name}: {len(scoring.images):,} images of {images.geometry}",
        f"{model.weights} weights of {model.source}, {model.images_seen:,} images seen",
        f"variance {about['variance']}, {levels}, predicted clean images {clipping}",
    ]


def _term_lines(bound: Bound) -> list[str]:
    width = max(len(name) for name in ("total", "prior", "steps", "decoder"))
    terms = (("total", bound.total), ("prior", bound.prior), ("steps", bound.steps), ("decoder", bound.decoder))
    return [f"  {name:{width}}  {_number(estimate.value, estimate.error)}" for name, estimate in terms]


def _number(value: float, error: float, digits: int = 5) -> str:
    """A value and its standard error, where there is one."""
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if error == error else "")


def _cost(calls: int, seconds: float, error_of: str) -> str:
    return f"{calls:,} network calls, {duration(seconds)}; ± one standard error ({error_of})"


def _rate_lines(profile: Profile) -> list[str]:
    lines = ["reverse steps      t   rate (bits/dim)         RMSE (0-255)"]
    lines += [
        f"{row['reverse_steps']:13,} {row['t']:6,} {row['rate']:17.5f} {_number(row['rmse'], row['rmse_error'], 2):>20}"
        for row in profile.rows()
    ]
    return lines


def _ode_lines(ode: OdeBound, seconds: float) -> list[str]:
    return [
        "",
        f"bits per dimension by the probability-flow ODE, {ode.images} images, {ode.steps} Runge-Kutta steps, "
        f"{ode.trace} trace; dequantised by {ode.dequantisation}",
        f"  total    {_number(*ode.total)}",
        f"  flow     {_number(*ode.flow)}",
        f"  decoder  {_number(*ode.decoder)}",
        _cost(ode.calls, seconds, ode.error_of) + ("; not clipped" if ode.steps else ""),
    ]


def _beside(table: dict[str, Any], lines: list[str], options: Options) -> Result:
    """Bound and ODE side by side, with the place of a real code's length."""
    if {"bits", "ode"} <= set(options.metrics) and "total" in table["bits"]:
        lengths = {"bound": table["bits"]["total"], "ode": table["ode"]["total"], "code": None}
        lines += ["", f"{'bound':>18} {'ODE':>20} {'real code':>20}"]
        lines += [f"{_number(**lengths['bound']):>18} {_number(**lengths['ode']):>20} {'not measured':>20}"]
        table["lengths"] = lengths
    return table, lines
