"""From a diffusers DDPM folder to a checkpoint that computes the same function; what cannot be expressed is refused.

The published CIFAR-10, LSUN and CelebA-HQ models are converted so. Only JSON and tensors are read; diffusers need not
be installed. What its options mean is in unet2d.py and scheduler.py, its tensors in weights.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ddpm.base.files import check_output
from ddpm.base.progress import Progress, progress_of
from ddpm.base.tensor_files import not_finite
from ddpm.conversion import scheduler, unet2d
from ddpm.conversion.folder import Folder, find_folder, read_table, read_tensors
from ddpm.conversion.options import Options
from ddpm.conversion.weights import translated
from ddpm.errors import InputError
from ddpm.model.checkpoint import write_checkpoint
from ddpm.model.model import build_network
from ddpm.model.recipe import Recipe, make_recipe

__all__ = ["convert"]


def convert(
    src: str | Path, dst: str | Path, *, size: str | int | None = None, progress: Progress | bool = True
) -> Path:
    """Turn a diffusers DDPM folder into a checkpoint, in float32 (as diffusers itself loads it).

    src      a pipeline's folder, or its UNet2DModel's alone
    dst      the checkpoint to write; must not exist
    size     "H" or "HxW" of the images, for a network that leaves it open
    returns  dst

    The weights become the EMA, which is what is published.
    """
    target = check_output(dst, folder=True)
    if target.exists():
        raise InputError(f"'{dst}' exists already: name a new folder.")
    folder = find_folder(Path(src))
    recipe = _recipe(folder, None if size is None else str(size), progress_of(progress))
    with torch.device("meta"):
        expected = build_network(recipe).state_dict()
    tensors = translated(read_tensors(folder.weights), expected, folder.weights)
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    if complaint := not_finite(weights):
        raise InputError(f"'{folder.weights}' holds no usable weights: {complaint}; they are of a run that diverged.")
    names = tuple(str(number) for number in range(recipe.network.classes or 0))
    write_checkpoint(target, recipe=recipe, weights={"ema": weights}, class_names=names)
    return target


def _recipe(folder: Folder, size: str | None, progress: Progress) -> Recipe:
    """The whole model as a recipe; how it was trained is not known and stays at the defaults."""
    given = read_table(folder.config)
    name = given.get("_class_name")
    if name != unet2d.CLASS:
        raise InputError(f"'{folder.config}' has _class_name = {json.dumps(name)}: only {unet2d.CLASS} is read.")
    tables: dict[str, Any] = unet2d.network_tables(Options(folder.config, given, unet2d.DEFAULTS, unet2d.IGNORED), size)
    if folder.scheduler is None:
        progress.say(f"'{folder.config.parent}' has no scheduler_config.json; the paper's process is assumed.")
    else:
        options = Options(folder.scheduler, read_table(folder.scheduler), scheduler.DEFAULTS, scheduler.IGNORED)
        tables |= scheduler.process_tables(options, progress)
    return make_recipe(tables, origin=f"'{folder.config.parent}'")
