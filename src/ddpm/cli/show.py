"""ddpm show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpm.cli.console import print_result, toml_lines


def show(
    run: Annotated[Path, typer.Argument(help="A run folder or a checkpoint.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a model is: recipe, parameters, schedule, checkpoints."""
    import ddpm

    table = ddpm.show(run)
    image, older = table["recipe"]["image"], table["checkpoints"][:-1]
    lines = [
        f"checkpoint    {table['checkpoint']}",
        *(f"              {found}" for found in older),
        f"images        {image['channels']} x {image['height']} x {image['width']} (channels x height x width), "
        f"{table['images_seen']:,} seen",
        f"classes       {', '.join(table['class_names']) or 'none'}",
        f"parameters    {table['parameters']:,}",
        f"schedule      {table['recipe']['process']['schedule']}, {table['schedule']['steps']} steps, "
        f"alpha_bar ends at {table['schedule']['alpha_bar_end']:.3g}",
        f"weights       SHA-256 {table['sha256']['model.safetensors']}",
        *(f"tuned         {file}" for file in table["side_files"]),
        "",
        *toml_lines(table["recipe"]),
    ]
    print_result(table, lines, as_json=as_json)
