"""ddpm tune."""

from __future__ import annotations

import time
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
    weights: options.Weights = "averaged",
    seed: Annotated[int, typer.Option(help="Which images and noises.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a call.")] = 128,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Measure once what is stored beside a checkpoint: variances that make the bound least, levels for few steps."""
    import ddpm
    from ddpm import api
    from ddpm.evaluation.criterion import criterion_on
    from ddpm.evaluation.placing import check_placing
    from ddpm.samplers import Sampling
    from ddpm.scored import check_fits

    numbers = _numbers(steps)
    _check(variance, numbers, calls=calls, sampler=sampler, features=features, trials=trials, pictures=pictures)
    method = Sampling(sampler, 1).method
    model = ddpm.load(run, weights=weights, device=device)
    images = (
        api.training_images(model, option="--data") if data is None else api.model_images(model, data, split="train")
    )
    check_fits(model, images)
    judged = None
    if numbers:  # all that can be refused is, before anything long begins
        tried = trials or TRIALS
        check_placing(model, method, numbers, tried)
        judged = criterion_on(model, images, features or ["pixels"], pictures=pictures or PICTURES, seed=seed)
    table: dict[str, Any] = {}
    lines: list[str] = []
    if variance:
        table, lines = _variance(model, images, calls, seed, batch_size)
    if judged is not None:
        found, more = _levels(model, judged, method, numbers, tried, batch_size)
        table |= found
        lines += more
    print_result(table, lines, as_json=as_json)


def _numbers(text: str | None) -> list[int]:
    """Read "5,8,10"."""
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 10 and int(part) for part in parts):
        raise InputError(f"--steps '{text}' are no numbers of steps; 8 or 5,8,10 would fit.")
    return sorted({int(part) for part in parts})


def _check(variance: bool, numbers: list[int], *, calls: int | None, **placing: object) -> None:
    """Refuse a command that asks for nothing, and options that would do nothing."""
    if not variance and not numbers:
        raise InputError("nothing was asked for; --variance or --steps 5,8,10 would fit.")
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
    import math

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
