"""What images cost under a model, in bits/dim: the variational bound (VLB), rate-distortion, the ODE, real files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ddpm.base.progress import Progress, progress_of
from ddpm.data import ImageData
from ddpm.errors import InputError
from ddpm.evaluation.codec_measurement import prepared_code
from ddpm.evaluation.full_sum import full_sum
from ddpm.evaluation.rate_plots import plot_levels, without_nan, write_rate_distortion
from ddpm.likelihood.estimate import FEWEST_CALLS, Estimate, VariationalBound, estimate_bound
from ddpm.likelihood.monte_carlo import Scoring
from ddpm.likelihood.ode_bound import OdeBound, calls_per_image, images_within, ode_bound
from ddpm.likelihood.rate_distortion import RateDistortion, estimate_rate_distortion
from ddpm.model.checkpoint import results_folder
from ddpm.model.datasets import images_for
from ddpm.model.model import Model, checked_model
from ddpm.model.scoring import ScoringOptions, best_chains, scoring_for
from ddpm.model.variances import read_variances

CALLS = 4096  # network calls of an estimate, if nobody says otherwise
SHOWN_LEVELS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True, eq=False)
class LikelihoodReport:
    """What `ddpm.evaluate_likelihood` returns; what was not asked for, or is other processes' share, is None.

    bound   total = prior + steps + decoder, in bits/dim, each with an error
    rate    rate and distortion by level
    ode     bits/dim by the probability-flow ODE
    code    bits/dim of real, lossless .dpc files
    curve   expected bits/dim of the best 1..K levels
    about   what the numbers depend on, as plain values
    header  the same, for a person
    notes   costs and files, for a person
    files   that were written
    missing shards of a full sum that other processes have still to compute
    """

    bound: VariationalBound | None
    rate: RateDistortion | None
    ode: OdeBound | None
    code: Estimate | None
    curve: tuple[float, ...]
    about: dict[str, Any]
    header: tuple[str, ...]
    notes: tuple[str, ...]
    files: tuple[Path, ...]
    missing: int = 0

    def table(self) -> dict[str, Any]:
        """As plain values."""
        found: dict[str, Any] = {"about": self.about, "files": [str(file) for file in self.files]}
        for name, value in (("vlb", self.bound), ("ode", self.ode), ("code", self.code)):
            if value is not None:
                found[name] = asdict(value)
        if self.rate is not None:
            found["rate"] = self.rate.rows()
        if self.curve:
            found["curve"] = list(self.curve)
        if self.missing:
            found["missing_shards"] = self.missing
        return dict(without_nan(found))

    def lines(self) -> list[str]:
        """For a person."""
        lines = list(self.header)
        if self.bound is not None:
            lines += ["", "variational bound (VLB), bits/dim"]
            terms = ("total", "prior", "steps", "decoder")
            lines += [f"  {name:7}  {number(getattr(self.bound, name))}" for name in terms]
        if self.curve:
            most = len(self.curve)
            shown = [k for k in SHOWN_LEVELS if k < most] + [most]
            at = ", ".join(f"{self.curve[k - 1]:.3f} at {k}" for k in shown)
            lines.append(f"expected from the tuned errors: {at} levels")
        if self.rate is not None:
            lines += [
                "",
                "reverse steps      t   rate (bits/dim)        RMSE (0-255)",
                *map(_rate_line, self.rate.rows()),
            ]
        if self.ode is not None:
            lines += ["", "probability-flow ODE, bits/dim"]
            lines += [f"  {name:7}  {number(getattr(self.ode, name))}" for name in ("total", "flow", "decoder")]
            lines.append(f"  {self.ode.steps} Runge-Kutta steps, {self.ode.trace} trace; {self.ode.dequantisation}")
        lengths = self._lengths()
        if len(lengths) > 1:
            lines += ["", "side by side", *(f"  {name:7}  {value}" for name, value in lengths)]
        return [*lines, "", *self.notes]

    def _lengths(self) -> list[tuple[str, str]]:
        lengths = []
        if self.bound is not None:
            lengths.append(("VLB", f"{number(self.bound.total)} ({self.bound.images:,} images)"))
        if self.ode is not None:
            lengths.append(("ODE", f"{number(self.ode.total)} ({self.ode.images:,} images)"))
        if self.code is not None:
            lengths.append(("code", f"{number(self.code)} (lossless .dpc files)"))
        return lengths


def evaluate_likelihood(
    model: Model,
    data: ImageData,
    *,
    calls: int | None = None,
    full: bool = False,
    shard: str | None = None,
    variance: str | None = None,
    levels: int | None = None,
    rate: bool = False,
    ode: bool = False,
    solver_steps: int = 40,
    codec: bool = False,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    out: str | Path | None = None,
    progress: Progress | bool = True,
) -> LikelihoodReport:
    """Estimate or compute what images cost, in bits/dim; everything is checked before the first network call.

    data          images that the model never saw, of its geometry and classes
    calls         network calls of each estimate in all; None is 4096
    full          instead of estimates, every level of every image, in shards that survive a stop
    shard         "i/n": of a full sum, only this process's share
    variance      of the reverse steps: "large", "small", "optimal" (after tune_variance); None is the model's own
    levels        K: only the best K levels for the bound (after tune_variance); None takes all
    rate          also rate and distortion by level (Ho et al. 2020, Fig. 5 and Table 4)
    ode           also bits/dim by the probability-flow ODE (Song et al. 2021)
    solver_steps  of the ODE, four network calls each
    codec         also bits/dim of real, lossless .dpc files (after tune_codec), on at most 200 images
    limit         only so many of the images, drawn by the seed
    seed          of images, levels and noises
    batch_size    images in a network call
    out           folder for full sums, rate plots and the curve of levels; None is evaluation/ in the run

    Errors: InputError for images of another geometry or class set, none at all, or those that were tuned on, for too
    few calls, and for variances that were not measured; WrongModel and DamagedFile for side files.
    """
    report_to = progress_of(progress)
    images = images_for(checked_model(model), data)
    budget = _budget(calls, full=full, ode=ode)
    part = _part(shard, full=full)
    chosen = ScoringOptions(variance, levels)
    scoring = scoring_for(model, images, chosen, limit=limit, seed=seed, batch_size=batch_size)
    _check(model, scoring, budget, full=full, rate=rate, solver_steps=solver_steps if ode else None)
    folder = results_folder(model.source, out) if out is not None or full or rate else None
    code = prepared_code(model, images, limit) if codec else None
    if chosen.tuned:
        tuned = read_variances(model)
        count = len(tuned.image_hashes)
        report_to.say(f"Variances: {tuned.measured.source}, measured on {count:,} images of {tuned.data}.")
    work = _Work(model, scoring, budget, folder, report_to)
    bound, profile, missing = work.sums(part, rate=rate) if full else (*work.estimates(rate=rate), 0)
    flow = work.ode(solver_steps) if ode else None
    curve = work.curve(levels) if levels is not None else ()
    return LikelihoodReport(
        bound,
        profile,
        flow,
        None if code is None else code(report_to),
        curve,
        work.about,
        work.header(images.name),
        work.closing_notes(),
        tuple(work.files),
        missing,
    )


def _budget(calls: int | None, *, full: bool, ode: bool) -> int:
    if calls is not None and calls < 1:
        raise InputError(f"calls must be at least 1, not {calls}.")
    if full and calls is not None and not ode:
        raise InputError("a full sum takes every level of every image: leave calls out.")
    return CALLS if calls is None else calls


def _part(shard: str | None, *, full: bool) -> tuple[int, int]:
    """Which shards of a full sum are this process's: (i, n) from "i/n"."""
    if shard is not None and not full:
        raise InputError("a shard is a share of a full sum: ask for full as well.")
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard or "1/1")
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"shard '{shard}' is not a share of the work: write 1/4 to 4/4.")
    return int(match[1]), int(match[2])


def _check(model: Model, scoring: Scoring, budget: int, *, full: bool, rate: bool, solver_steps: int | None) -> None:
    """Refuse, before the first network call, what would fail after some of them."""
    steps = scoring.chain.steps
    if not full and budget < FEWEST_CALLS:
        raise InputError(f"{budget} calls are too few for an estimate with an error: it takes {FEWEST_CALLS}.")
    if rate and not full and budget < steps and budget != CALLS:
        raise InputError(f"{budget} calls do not reach all {steps} levels for rate and distortion.")
    if solver_steps is not None:
        images_within(budget, solver_steps)
        if model.recipe.objective.prediction == "mean":
            raise InputError(f"the ODE needs a network of eps, x0 or v; '{model.source}' predicts 'mean'.")


class _Work:
    """The parts of one report, and what is to be said of them."""

    def __init__(self, model: Model, scoring: Scoring, budget: int, folder: Path | None, progress: Progress) -> None:
        self.model, self.scoring, self.budget, self.folder, self.progress = model, scoring, budget, folder, progress
        self.notes: list[str] = []
        self.files: list[Path] = []

    def estimates(self, *, rate: bool) -> tuple[VariationalBound, RateDistortion | None]:
        with self._counted("Bound", self.budget) as scoring:
            bound = estimate_bound(scoring, self.budget)
        self._note("VLB", bound.calls, bound.error_of)
        if not rate:
            return bound, None
        calls = max(self.budget // self.scoring.chain.steps, 1) * self.scoring.chain.steps
        with self._counted("Rate and distortion", calls) as scoring:
            found = estimate_rate_distortion(scoring, calls)
        return bound, self._written(found)

    def sums(self, part: tuple[int, int], *, rate: bool) -> tuple[VariationalBound | None, RateDistortion | None, int]:
        """Compute this process's missing shards, and add all up if none is missing then: its number comes last."""
        assert self.folder is not None
        full = full_sum(self.model, self.scoring, self.folder)
        self.progress.say(f"{full.shards:,} shards in {full.folder}; the same command goes on after a stop.")
        with self._counted("Full sum", full.calls(part)) as scoring:
            replace(full, scoring=scoring).compute(part)
        missing = len(full.missing())
        if missing:
            self.notes.append(
                f"{full.shards - missing:,} of {full.shards:,} shards are there; others compute the rest."
            )
            return None, None, missing
        bound = full.bound()
        self._note("VLB, full sum", bound.calls, bound.error_of)
        return bound, self._written(full.rate_distortion()) if rate else None, 0

    def ode(self, steps: int) -> OdeBound:
        count = min(images_within(self.budget, steps), len(self.scoring.images))
        with self._counted("ODE", count * calls_per_image(steps)) as scoring:
            found = ode_bound(scoring, calls=self.budget, steps=steps)
        self._note("ODE", found.calls, found.error_of)
        return found

    def curve(self, most: int) -> tuple[float, ...]:
        costs: Sequence[float] = best_chains(self.model, most).bits.tolist()
        if self.folder is not None:
            self.files.append(self.folder / "levels.png")
            plot_levels(costs, self.files[-1])
        return tuple(costs)

    def closing_notes(self) -> tuple[str, ...]:
        files = [f"Files: {', '.join(map(str, self.files))}."] if self.files else []
        return (*self.notes, *files)

    def _written(self, profile: RateDistortion) -> RateDistortion:
        assert self.folder is not None
        self.files += write_rate_distortion(profile, self.folder, self.about)
        return profile

    def _note(self, what: str, calls: int, error_of: str) -> None:
        self.notes.append(f"{what}: {calls:,} network calls; ± one standard error ({error_of}).")

    @contextmanager
    def _counted(self, title: str, calls: int) -> Iterator[Scoring]:
        """The scoring, its network calls shown as they are made."""
        with self.progress.stage(title, calls) as advance:
            yield replace(self.scoring, advance=advance)

    @property
    def about(self) -> dict[str, Any]:
        denoiser, chain = self.scoring.denoiser, self.scoring.chain
        whole = denoiser.process.schedule.steps
        return {
            "weights": self.model.weights,
            "variance": denoiser.variance,
            "levels": chain.steps,
            "of_levels": whole,
            "levels_used": "all" if chain.steps == whole else chain.levels[1:].tolist(),
            "clip": denoiser.threshold != "none",
            "seed": self.scoring.seed,
            "side_files": [] if denoiser.measured is None else [denoiser.measured.source],
        }

    def header(self, data: str) -> tuple[str, ...]:
        chain, whole = self.scoring.chain, self.scoring.denoiser.process.schedule.steps
        levels = f"all {whole:,} levels"
        if chain.steps < whole:
            levels = f"the best {chain.steps:,} of {whole:,} levels ({chain.levels[1]} to {chain.levels[-1]})"
        clipping = "clipped to [-1, 1]" if self.scoring.denoiser.threshold != "none" else "not clipped"
        return (
            f"{data}: {len(self.scoring.images):,} images of {self.model.geometry}",
            f"{self.model.weights} weights of {self.model.source}, {self.model.images_seen:,} images seen",
            f"variance {self.scoring.denoiser.variance}, {levels}, predicted clean images {clipping}",
        )


def number(estimate: Estimate, digits: int = 5) -> str:
    """A value and its standard error, where there is one."""
    error = f" ± {estimate.error:.{digits}f}" if estimate.error == estimate.error else ""
    return f"{estimate.value:.{digits}f}{error}"


def _rate_line(row: dict[str, float]) -> str:
    rmse = number(Estimate(row["rmse"], row["rmse_error"]), 2)
    return f"{row['reverse_steps']:13,} {row['t']:6,} {row['rate']:17.5f} {rmse:>19}"
