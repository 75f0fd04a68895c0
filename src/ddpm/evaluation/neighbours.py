"""Memory or skill: how near pictures lie to the training images (Ho et al. 2020, Figs. 12 and 15)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ddpm.errors import InputError

FIRST_PERCENTILE = 1.0


@dataclass(frozen=True)
class NeighbourReport:
    """Distances of samples to their nearest training image, beside those of held-out images.

    Distances are Euclidean over all pixels, in grey levels.

    samples, held_out, training  how many images of each
    median, held_out_median      median distance to the nearest training image
    ratio                        median / held_out_median; far below 1 means copies
    copies                       share of samples no farther than the held-out images' first percentile (0.01 is ideal)
    """

    samples: int
    held_out: int
    training: int
    median: float
    held_out_median: float
    ratio: float
    copies: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def nearest_neighbours(
    pictures: NDArray[np.uint8], training: NDArray[np.uint8], *, count: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The training images nearest to each picture.

    pictures, training  uint8 (B, C, H, W) and (N, C, H, W)
    count               how many, at most N
    returns             distances in grey levels (Euclidean over all pixels) and indices, both (B, count), nearest first
    """
    from sklearn.neighbors import NearestNeighbors

    finder = NearestNeighbors(n_neighbors=min(count, len(training)), algorithm="brute")
    finder.fit(training.reshape(len(training), -1).astype(np.float32))
    distances, indices = finder.kneighbors(pictures.reshape(len(pictures), -1).astype(np.float32))
    return distances.astype(np.float64), indices


def require_held_out(held_out: NDArray[np.uint8], training: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Distances (N,) of held-out images to the nearest training image; InputError if most are training images."""
    distances = nearest_neighbours(held_out, training)[0][:, 0]
    if np.median(distances) == 0:
        raise InputError("most of the held-out images are training images; images the model never saw would fit.")
    return distances


def neighbour_report(
    samples: NDArray[np.uint8], training: NDArray[np.uint8], held_out: NDArray[np.uint8]
) -> NeighbourReport:
    """Compare samples with held-out images by their distance to the training images; all uint8 (., C, H, W)."""
    usual = require_held_out(held_out, training)
    near = nearest_neighbours(samples, training)[0][:, 0]
    median, held_out_median = float(np.median(near)), float(np.median(usual))
    copies = float((near <= np.percentile(usual, FIRST_PERCENTILE)).mean())
    return NeighbourReport(
        len(samples), len(held_out), len(training), median, held_out_median, median / held_out_median, copies
    )
