"""Options that several commands take, each written once: how pictures are drawn, and by what."""

from __future__ import annotations

from typing import Annotated

import typer

Weights = Annotated[str, typer.Option(help="averaged or raw.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Sampler = Annotated[
    str | None,
    typer.Option(
        help="ancestral, ddim, heun, dpm++, dpm++sde or unipc (without --steps the paper's ancestral, else dpm++sde)."
    ),
]
Steps = Annotated[
    int | None, typer.Option(help="Levels to visit, a network call each (heun 2 N - 1); all if not given.")
]
Spacing = Annotated[
    str | None,
    typer.Option(
        help="Of the steps: tuned (as ddpm tune --steps placed them, if it did), uniform, quadratic, log-snr, karras."
    ),
]
Eta = Annotated[float | None, typer.Option(help="ddim, dpm++sde: strength of the noise (0 and 1).")]
Threshold = Annotated[str, typer.Option(help="Of predicted clean images: static (to [-1, 1]), dynamic or none.")]
ClassName = Annotated[str | None, typer.Option("--class", help="Draw only this class (name or number).")]
Guidance = Annotated[
    float,
    typer.Option(help="Weight of the class, above 1 exaggerates it; for models with label drop-out; twice the calls."),
]
SamplingVariance = Annotated[
    str | None, typer.Option(help="ancestral: large, small, or optimal (after ddpm tune); the model's own.")
]
