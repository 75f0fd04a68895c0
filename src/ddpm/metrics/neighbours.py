"""The training images nearest to others: how a copy gives itself away (Ho et al. 2020, Figs. 12 and 15)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddpm.base.image_io import checked_images
from ddpm.errors import InputError


def nearest_neighbours(
    images: ArrayLike, training: ArrayLike, *, count: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The training images nearest to each image.

    images, training  uint8 (B, C, H, W) and (N, C, H, W)
    count             how many, at most N
    returns           distances in grey levels (Euclidean over all pixels) and indices, both (B, count), nearest first
    """
    from sklearn.neighbors import NearestNeighbors

    asked, known = checked_images(images), checked_images(training, "training images")
    if asked.shape[1:] != known.shape[1:]:
        raise InputError(f"images of {asked.shape[1:]} and training images of {known.shape[1:]} do not compare.")
    finder = NearestNeighbors(n_neighbors=min(count, len(known)), algorithm="brute")
    finder.fit(known.reshape(len(known), -1).astype(np.float32))
    distances, indices = finder.kneighbors(asked.reshape(len(asked), -1).astype(np.float32))
    return distances.astype(np.float64), indices
