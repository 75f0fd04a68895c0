"""What `ddpm show` says of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from ddpm.errors import DdpmError
from ddpm.model.checkpoint import MODEL_FILE, checkpoints, every_checkpoint, find_checkpoint, kinds_held, read_config
from ddpm.model.chosen import chosen_kind
from ddpm.model.model import build_network
from ddpm.model.sidecar import codec_files, fingerprint, side_files

T = TypeVar("T")


def describe(run: str | Path) -> dict[str, Any]:
    """A model as plain values: checkpoint, checkpoints, images_seen, parameters, weights, class_names, schedule,
    data_fingerprint, sha256 of its files, side_files, by_checkpoint, recipe. Its weights are not read.

    weights are their kinds, and chosen the one that is used unless another is named; None if their file, or the side
    file that says so, is damaged.

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
        "weights": _unless_damaged(lambda: kinds_held(folder)),
        "chosen": _unless_damaged(lambda: chosen_kind(folder, config.sha256[MODEL_FILE])),
        "class_names": list(config.class_names),
        "data_fingerprint": config.data_fingerprint,
        "sha256": dict(config.sha256),
        "side_files": [str(file) for file in side_files(folder)],
        "by_checkpoint": [_beside(found) for found in every_checkpoint(Path(run)) or [folder]],
        "schedule": {"steps": schedule.steps, "alpha_bar_end": float(schedule.alpha_bar[-1])},
        "recipe": config.recipe.model_dump(mode="json"),
    }


def _unless_damaged(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except DdpmError:
        return None


def _beside(folder: Path) -> dict[str, Any]:
    codec = codec_files(folder)
    files = {str(file): fingerprint(file) if file in codec else None for file in side_files(folder)}
    return {"checkpoint": str(folder), "side_files": files}
