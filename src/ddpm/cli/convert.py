"""ddpm convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    src: Annotated[Path, typer.Argument(help="A diffusers DDPM folder (UNet2D weights and scheduler).")],
    dst: Annotated[Path, typer.Argument(help="The checkpoint folder to write.")],
) -> None:
    """Turn a published model in the diffusers layout into a checkpoint."""
    import ddpm

    written = ddpm.convert(src, dst)
    print(f"Converted to {written}; next: ddpm sample {written} --out samples.png")
