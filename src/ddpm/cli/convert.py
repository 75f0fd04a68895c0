"""ddpm convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpm.cli.console import PROGRESS


def convert(
    src: Annotated[Path, typer.Argument(help="A diffusers DDPM folder (UNet2D weights and scheduler).")],
    dst: Annotated[Path, typer.Argument(help="The checkpoint folder to write.")],
    size: Annotated[
        str | None,
        typer.Option(help="H or HxW of its images, in pixels, if the folder leaves it open [default: the folder's]."),
    ] = None,
) -> None:
    """Convert a diffusers model to a checkpoint."""
    import ddpm

    written = ddpm.convert(src, dst, size=size, progress=PROGRESS)
    print(f"Converted to {written}; next: ddpm sample {written} --out samples.png")
