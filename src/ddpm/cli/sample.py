"""ddpm sample."""

from __future__ import annotations

from typing import Annotated

import typer

from ddpm.cli import options
from ddpm.cli.console import PROGRESS, load


def sample(
    run: options.Run,
    out: Annotated[
        str, typer.Option(help="A .png is a grid, a .npz an array, no suffix a folder of PNGs; the last two resume.")
    ],
    seeds: options.Seeds = "0-63",
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
    device: options.Device = "auto",
    batch_size: options.BatchSize = 64,
    progressive: Annotated[
        bool, typer.Option("--progressive", help="A row a seed: the image as predicted along the trajectory (Fig. 6).")
    ] = False,
) -> None:
    """Draw images from a model, one per seed."""
    import ddpm
    from ddpm.base.seeding import parse_seeds

    numbers = parse_seeds(seeds)
    ddpm.save_samples(
        load(run, weights, device),
        out,
        seeds=numbers,
        progressive=progressive,
        batch_size=batch_size,
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
    print(f"{len(numbers)} {'image' if len(numbers) == 1 else 'images'} in {out}")
