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
    import torch

    from ddpm.checkpoint import checkpoints, find_checkpoint, read_config
    from ddpm.model import build_network

    folder = find_checkpoint(run)
    config = read_config(folder)
    schedule = config.recipe.process.make_schedule()
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_network(config.recipe).parameters())
    table = {
        "checkpoint": str(folder),
        "checkpoints": [str(found) for found in checkpoints(run)],
        "images_seen": config.images_seen,
        "parameters": parameters,
        "class_names": list(config.class_names),
        "data_fingerprint": config.data_fingerprint,
        "sha256": dict(config.sha256),
        "schedule": {"steps": schedule.steps, "alpha_bar_end": float(schedule.alpha_bar[-1])},
        "recipe": config.recipe.model_dump(mode="json"),
    }
    lines = [
        f"checkpoint    {folder}",
        *(f"              {found}" for found in checkpoints(run)[:-1]),
        f"images        {config.recipe.geometry} (channels x height x width), {config.images_seen:,} seen",
        f"classes       {', '.join(config.class_names) or 'none'}",
        f"parameters    {parameters:,}",
        f"schedule      {config.recipe.process.schedule}, {schedule.steps} steps, "
        f"alpha_bar ends at {schedule.alpha_bar[-1]:.3g}",
        f"weights       SHA-256 {config.sha256.get('model.safetensors', 'unknown')}",
        "",
        *toml_lines(config.recipe.model_dump(mode="json")),
    ]
    print_result(table, lines, as_json=as_json)
