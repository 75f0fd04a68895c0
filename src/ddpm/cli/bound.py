"""The metrics of ddpm evaluate that cost bits: the bound, rate and distortion, the ODE."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ddpm.cli.console import counted, duration, progress_bar, say
from ddpm.cli.evaluate_options import SOLVER_STEPS, Options

if TYPE_CHECKING:
    from ddpm.data import ImageSet
    from ddpm.evaluation import FullSum
    from ddpm.likelihood.estimate import Bound
    from ddpm.likelihood.scoring import Scoring
    from ddpm.model import Model

SHOWN_LEVELS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
PROBE_CALLS = 16

Result = tuple[dict[str, Any], list[str]]
Found = TypeVar("Found")


def bound_metrics(model: Model, images: ImageSet, options: Options) -> Result:
    """Compute the bits, rate and ode that were asked for: what goes into the JSON, and lines for a person."""
    from ddpm.scored import Manner, scoring_for

    scoring = scoring_for(
        model,
        images,
        Manner(options.variance, options.levels),
        limit=options.limit,
        seed=options.seed or 0,
        batch_size=options.scored_at_once,
    )
    options.check_with(model, scoring)
    if scoring.denoiser.measured is not None:
        say_tuned(model)
    about = _about(model, scoring)
    table: dict[str, Any] = {}
    lines = _header(model, images, scoring)
    for metric, measure in (("bits", _bits), ("rate", _rate), ("ode", _ode)):
        if metric in options.metrics:
            found, said = measure(model, scoring, options)
            table[metric] = found | about
            lines += ["", *said]
    if "total" in table.get("bits", {}) and "ode" in table:
        lines += ["", *_beside(table)]
    return table, lines


def say_tuned(model: Model) -> None:
    """Say which side file is used."""
    tuned = model.read_tuned()
    say(f"Variances: {tuned.measured.source}, measured on {len(tuned.image_hashes):,} images of {tuned.data}.")


def _bits(model: Model, scoring: Scoring, options: Options) -> Result:
    from ddpm.likelihood.estimate import estimate_bound

    kind = "estimate"
    if options.full:
        full, calls, seconds = _full(model, scoring, options)
        if full.missing():
            return _unfinished(full)
        bound, kind = full.bound(), "full sum"
    else:
        calls = options.budget
        bound, seconds = _timed(scoring, calls, lambda counting: estimate_bound(counting, calls))
    found = asdict(bound) | {"calls_now": calls, "seconds": round(seconds, 2)}
    lines = [f"bits per dimension, {kind} of the variational bound", *_term_lines(bound)]
    lines.append(_cost(bound.calls, calls, seconds, bound.error_of))
    if options.levels is not None:
        found["curve"], line = _curve(model, options)
        lines.append(line)
    return found, lines


def _rate(model: Model, scoring: Scoring, options: Options) -> Result:
    from ddpm.evaluation.rate import write_profile
    from ddpm.likelihood.profile import estimate_profile

    if options.full:
        full, calls, seconds = _full(model, scoring, options)
        if full.missing():
            return _unfinished(full)
        profile = full.profile()
    else:
        steps = scoring.chain.steps
        calls = max(options.budget // steps, 1) * steps
        profile, seconds = _timed(scoring, calls, lambda counting: estimate_profile(counting, calls))
    files = [str(file) for file in write_profile(profile, options.folder, _about(model, scoring))]
    lines = ["reverse steps      t   rate (bits/dim)        RMSE (0-255)"]
    lines += [
        f"{row['reverse_steps']:13,} {row['t']:6,} {row['rate']:17.5f} {_number(row['rmse'], row['rmse_error'], 2):>19}"
        for row in profile.rows()
    ]
    lines += [f"{calls:,} network calls, {duration(seconds)}", f"every level and the plot: {', '.join(files)}"]
    return {"rows": profile.rows(), "files": files, "calls_now": calls, "seconds": round(seconds, 2)}, lines


def _ode(model: Model, scoring: Scoring, options: Options) -> Result:
    from ddpm.evaluation.ode import calls_per_image, images_within, ode_bound

    steps = options.steps or SOLVER_STEPS
    images = min(images_within(options.budget, steps), len(scoring.images))
    calls = calls_per_image(steps) * images
    start = time.monotonic()
    ode_bound(scoring, calls=calls_per_image(1) * max(images, 2), steps=1)
    each = (time.monotonic() - start) / (calls_per_image(1) * images)
    ode, seconds = _timed(scoring, calls, lambda counting: ode_bound(counting, calls=options.budget, steps=steps), each)
    found = asdict(ode) | {"solver_steps": steps, "seconds": round(seconds, 2)}
    lines = [
        "bits per dimension by the probability-flow ODE",
        f"{ode.images} images, {steps} Runge-Kutta steps, {ode.trace} trace, the flow not clipped",
        f"dequantised by {ode.dequantisation}",
        f"  total    {_number(ode.total.value, ode.total.error)}",
        f"  flow     {_number(ode.flow.value, ode.flow.error)}",
        f"  decoder  {_number(ode.decoder.value, ode.decoder.error)}",
        _cost(calls, calls, seconds, ode.error_of),
    ]
    return found, lines


def _full(model: Model, scoring: Scoring, options: Options) -> tuple[FullSum, int, float]:
    """Compute this process's missing shards; the network calls that took, and the seconds."""
    from ddpm.evaluation import full_sum

    full = full_sum(model, scoring, options.folder)
    calls = full.calls(options.part)
    say(f"{full.shards:,} shards in {full.folder}; the same command goes on after a stop.")
    _, seconds = _timed(scoring, calls, lambda counting: replace(full, scoring=counting).compute(options.part))
    return full, calls, seconds


def _timed(
    scoring: Scoring, calls: int, work: Callable[[Scoring], Found], each: float | None = None
) -> tuple[Found, float]:
    """Say what it will take (`each` seconds a call, measured if not given), do it, and take the time."""
    if calls:
        say(f"{calls:,} network calls, about {duration(calls * (each or _seconds_per_call(scoring)))}.")
    start = time.monotonic()
    with progress_bar("Network calls", calls) as bar:
        found = work(replace(scoring, on_calls=counted(bar)))
    return found, time.monotonic() - start


def _seconds_per_call(scoring: Scoring) -> float:
    """Time one small batch after another that nobody times."""
    import numpy as np

    from ddpm.likelihood.scoring import Calls

    zeros = np.zeros(min(scoring.batch_size, PROBE_CALLS), np.int64)
    start = 0.0
    for _ in range(2):
        start = time.monotonic()
        scoring.terms(Calls(zeros, zeros + scoring.chain.steps, zeros), "timing")
    return (time.monotonic() - start) / len(zeros)


def _curve(model: Model, options: Options) -> tuple[list[float], str]:
    """What the best chains of 1..K levels are expected to cost on images like those that were tuned on."""
    from ddpm.evaluation.rate import plot_levels
    from ddpm.scored import chosen_levels

    most = options.levels or 1
    costs = chosen_levels(model, most).bits.tolist()
    shown = [k for k in SHOWN_LEVELS if k < most] + [most]
    line = "expected from the tuned errors: " + ", ".join(f"{costs[k - 1]:.3f} at {k}" for k in shown) + " levels"
    if options.keep is not None:
        path = options.folder / "levels.png"
        plot_levels(costs, path)
        line += f" ({path})"
    return costs, line


def _unfinished(full: FullSum) -> Result:
    missing = len(full.missing())
    line = f"{full.shards - missing:,} of {full.shards:,} shards are there; the rest are other processes' share."
    return {"shards": full.shards, "missing": missing, "folder": str(full.folder)}, [line]


def _about(model: Model, scoring: Scoring) -> dict[str, Any]:
    denoiser, chain = scoring.denoiser, scoring.chain
    return {
        "weights": model.weights,
        "variance": denoiser.variance,
        "levels": chain.steps,
        "of_levels": denoiser.process.schedule.steps,
        "levels_used": "all" if chain.steps == denoiser.process.schedule.steps else chain.levels[1:].tolist(),
        "clip": denoiser.threshold != "none",
        "seed": scoring.seed,
        "side_files": [] if denoiser.measured is None else [denoiser.measured.source],
    }


def _header(model: Model, images: ImageSet, scoring: Scoring) -> list[str]:
    chain, whole = scoring.chain, scoring.denoiser.process.schedule.steps
    levels = f"all {whole:,} levels"
    if chain.steps < whole:
        levels = f"the best {chain.steps:,} of {whole:,} levels ({chain.levels[1]} to {chain.levels[-1]})"
    clipping = "clipped to [-1, 1]" if scoring.denoiser.threshold != "none" else "not clipped"
    return [
        f"{images.name}: {len(scoring.images):,} images of {images.geometry}",
        f"{model.weights} weights of {model.source}, {model.images_seen:,} images seen",
        f"variance {scoring.denoiser.variance}, {levels}, predicted clean images {clipping}",
    ]


def _term_lines(bound: Bound) -> list[str]:
    terms = (("total", bound.total), ("prior", bound.prior), ("steps", bound.steps), ("decoder", bound.decoder))
    return [f"  {name:7}  {_number(estimate.value, estimate.error)}" for name, estimate in terms]


def _number(value: float, error: float, digits: int = 5) -> str:
    """A value and its standard error, where there is one."""
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if error == error else "")


def _cost(calls: int, now: int, seconds: float, error_of: str) -> str:
    those = "" if now == calls else f", {now:,} of them now"
    return f"{calls:,} network calls{those}, {duration(seconds)}; ± one standard error ({error_of})"


def _beside(table: dict[str, Any]) -> list[str]:
    """Bound and ODE side by side, each with its number of images, and the place of a real code's length."""
    lengths = {"bound": table["bits"], "ode": table["ode"]}
    table["lengths"] = {name: row["total"] | {"images": row["images"]} for name, row in lengths.items()}
    table["lengths"]["code"] = None
    names = [f"{name} ({row['images']:,} images)" for name, row in lengths.items()]
    numbers = [_number(**row["total"]) for row in lengths.values()]
    return [
        "".join(f"{name:>24}" for name in (*names, "real code")),
        "".join(f"{number:>24}" for number in (*numbers, "not measured")),
    ]
