"""ddpm tune ema | variance | timesteps | codec."""

from __future__ import annotations

from typing import Annotated

import typer

from ddpm.cli import options
from ddpm.cli.console import PROGRESS, load, parse_steps, print_report
from ddpm.errors import InputError

app = typer.Typer(
    help="Choose among a run's weights; fit variances, timesteps or codec data.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


Features = Annotated[
    list[str] | None,
    typer.Option(
        help="What samples are judged by: pixels, or the file of a torch.export program; repeatable [default: pixels]."
    ),
]


@app.command()
def ema(
    run: options.Run,
    data: options.TrainingImages = None,
    steps: Annotated[int, typer.Option(min=1, help="Network calls for each sample.")] = 20,
    features: Features = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples drawn with each kind of weights.")] = 1024,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Choose the weights that other commands take: the average whose samples lie nearest to the training images."""
    import ddpm

    report = ddpm.tune_ema(
        run,
        data,
        steps=steps,
        features=features or ["pixels"],
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        device=device,
        progress=PROGRESS,
    )
    print_report(report, as_json=as_json)


@app.command()
def variance(
    run: options.Run,
    data: options.TrainingImages = None,
    calls: Annotated[
        int | None, typer.Option(help="Network calls in all [default: 32 a level, more at the first].")
    ] = None,
    seed: options.Seed = 0,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 128,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Measure the optimal reverse variances. They minimise the variational bound."""
    import ddpm

    model = load(run, weights, device)
    report = ddpm.tune_variance(model, data, calls=calls, seed=seed, batch_size=batch_size, progress=PROGRESS)
    print_report(report, as_json=as_json)


@app.command()
def timesteps(
    run: options.Run,
    steps: Annotated[str, typer.Option(help="For which numbers of steps, one or several: 5,8,10.")],
    data: options.TrainingImages = None,
    sampler: Annotated[
        str, typer.Option(help="The sampler that they are for: ancestral, ddim, heun, dpm++, dpm++sde or unipc.")
    ] = "dpm++sde",
    features: Features = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials for each number of steps.")] = 32,
    samples: Annotated[int, typer.Option(min=1, help="Samples drawn for each trial.")] = 1024,
    seed: options.Seed = 0,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Search the best timesteps for few steps: those whose samples lie nearest to the training images."""
    import ddpm

    numbers = parse_steps(steps)
    report = ddpm.tune_timesteps(
        load(run, weights, device),
        data,
        steps=numbers,
        sampler=sampler,
        features=features or ["pixels"],
        trials=trials,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        progress=PROGRESS,
    )
    print_report(report, as_json=as_json)


@app.command()
def codec(
    run: options.Run,
    data: options.TrainingImages = None,
    fit_steps: Annotated[int, typer.Option(min=1, help="Steps of the pixel model's optimiser.")] = 8000,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what is there; files made with it become unreadable.")
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            help="With run linear: the folder of a new model of its kind, measured on --data [default: none]."
        ),
    ] = None,
    seed: options.Seed = 0,
    weights: options.Weights = None,
    batch_size: options.BatchSize = 128,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Make the codec data that ddpm compress needs: timesteps, index bits and a model of pixels; takes minutes."""
    import ddpm

    if out is None:
        model = load(run, weights, device)
        report = ddpm.tune_codec(
            model, data, seed=seed, fit_steps=fit_steps, batch_size=batch_size, force=force, progress=PROGRESS
        )
    elif run != "linear" or data is None:
        raise InputError("--out is for a new linear model: `ddpm tune codec linear --data SRC --out DIR`.")
    else:
        report = ddpm.tune_linear(data, out, device=device, fit_steps=fit_steps, progress=PROGRESS)
    print_report(report, as_json=as_json)
