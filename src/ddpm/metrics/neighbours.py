"""The training images nearest to others: how a copy gives itself away (Ho et al. 2020, Figs. 12 and 15)."""

from __future__ import annotations

import os

import numpy as np

from ddpm.base.image_io import checked_images
from ddpm.base.tensors import Floats, Integers, Pixels
from ddpm.data.sources import ImageData, ImageSet, image_set
from ddpm.errors import InputError


def nearest_neighbours(images: ImageData, training: ImageData, *, count: int = 1) -> tuple[Floats, Integers]:
    """The training images nearest to each image.

    images, training  uint8 (B, C, H, W) and (N, C, H, W), sources, or ImageSets
    count             how many, at most N
    returns           distances in grey levels (Euclidean over all pixels) and indices, both (B, count), nearest first
    """
    from sklearn.neighbors import NearestNeighbors

    asked, known = _pixels(images, "images"), _pixels(training, "training images")
    if asked.shape[1:] != known.shape[1:]:
        raise InputError(f"images of {asked.shape[1:]} and training images of {known.shape[1:]} do not compare.")
    if count < 1:
        raise InputError(f"{count} neighbours were asked for: choose 1 or more.")
    finder = NearestNeighbors(n_neighbors=min(count, len(known)), algorithm="brute")
    finder.fit(known.reshape(len(known), -1).astype(np.float32))
    distances, indices = finder.kneighbors(asked.reshape(len(asked), -1).astype(np.float32))
    return distances.astype(np.float64), indices


def _pixels(images: ImageData, what: str) -> Pixels:
    if isinstance(images, str | os.PathLike | ImageSet):
        return image_set(images).array()
    return checked_images(images, what)
