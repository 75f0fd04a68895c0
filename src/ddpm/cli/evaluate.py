"""ddpm evaluate likelihood | fid | codec | memorisation."""

from __future__ import annotations

from typing import Annotated

import typer

from ddpm.cli import options
from ddpm.cli.console import PROGRESS, load, print_report

app = typer.Typer(
    help="Measure a model: likelihood, FID and KID, codec, memorisation.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def likelihood(
    run: options.Run,
    data: options.Data,
    calls: Annotated[int | None, typer.Option(help="Network calls of each estimate, in all [default: 4096].")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="No estimates: every level of every image; a stop loses nothing.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(help="With --full: this process's share, 1/4 to 4/4 [default: all].")
    ] = None,
    levels: Annotated[
        int | None, typer.Option(help="Only the best K levels for the bound (after ddpm tune variance) [default: all].")
    ] = None,
    variance: options.Variance = None,
    labels: Annotated[
        str,
        typer.Option(
            help="How classes of the images become the model's: match (by name), ignore, or theirs=ours by name, such "
            "as Katze=cat,Hund=dog."
        ),
    ] = "match",
    size: options.Size = None,
    fit: options.Fit = None,
    alpha: options.Alpha = None,
    rate: Annotated[bool, typer.Option("--rate", help="Also rate and distortion by level (Fig. 5, Table 4).")] = False,
    ode: Annotated[bool, typer.Option("--ode", help="Also bits/dim by the probability-flow ODE.")] = False,
    solver_steps: Annotated[int, typer.Option(help="Steps of the ODE's solver, five network calls each.")] = 40,
    codec: Annotated[
        bool, typer.Option("--codec", help="Also bits/dim of real lossless files (after ddpm tune codec).")
    ] = False,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    weights: options.Weights = None,
    out: options.Results = None,
    batch_size: options.BatchSize = 128,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Likelihood of images in bits/dim: the variational bound (VLB), and what is asked for beside it."""
    import ddpm

    report = ddpm.evaluate_likelihood(
        load(run, weights, device),
        data,
        calls=calls,
        full=full,
        shard=shard,
        variance=variance,
        levels=levels,
        labels=labels,
        size=size,
        fit=fit,
        alpha=alpha,
        rate=rate,
        ode=ode,
        solver_steps=solver_steps,
        codec=codec,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        out=out,
        progress=PROGRESS,
    )
    print_report(report, as_json=as_json)


@app.command()
def fid(
    samples: Annotated[
        str, typer.Argument(help="A run or a checkpoint whose samples are judged, or images: a source.")
    ],
    data: Annotated[str, typer.Option(help="Real images: a source; or the .npz of their statistics (FID alone).")],
    features: Annotated[
        str, typer.Option(help="pixels, or the file of a torch.export program: uint8 (B, C, H, W) to floats (B, D).")
    ],
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of a model's samples, such as 0-2047 [default: 0-2047].")
    ] = None,
    sampler: options.Sampler = None,
    steps: options.Steps = None,
    spacing: options.Spacing = None,
    eta: options.Eta = None,
    variance: options.Variance = None,
    threshold: options.Threshold = "static",
    class_name: options.ClassName = None,
    guidance: options.Guidance = 1.0,
    precision: options.Precision = "float32",
    weights: options.Weights = None,
    size: options.Size = None,
    fit: options.Fit = None,
    alpha: options.Alpha = None,
    keep: Annotated[
        str | None,
        typer.Option(help="A folder for a model's samples, where a stopped drawing goes on [default: none]."),
    ] = None,
    save_to: Annotated[
        str | None, typer.Option(help="An .npz for the statistics of --data, to be --data later [default: none].")
    ] = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """FID and KID of samples, from the same features, with their errors and the protocol."""
    import ddpm
    from ddpm.base.seeding import parse_seeds
    from ddpm.model.checkpoint import is_run

    numbers = None if seeds is None else parse_seeds(seeds)
    report = ddpm.evaluate_fid(
        load(samples, weights, device) if is_run(samples) else samples,
        data,
        features=features,
        seeds=numbers,
        size=size,
        fit=fit,
        alpha=alpha,
        keep=keep,
        save_to=save_to,
        batch_size=batch_size,
        device=device,
        progress=PROGRESS,
        sampler=sampler,
        steps=steps,
        spacing=spacing,
        eta=eta,
        variance=variance,
        threshold=threshold,
        class_name=class_name,
        guidance=guidance,
        precision=precision,
    )
    print_report(report, as_json=as_json)


@app.command()
def codec(
    run: options.Run,
    data: options.Data,
    size: options.Size = None,
    fit: options.Fit = None,
    alpha: options.Alpha = None,
    limit: Annotated[int, typer.Option(min=1, help="Only so many of the images, drawn by seed 0.")] = 200,
    weights: options.Weights = None,
    out: options.Results = None,
    device: options.CodecDevice = "cpu",
    as_json: options.AsJson = False,
) -> None:
    """Size and distortion of compressed files, beside PNG, WebP, JPEG, AVIF and JPEG XL."""
    import ddpm

    model = load(run, weights, device)
    report = ddpm.evaluate_codec(model, data, size=size, fit=fit, alpha=alpha, limit=limit, out=out, progress=PROGRESS)
    print_report(report, as_json=as_json)


@app.command()
def memorisation(
    run: options.Run,
    data: options.Data,
    seeds: options.Seeds = "0-255",
    sampler: options.Sampler = None,
    steps: options.Steps = None,
    precision: options.Precision = "float32",
    training_data: Annotated[
        str | None, typer.Option(help="The training images [default: where the run says they are].")
    ] = None,
    size: options.Size = None,
    fit: options.Fit = None,
    alpha: options.Alpha = None,
    weights: options.Weights = None,
    out: Annotated[str | None, typer.Option(help="A folder for memorisation.png [default: none].")] = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Distance of samples to the training images, beside that of images which the model never saw."""
    import ddpm
    from ddpm.base.seeding import parse_seeds

    report = ddpm.evaluate_memorisation(
        load(run, weights, device),
        data,
        seeds=parse_seeds(seeds),
        training_data=training_data,
        size=size,
        fit=fit,
        alpha=alpha,
        batch_size=batch_size,
        out=out,
        progress=PROGRESS,
        sampler=sampler,
        steps=steps,
        precision=precision,
    )
    print_report(report, as_json=as_json)
