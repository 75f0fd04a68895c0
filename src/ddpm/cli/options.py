"""Arguments and options that several commands take, each written once."""

from __future__ import annotations

from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(help="A run folder or a checkpoint; linear is the model that comes with ddpm.")]
Data = Annotated[str, typer.Option(help="Images that the model never saw: a source, for instance digits:test.")]
TrainingImages = Annotated[
    str | None, typer.Option("--data", help="Images to fit on [default: the run's own training images].")
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Which weights: ema (their exponential moving average), raw, or ema-LENGTH for an average of "
        "training.ema_lengths [default: what ddpm tune ema chose, else ema]."
    ),
]
Device = Annotated[str, typer.Option(help="Where networks run: auto, cpu, cuda, cuda:1, ...")]
CodecDevice = Annotated[str, typer.Option(help="Where the network runs, in float64: auto, cpu, cuda, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace outputs that are there; else right ones are left, and others are refused."),
]
Seed = Annotated[int, typer.Option(help="Seed of random images, levels and noises.")]
Results = Annotated[str | None, typer.Option("--out", help="A folder for files [default: evaluation/ in the run].")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only so many of the images, drawn by the seed [default: all].")]
Size = Annotated[
    str | None, typer.Option(help="The size that images are brought to, H or HxW [default: the model's, or their own].")
]
Fit = Annotated[
    str | None,
    typer.Option(help="How images come to it: crop (keeps the aspect) or resize [default: as in training, or crop]."),
]
Alpha = Annotated[
    str | None,
    typer.Option(
        help="What becomes of see-through images: keep, drop (keeps their colours), white or black (lays them over it) "
        "[default: as in training; else keep if all images have alpha, refuse if only some have]."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in a network call; it changes no result.")]
Tiles = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="Tiles in a network call; it changes no result [default: 16, on a GPU by their pixels].",
    ),
]

Seeds = Annotated[str, typer.Option(help="Seeds, one image each: 7, 0-63 or 1,5,10-19.")]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="ancestral, ddim, heun, dpm++, dpm++sde or unipc [default: without --steps the paper's ancestral, else "
        "dpm++sde]."
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Number of timesteps, one network call each (heun: 2 N - 1 calls) [default: all of the process]."
    ),
]
Spacing = Annotated[
    str | None,
    typer.Option(
        help="Spacing of the timesteps: tuned (by ddpm tune timesteps), uniform, quadratic, log-snr or karras "
        "[default: tuned if they were, else uniform]."
    ),
]
Eta = Annotated[
    float | None, typer.Option(help="Strength of the noise: ddim 0 to 1 [default: 0], dpm++sde 0 to 2 [default: 1].")
]
Variance = Annotated[
    str | None,
    typer.Option(
        help="Variance of the reverse steps, in bounds and sampler ancestral: large, small, or optimal (after ddpm "
        "tune variance) [default: the model's own]."
    ),
]
Threshold = Annotated[
    str, typer.Option(help="How predicted clean images are clipped: static (to [-1, 1]), dynamic or none.")
]
ClassName = Annotated[
    str | None, typer.Option("--class", help="Only images of this class, by name or number [default: drawn by seed].")
]
Guidance = Annotated[
    float,
    typer.Option(help="Weight of the class: above 1 exaggerates it; twice the calls; needs training.label_dropout."),
]
Precision = Annotated[
    str,
    typer.Option(
        help="What the network computes in: float32 (strict), tf32 or bfloat16; the last two are faster on a GPU, and "
        "images change a little."
    ),
]
