"""ddpm tune."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm.cli import options
from ddpm.cli.console import counted, duration, print_result, progress_bar, rounded, say
from ddpm.errors import InputError

if TYPE_CHECKING:
    from ddpm.data import ImageSet
    from ddpm.evaluation.criterion import Criterion
    from ddpm.model import Model
    from ddpm.placed import Placed

TRIALS, PICTURES = 32, 1024

Result = tuple[dict[str, Any], list[str]]


def tune(
    run: Annotated[str, typer.Argument(help="A run folder or a checkpoint.")],
    variance: Annotated[bool, typer.Option("--variance", help="The optimal variance of every reverse step.")] = False,
    codec: Annotated[
        bool, typer.Option("--codec", help="What compress needs: levels, bits, a model of pixels.")
    ] = False,
    steps: Annotated[
        str | None, typer.Option(help="Place so many levels for sampling, one number or several: 5,8,10.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="--steps: the sampler that they are for (dpm++sde).")] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(help="--steps: what pictures are judged by: pixels, or a torch.export program's file; or both."),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="--steps: levels tried for each number of steps (32).")
    ] = None,
    pictures: Annotated[int | None, typer.Option(min=1, help="--steps: pictures drawn for each trial (1024).")] = None,
    data: Annotated[str | None, typer.Option(help="Images to measure on (the run's own training images).")] = None,
    calls: Annotated[
        int | None, typer.Option(help="--variance: network calls in all (32 a level, more at the first).")
    ] = None,
    fit_steps: Annotated[
        int | None, typer.Option(min=1, help="--codec: steps of the pixel model's optimiser (8000).")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="--codec: replace what is there; files made with it become unreadable.")
    ] = False,
    out: Annotated[
        str | None, typer.Option(help="linear --codec: the folder of a new linear model, measured on --data.")
    ] = None,
    weights: options.Weights = "averaged",
    seed: Annotated[int, typer.Option(help="Which images and noises.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a call.")] = 128,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Measure once what is stored beside a checkpoint: variances, levels for few steps, what the codec needs."""
    from ddpm.checkpoint import is_linear

    numbers = _numbers(steps)
    placing = {"sampler": sampler, "features": features, "trials": trials, "pictures": pictures}
    coding = {"fit-steps": fit_steps, "force": force or None}
    _check(variance, numbers, codec, calls=calls, placing=placing, coding=coding)
    settings = {"seed": seed, "force": force, "fit_steps": fit_steps, "batch_size": batch_size}
    if out is not None or (codec and is_linear(run)):
        if weights != "averaged":
            raise InputError("a linear model has averaged weights only; leave --weights out.")
        print_result(*_linear(run, data, out, codec and not (variance or numbers), device, settings), as_json=as_json)
        return
    model, images = _opened(run, data, weights, device)
    if codec:
        _check_codec(model, force=force)
    place = _placing(model, images, numbers, placing, seed, batch_size) if numbers else None
    results = [_variance(model, images, calls, seed, batch_size)] if variance else []
    results += [place()] if place is not None else []
    results += [_codec(model, images, settings)] if codec else []
    table = {key: value for found, _ in results for key, value in found.items()}
    print_result(table, [line for _, lines in results for line in lines], as_json=as_json)


def _check_codec(model: Model, *, force: bool) -> None:
    from ddpm.codec.calibrate import check_tunable

    check_tunable(model, force=force)


def _opened(run: str, data: str | None, weights: str, device: str) -> tuple[Model, ImageSet]:
    import ddpm
    from ddpm.opened import model_images, training_images
    from ddpm.scored import check_fits

    model = ddpm.load(run, weights=weights, device=device)
    images = training_images(model, option="--data") if data is None else model_images(model, data, split="train")
    check_fits(model, images)
    return model, images


def _placing(
    model: Model, images: ImageSet, numbers: list[int], asked: dict[str, Any], seed: int, batch_size: int
) -> Callable[[], Result]:
    """Refuse all that can be refused of a placing of levels; what is handed out then does it."""
    from ddpm.evaluation.criterion import criterion_on
    from ddpm.evaluation.placing import check_placing
    from ddpm.samplers import Sampling

    method, trials = Sampling(asked["sampler"], 1).method, asked["trials"] or TRIALS
    check_placing(model, method, numbers, trials)
    pictures = asked["pictures"] or PICTURES
    judged = criterion_on(model, images, asked["features"] or ["pixels"], pictures=pictures, seed=seed)
    return lambda: _levels(model, judged, method, numbers, trials, batch_size)


def _linear(run: str, data: str | None, out: str | None, alone: bool, device: str, settings: dict[str, Any]) -> Result:
    """A new linear model with its codec data."""
    import ddpm
    from ddpm.checkpoint import LINEAR, is_linear
    from ddpm.codec.linear import linear_images, make_linear

    if not is_linear(run) or not alone or data is None or out is None:
        would = f"`ddpm tune {LINEAR} --codec --data SRC --out DIR` would fit"
        raise InputError(f"--codec of {LINEAR} is fixed, and --out is for a new linear model; {would}.")
    images = linear_images(data)
    return _codec(ddpm.load(make_linear(images, out), device=device), images, settings)


def _codec(model: Model, images: ImageSet, settings: dict[str, Any]) -> Result:
    from ddpm.cli.compress import make_codec_data
    from ddpm.codec.tables import codec_data_of

    path = make_codec_data(model, images=images, **{key: value for key, value in settings.items() if value is not None})
    made = codec_data_of(model)
    assert made is not None
    table = {"file": str(path), "fingerprint": made.own_sha256, "levels": made.levels, "bits": made.bits}
    size = sum(made.bits) / 8
    lines = [
        f"{path}: {len(made.bits)} steps, {size:,.0f} bytes a tile for {10 * math.log10(4 / made.errors[-1]):.1f} dB",
        f"fingerprint {made.own_sha256}",
    ]
    return {"codec": table}, lines


def _numbers(text: str | None) -> list[int]:
    """Read "5,8,10"."""
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 10 and int(part) for part in parts):
        raise InputError(f"--steps '{text}' are no numbers of steps; 8 or 5,8,10 would fit.")
    return sorted({int(part) for part in parts})


def _check(
    variance: bool,
    numbers: list[int],
    codec: bool,
    *,
    calls: int | None,
    placing: dict[str, Any],
    coding: dict[str, Any],
) -> None:
    """Refuse a command that asks for nothing, and options that would do nothing."""
    if not variance and not numbers and not codec:
        raise InputError("nothing was asked for; --variance, --steps 5,8,10 or --codec would fit.")
    for name, value in coding.items():
        if value is not None and not codec:
            raise InputError(f"--{name.replace('_', '-')} means nothing without --codec; leave it out.")
    if not variance and calls is not None:
        raise InputError("--calls is the budget of --variance; --trials and --pictures are that of --steps.")
    for name, value in placing.items():
        if value is not None and not numbers:
            raise InputError(f"--{name} means nothing without --steps; leave it out.")


def _levels(model: Model, judged: Criterion, method: str, numbers: list[int], trials: int, batch_size: int) -> Result:
    from ddpm.evaluation.placing import most_calls, place_each

    pictures = judged.pictures
    most = sum(most_calls(model, method, number, trials=trials, pictures=pictures) for number in numbers)
    say(f"Levels for {method}: up to {trials} trials of {pictures:,} pictures each, {most:,} network calls.")
    table: dict[str, Any] = {"sampler": method, "criterion": str(judged), "placed": {}}
    lines: list[str] = []
    start = time.monotonic()
    with progress_bar("Sampling", trials * pictures * sum(numbers)) as bar:
        options: dict[str, Any] = {"trials": trials, "batch_size": batch_size, "on_calls": counted(bar)}
        for path, placed in place_each(model, judged, method, numbers, **options):
            table["file"] = str(path)
            table["placed"][len(placed.levels)] = asdict(placed)
            lines += _placed_lines(placed)
    lines += [f"{table['file']}: {judged}; {duration(time.monotonic() - start)}"]
    return table, [*lines, f"sample --steps {numbers[-1]} --sampler {method} uses them"]


def _placed_lines(placed: Placed) -> list[str]:
    levels = ", ".join(rounded(level) for level in reversed(placed.levels))
    coefficients = {"eta": placed.eta, "reach": placed.reach}
    said = "".join(f", {name} {value:.3g}" for name, value in coefficients.items() if value is not None)
    return [
        f"{len(placed.levels)} levels: {levels}{said}",
        f"  distance {placed.value:.4g}, with the best spacing by name ({placed.best_named}) {placed.before:.4g}; "
        f"{placed.calls:,} network calls",
    ]


def _variance(model: Model, images: ImageSet, calls: int | None, seed: int, batch_size: int) -> Result:
    from ddpm.evaluation.tune import calls_made, tune_variance
    from ddpm.likelihood.measure import calls_needed, decoder_at_floor
    from ddpm.units import GREY_LEVELS

    levels = model.recipe.process.steps
    least = calls_needed(levels, 1)
    if calls is not None and calls < least:
        raise InputError(f"--calls {calls} do not reach every level; {least} would fit.")
    expected = calls_made(levels, calls)
    say(f"{expected:,} network calls on {images.name}, {model.weights} weights of {model.source}.")
    start = time.monotonic()
    with progress_bar("Network calls", expected) as bar:
        path, found = tune_variance(model, images, calls=calls, seed=seed, batch_size=batch_size, on_calls=counted(bar))
    measured = found.measured
    sigma = math.exp(measured.decoder_log_variance[1] / 2)
    floored = decoder_at_floor(measured)
    error = GREY_LEVELS * math.sqrt(measured.squared_error[1])
    table = {
        "file": str(path),
        "images": len(found.image_hashes),
        "data": found.data,
        "calls": found.calls,
        "seconds": round(time.monotonic() - start, 2),
        "sigma_1": sigma,
        "sigma_1_at_floor": floored,
        "rmse_1": error,
    }
    lines = [
        f"{path}: variances of {levels:,} levels from {len(found.image_hashes):,} images of {found.data}, "
        f"{found.calls:,} network calls, {duration(time.monotonic() - start)}",
        f"last step: standard deviation {GREY_LEVELS * sigma:.3f} grey levels{' (its floor)' if floored else ''}, "
        f"root mean squared error {error:.3f}",
        "--variance optimal uses them in evaluate and sample",
    ]
    return table, lines
