"""Whether images are those that a model was trained on: one answer and one sentence for every metric."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm.base.tensors import Integers
from ddpm.data.decode import BadImage
from ddpm.data.grammar import choose_split, cut, find_source, parse_source
from ddpm.data.items import Items
from ddpm.data.scan import in_threads
from ddpm.data.sizing import fitted, flattened
from ddpm.data.sources import ImageSet
from ddpm.data.subsets import COMPARED, hashes
from ddpm.errors import InputError
from ddpm.model.model import Model

MOST_PIXELS = 2**26  # of training images that are all read; of more, only those whose file names are met again


@dataclass(frozen=True)
class TrainedOn:
    """How many of the images of `name` that were compared are training images of a model.

    shared    None where that cannot be told: the training images are not here
    compared  how many were
    """

    name: str
    shared: int | None
    compared: int

    def table(self) -> dict[str, Any]:
        """As plain values."""
        return {"images": self.shared, "of": self.compared}

    def sentences(self) -> list[str]:
        """One for a person, none where nothing is shared or known."""
        if not self.shared:
            return []
        share = "All" if self.shared == self.compared else f"{self.shared:,} of"
        return [f"{share} {self.compared:,} images compared of {self.name} are images that the model was trained on."]


def trained_on(model: Model, images: ImageSet, rows: Integers | None = None) -> TrainedOn:
    """Compare images, pixel by pixel, with the training images that the model's recipe names.

    rows  which of the images are scored; None: all. Up to COMPARED of them are compared

    Training images of more than MOST_PIXELS are found by their file names first, so a copy under another name is not.
    """
    rows = np.arange(len(images)) if rows is None else rows
    some = rows[np.unique(np.linspace(0, len(rows) - 1, min(COMPARED, len(rows))).astype(np.int64))].tolist()
    if model.data_fingerprint and model.data_fingerprint == images.fingerprint:
        return TrainedOn(images.name, len(some), len(some))
    try:
        known = _training_items(model)
    except InputError:  # of another machine, or no longer there
        return TrainedOn(images.name, None, len(some))
    names, most = {_file(images.item_name(row)) for row in some}, MOST_PIXELS // math.prod(model.geometry.size)
    there = _hashes(known, _to_read(known, names, most), model)
    mine = [one for start in range(0, len(some), 256) for one in hashes(images.array(some[start : start + 256]))]
    return TrainedOn(images.name, sum(one in there for one in mine), len(mine))


def _training_items(model: Model) -> Items:
    """The training images as they lie there, unread."""
    if model.recipe.data is None:
        raise InputError(f"the recipe of '{model.source}' names no training images.")
    name = parse_source(model.recipe.data)
    source = find_source(name)
    return cut(source.splits[choose_split(source, name, "train")](), name).items


def _to_read(items: Items, names: set[str], most: int) -> list[int]:
    if len(items) <= most:
        return list(range(len(items)))
    return [row for row in range(len(items)) if _file(items.name(row)) in names][:most]


def _file(name: str) -> str:
    return name.rpartition("/")[2]


def _hashes(items: Items, rows: list[int], model: Model) -> set[str]:
    """Of training images in the model's geometry."""

    def one(row: int) -> str:
        try:
            pixels = flattened(items.image(row).pixels, model.recipe.alpha)
        except BadImage:
            return ""
        return hashes(fitted(pixels, model.geometry, model.recipe.fit)[None])[0]

    return set(in_threads(one, rows, threads=items.encoded))
