"""ddpm tune."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from ddpm.cli.console import counted, duration, print_result, progress_bar, say
from ddpm.errors import InputError


def tune(
    run: Annotated[str, typer.Argument(help="A run folder or a checkpoint.")],
    variance: Annotated[bool, typer.Option("--variance", help="The optimal variance of every reverse step.")] = False,
    data: Annotated[str | None, typer.Option(help="Images to measure on (the run's own training images).")] = None,
    calls: Annotated[int | None, typer.Option(help="Network calls in all (32 a level, more at the first).")] = None,
    weights: Annotated[str, typer.Option(help="averaged or raw.")] = "averaged",
    seed: Annotated[int, typer.Option(help="Which images and noises.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a call.")] = 128,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure once what is stored beside a checkpoint: the variances that make the bound least."""
    import math

    import ddpm
    from ddpm import api
    from ddpm.evaluation.tune import calls_made, tune_variance
    from ddpm.likelihood.measure import calls_needed, decoder_at_floor
    from ddpm.scored import check_fits
    from ddpm.units import GREY_LEVELS

    if not variance:
        raise InputError("nothing was asked for; --variance would fit.")
    model = ddpm.load(run, weights=weights, device=device)
    images = (
        api.training_images(model, option="--data") if data is None else api.model_images(model, data, split="train")
    )
    check_fits(model, images)
    levels = model.recipe.process.steps
    least = calls_needed(levels, 1)
    if calls is not None and calls < least:
        raise InputError(f"--calls {calls} do not reach every level; {least} would fit.")
    expected = calls_made(levels, calls)
    say(f"{expected:,} network calls on {images.name}, {weights} weights of {model.source}.")
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
    print_result(table, lines, as_json=as_json)
