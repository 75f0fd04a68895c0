"""What `ddpm show` says of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ddpm.model.checkpoint import checkpoints, every_checkpoint, find_checkpoint, read_config
from ddpm.model.model import build_network
from ddpm.model.sidecar import codec_files, fingerprint, side_files


def describe(run: str | Path) -> dict[str, Any]:
    """A model as plain values: checkpoint, checkpoints, images_seen, parameters, class_names, schedule,
    data_fingerprint, sha256 of its files, side_files, by_checkpoint, recipe. Its weights are not read.

    by_checkpoint has a row for each checkpoint: its side files, those of the codec with their fingerprint (None if the
    file is damaged), which says that .dpc files need this checkpoint.
    """
    folder = find_checkpoint(Path(run))
    config = read_config(folder)
    schedule = config.recipe.process.make_schedule()
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_network(config.recipe).parameters())
    return {
        "checkpoint": str(folder),
        "checkpoints": [str(found) for found in checkpoints(Path(run))],
        "images_seen": config.images_seen,
        "parameters": parameters,
        "class_names": list(config.class_names),
        "data_fingerprint": config.data_fingerprint,
        "sha256": dict(config.sha256),
        "side_files": [str(file) for file in side_files(folder)],
        "by_checkpoint": [_beside(found) for found in every_checkpoint(Path(run)) or [folder]],
        "schedule": {"steps": schedule.steps, "alpha_bar_end": float(schedule.alpha_bar[-1])},
        "recipe": config.recipe.model_dump(mode="json"),
    }


def _beside(folder: Path) -> dict[str, Any]:
    codec = codec_files(folder)
    files = {str(file): fingerprint(file) if file in codec else None for file in side_files(folder)}
    return {"checkpoint": str(folder), "side_files": files}
