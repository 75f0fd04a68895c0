"""The linear codec: a model without a network, only the average, colours and cosine variances of images.

It is a checkpoint like any other (network.linear = "alone"), so it also samples and scores. The one called `linear`
that comes with the package was made of the two photographs that come with scikit-learn.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ddpm.base.units import images_to_x
from ddpm.data.sources import ImageSet
from ddpm.data.tiles import source_tiles
from ddpm.errors import InputError
from ddpm.model.checkpoint import write_checkpoint
from ddpm.model.model import build_network
from ddpm.model.recipe import make_recipe
from ddpm.networks.linear import LinearDenoiser

TILE = 32
MEASURED = 8192  # images that a linear denoiser is measured on, at most


def linear_images(src: str | Path) -> ImageSet:
    """The images of a source if all have one size of at most 64 pixels a side, else tiles of 32 x 32 cut from them."""
    return source_tiles(str(src), side=TILE, count=MEASURED)


def measure(network: LinearDenoiser, images: ImageSet) -> int:
    """Take a denoiser's Gaussian from images evenly spread over a source; returns how many."""
    rows = np.unique(np.linspace(0, len(images) - 1, MEASURED).astype(np.int64)).tolist()
    network.measure(images_to_x(torch.from_numpy(images.array(rows))))
    return len(rows)


def make_linear(images: ImageSet, out: str | Path) -> Path:
    """Measure a linear model on images and write it as a checkpoint; the folder must not exist."""
    folder = Path(out)
    if folder.exists():
        raise InputError(f"'{folder}' is there already: name another folder with --out.")
    channels, height, width = images.geometry.shape
    if channels not in (1, 3):
        raise InputError(
            f"the images in '{images.name}' have {channels} channels; a linear model takes grey (1) or RGB (3)."
        )
    table = {
        "data": images.name,
        "image": {"channels": channels, "height": height, "width": width},
        "network": {"linear": "alone", "multipliers": [1], "attention_levels": [], "classes": 0},
        "process": {"schedule": "cosine"},
        "training": {"ema_ramp": True},
    }
    recipe = make_recipe(table)
    network = build_network(recipe)
    assert isinstance(network, LinearDenoiser)
    count = measure(network, images)
    write_checkpoint(
        folder,
        recipe=recipe,
        weights={"ema": network.state_dict()},
        images_seen=count,
        data_fingerprint=images.fingerprint,
    )
    return folder
