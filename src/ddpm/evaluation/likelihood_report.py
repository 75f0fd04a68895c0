"""What images cost under a model, in bits/dim: the variational bound (VLB), rate-distortion, the ODE, real files."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.base.progress import Progress, progress_of
from ddpm.data.sources import ImageData
from ddpm.errors import InputError
from ddpm.evaluation.codec_measurement import prepared_code
from ddpm.evaluation.full_sum import FullSum, full_sum
from ddpm.evaluation.rate_plots import RATE_FILES, plot_levels, without_nan, write_rate_distortion
from ddpm.evaluation.result_files import ResultFiles
from ddpm.likelihood.estimate import Estimate, VariationalBound, check_calls, estimate_bound
from ddpm.likelihood.monte_carlo import Scoring
from ddpm.likelihood.ode_bound import OdeBound, calls_per_image, images_within, ode_bound
from ddpm.likelihood.rate_distortion import RateDistortion, calls_per_step, estimate_rate_distortion
from ddpm.model.checkpoint import results_folder
from ddpm.model.datasets import images_for
from ddpm.model.labels import MATCH, Labels, labelling
from ddpm.model.model import Model
from ddpm.model.scoring import best_chains, scoring_for
from ddpm.model.trained_on import TrainedOn, trained_on
from ddpm.model.variances import read_variances

LEVELS_FILE = "levels.png"
CALLS = 4096  # network calls of an estimate by default
SHOWN_LEVELS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True, eq=False)
class LikelihoodReport:
    """What `ddpm.evaluate_likelihood` returns; what was not asked for is None.

    about   model, data and settings, as plain values
    bound   total = prior + steps + decoder, in bits/dim, each with an error; None while shards are missing
    rate    rate and distortion by level; likewise
    ode     bits/dim by the probability-flow ODE
    code    bits/dim of real, lossless .dpc files
    curve   expected bits/dim of the best 1..K levels
    files   that were written
    lost    a sentence for each file that could not be
    seen    whether the model was trained on the images
    missing shards of a full sum that other processes have still to compute
    """

    about: dict[str, Any]
    bound: VariationalBound | None
    rate: RateDistortion | None
    ode: OdeBound | None
    code: Estimate | None
    curve: tuple[float, ...]
    files: tuple[Path, ...]
    seen: TrainedOn
    lost: tuple[str, ...] = ()
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
        about, used = self.about, self.about["levels_used"]
        levels = f"all {about['of_levels']:,}" if used == "all" else f"the best {len(used):,} of {about['of_levels']:,}"
        span = "" if used == "all" else f" ({used[0]} to {used[-1]})"
        clipping = "clipped to [-1, 1]" if about["clip"] else "not clipped"
        lines = [
            f"{about['data']}: {about['images']:,} images of {about['geometry']}",
            f"{about['weights']} weights of {about['model']}, {about['images_seen']:,} images seen",
            f"variance {about['variance']}, {levels} levels{span}, predicted clean images {clipping}",
            *([f"{about['labels']}"] if about["labels"] else []),
            *self.seen.sentences(),
        ]
        if self.missing:
            lines += ["", f"{self.missing:,} shards are missing: other processes compute them."]
        if self.bound is not None:
            lines += ["", "variational bound (VLB), bits/dim"]
            lines += _terms(self.bound, "total", "prior", "steps", "decoder")
        if self.curve:
            most = len(self.curve)
            shown = [k for k in SHOWN_LEVELS if k < most] + [most]
            at = ", ".join(f"{self.curve[k - 1]:.3f} at {k}" for k in shown)
            lines.append(f"expected from the tuned errors: {at} levels")
        if self.rate is not None:
            header = "reverse steps      t   rate (bits/dim)        RMSE (0-255)"
            lines += ["", header, *map(_rate_line, self.rate.rows())]
        if self.ode is not None:
            lines += ["", "probability-flow ODE, bits/dim", *_terms(self.ode, "total", "flow", "decoder")]
            lines.append(f"  {self.ode.steps} Runge-Kutta steps, {self.ode.trace} trace; {self.ode.dequantisation}")
        totals = {"VLB": self.bound, "ODE": self.ode}
        side = [f"{name:7}  {number(one.total)} ({one.images:,} images)" for name, one in totals.items() if one]
        if self.code is not None:
            side.append(f"{'code':7}  {number(self.code)} (lossless .dpc files)")
        if len(side) > 1:
            lines += ["", "side by side, bits/dim", *(f"  {line}" for line in side)]
        return [*lines, "", f"Files: {', '.join(map(str, self.files))}."] if self.files else lines


def evaluate_likelihood(
    model: Model,
    data: ImageData,
    *,
    calls: int | None = None,
    full: bool = False,
    shard: str | None = None,
    variance: str | None = None,
    levels: int | None = None,
    labels: Labels = MATCH,
    size: str | int | None = None,
    fit: str | None = None,
    alpha: str | None = None,
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

    data          images that the model never saw
    calls         network calls of each estimate in all; None is 4096, and at least one at each level for `rate`
    full          instead of estimates, every level of every image, in shards that survive a stop
    shard         "i/n": of a full sum, only this process's share
    variance      of the reverse steps: "large", "small", "optimal" (after tune_variance); None is the model's own
    levels        K: only the best K levels for the bound (after tune_variance); None takes all
    labels        how their classes become the model's: "match" (by name), "ignore", or by name of theirs the model's,
                  {"Katze": "cat"} or "Katze=cat"; a model trained with label drop-out needs no class
    size, fit, alpha  bring other images to the model's size and channels, see model.datasets.images_for
    rate          also rate and distortion by level (Ho et al. 2020, Fig. 5 and Table 4)
    ode           also bits/dim by the probability-flow ODE (Song et al. 2021)
    solver_steps  of the ODE, five network calls each
    codec         also bits/dim of real, lossless .dpc files (after tune_codec), on at most 200 images
    limit         only so many of the images, drawn by the seed
    seed          of images, levels and noises
    batch_size    images in a network call
    out           folder for full sums, rate plots and the curve of levels; None is evaluation/ in the run

    Errors: InputError for images of another geometry or class set, none at all, or those that were tuned on, for too
    few calls, and for variances that were not measured; WrongModel and DamagedFile for side files. A plot or a table
    that cannot be written is a warning; the report's `lost` names it.
    """
    report_to = progress_of(progress)
    images = images_for(model, data, size=size, fit=fit, alpha=alpha)
    part = _part(shard, full=full)
    scoring = scoring_for(
        model, images, variance=variance, levels=levels, labels=labels, limit=limit, seed=seed, batch_size=batch_size
    )
    budget = _budget(calls, scoring, full=full, rate=rate, solver_steps=solver_steps if ode else None)
    folder = results_folder(model.source, out) if out is not None or full or rate else None
    measured_code = prepared_code(model, images, limit) if codec else None
    names = [*(RATE_FILES if rate else ()), *([LEVELS_FILE] if levels is not None and folder is not None else ())]
    kept = ResultFiles(folder or Path(), names)
    seen = trained_on(model, images, scoring.images.rows)
    about = _about(model, images.name, scoring, labelling(model, images, labels).remark) | {"trained_on": seen.table()}
    if scoring.denoiser.measured is not None:
        tuned = read_variances(model)
        used = f"measured on {len(tuned.image_hashes):,} images of {tuned.data}"
        report_to.say(f"Variances: {tuned.measured.source}, {used}.")
    if full:
        assert folder is not None
        bound, profile, missing = _summed(full_sum(model, scoring, folder), part, rate=rate, progress=report_to)
    else:
        bound, profile, missing = *_estimated(scoring, budget, report_to), 0
    if profile is not None:
        write_rate_distortion(profile, kept, about)
    flow = None
    if ode:
        with scoring.shown(report_to, "ODE", budget.ode) as counted:
            flow = ode_bound(counted, calls=budget.calls, steps=solver_steps)
    curve = () if levels is None else tuple(best_chains(model, levels).bits.tolist())
    if curve and folder is not None:
        kept.write(LEVELS_FILE, lambda path: plot_levels(curve, path))
    code = None if measured_code is None else measured_code(report_to)
    files, lost = tuple(kept.written), tuple(kept.lost)
    return LikelihoodReport(about, bound, profile, flow, code, curve, files, seen, lost, missing)


class _Budget(NamedTuple):
    """Network calls asked for, of each estimate; those that rate-distortion and the ODE will make, 0 if not wanted."""

    calls: int
    rate: int
    ode: int


def _budget(calls: int | None, scoring: Scoring, *, full: bool, rate: bool, solver_steps: int | None) -> _Budget:
    """Refuse too few calls, and an ODE that the network does not have, before the first call."""
    if full and calls is not None and solver_steps is None:
        raise InputError("a full sum takes every level of every image: leave calls out.")
    steps, most = scoring.chain.steps, CALLS if calls is None else calls
    of_rate = of_ode = 0
    if not full:
        check_calls(most)
        if rate:
            of_rate = steps * calls_per_step(max(most, steps) if calls is None else calls, steps)
    if solver_steps is not None:
        if scoring.denoiser.prediction == "mean":
            raise InputError(f"the ODE needs a network of eps, x0 or v; {scoring.name} predicts 'mean'.")
        of_ode = calls_per_image(solver_steps) * min(images_within(most, solver_steps), len(scoring.images))
    return _Budget(most, of_rate, of_ode)


def _part(shard: str | None, *, full: bool) -> tuple[int, int]:
    """Which shards of a full sum are this process's: (i, n) from "i/n"."""
    if shard is not None and not full:
        raise InputError("a shard is a share of a full sum: ask for full as well.")
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard or "1/1")
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"shard '{shard}' is not a share of the work: write 1/4 to 4/4.")
    return int(match[1]), int(match[2])


def _estimated(
    scoring: Scoring, budget: _Budget, progress: Progress
) -> tuple[VariationalBound | None, RateDistortion | None]:
    with scoring.shown(progress, "Bound", budget.calls) as counted:
        bound = estimate_bound(counted, budget.calls)
    if not budget.rate:
        return bound, None
    with scoring.shown(progress, "Rate and distortion", budget.rate) as counted:
        return bound, estimate_rate_distortion(counted, budget.rate)


def _summed(
    sums: FullSum, part: tuple[int, int], *, rate: bool, progress: Progress
) -> tuple[VariationalBound | None, RateDistortion | None, int]:
    """Compute this process's missing shards, and add all up if none is missing then: its number comes last."""
    progress.say(f"{sums.shards:,} shards in {sums.folder}; after a stop the same command goes on.")
    sums.compute(part, progress)
    missing = len(sums.missing())
    if missing:
        return None, None, missing
    return sums.bound(), sums.rate_distortion() if rate else None, 0


def _about(model: Model, data: str, scoring: Scoring, labels: str) -> dict[str, Any]:
    denoiser, chain = scoring.denoiser, scoring.chain
    whole = denoiser.process.schedule.steps
    return {
        "model": model.source,
        "weights": model.weights,
        "images_seen": model.images_seen,
        "data": data,
        "images": len(scoring.images),
        "geometry": str(model.geometry),
        "variance": denoiser.variance,
        "levels": chain.steps,
        "of_levels": whole,
        "levels_used": "all" if chain.steps == whole else chain.levels[1:].tolist(),
        "clip": denoiser.threshold != "none",
        "labels": labels,
        "seed": scoring.seed,
        "side_files": [] if denoiser.measured is None else [denoiser.measured.source],
    }


def _terms(found: VariationalBound | OdeBound, *names: str) -> list[str]:
    """A line for each of its numbers, and how they were made."""
    numbers = [number(getattr(found, name)) for name in names]
    width = max(map(len, numbers))
    lines = [f"  {name:7}  {shown:>{width}}" for name, shown in zip(names, numbers, strict=True)]
    return [*lines, f"  {found.calls:,} network calls; ± one standard error ({found.error_of})"]


def number(estimate: Estimate, digits: int = 5) -> str:
    """A value and its standard error, where there is one."""
    error = f" ± {estimate.error:.{digits}f}" if estimate.error == estimate.error else ""
    return f"{estimate.value:.{digits}f}{error}"


def _rate_line(row: dict[str, float]) -> str:
    rmse = number(Estimate(row["rmse"], row["rmse_error"]), 2)
    return f"{row['reverse_steps']:13,} {row['t']:6,} {row['rate']:17.5f} {rmse:>19}"
