"""What timesteps and the choice of weights minimise: how far samples drawn so lie from real images.

Features of any one kind miss something (a classifier's contrast, raw pixels texture), and a search exploits it. So
there may be several: the criterion is the geometric mean of their Fréchet distances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddpm.data.sources import ImageData, ImageSet
from ddpm.data.subsets import chosen_rows
from ddpm.errors import InputError
from ddpm.metrics.extractors import open_extractor
from ddpm.metrics.features import Extractor, features_of
from ddpm.metrics.frechet import frechet_distance
from ddpm.metrics.statistics import Statistics, moments, statistics_of
from ddpm.model.datasets import training_images
from ddpm.model.labels import labelling
from ddpm.model.model import Model
from ddpm.model.scoring import check_fits

FIRST_SEED = 1_000_000_000  # of the trials' samples, far from those that people draw and evaluate
MOST_IMAGES = 10_000  # real ones compared with
MOST_DIMENSIONS = 4096
FEWEST = 64  # samples of a trial, and real images
BATCH = 256


@dataclass(frozen=True, eq=False)
class Criterion:
    """The geometric mean of Fréchet distances.

    judges   features, and the distance in them to real images
    samples  to draw for each trial, whose seeds are the same
    seed     added to FIRST_SEED
    """

    judges: tuple[tuple[Extractor, Statistics], ...]
    samples: int = 1024
    seed: int = 0

    def seeds(self) -> range:
        """Of the samples to draw."""
        start = FIRST_SEED + self.seed * self.samples
        return range(start, start + self.samples)

    def of(self, samples: Tensor) -> float:
        """The distance of samples uint8 (B, C, H, W) to the real ones; a negative one (rounding) is 0."""
        batches = torch.split(samples, BATCH)
        distances = [
            frechet_distance(moments(features_of(extractor, batches)), real) for extractor, real in self.judges
        ]
        return math.prod(max(distance, 0.0) for distance in distances) ** (1 / len(distances))

    @property
    def data(self) -> str:
        """The source of the real images."""
        return self.judges[0][1].source

    def __str__(self) -> str:
        """In words, for the side file."""
        names = [f"{Path(extractor.name).name} ({extractor.sha256[:12]})" for extractor, _ in self.judges]
        mean = "geometric mean of the Fréchet distances" if len(names) > 1 else "Fréchet distance"
        count = self.judges[0][1].count
        return f"{mean} of {self.samples} samples to {count} images of {self.data}, features {' and '.join(names)}"


def training_criterion(
    model: Model, data: ImageData | None, features: Sequence[str], *, samples: int, seed: int
) -> Criterion:
    """criterion_on images that a model's samples can be compared with: its own training images, or `data`.

    Errors (InputError): also images of another geometry or class set.
    """
    images = training_images(model, data)
    check_fits(model, images)
    labelling(model, images)  # samples of all classes are compared with them
    return criterion_on(model, images, features, samples=samples, seed=seed)


def criterion_on(
    model: Model, images: ImageSet, features: Sequence[str], *, samples: int = 1024, seed: int = 0
) -> Criterion:
    """A criterion of one or more kinds of features, see metrics.open_extractor, on up to MOST_IMAGES real images.

    Errors (InputError): features of another geometry or too many dimensions; too few samples or images.
    """
    if not features:
        raise InputError("name features to compare samples by: pixels, or the file of a torch.export program.")
    rows = chosen_rows(len(images), MOST_IMAGES, seed)
    if min(len(rows), samples) < FEWEST:
        raise InputError(f"{samples} samples and {len(rows)} images are too few to compare: it takes {FEWEST} of each.")
    extractors = [open_extractor(name, model.geometry, model.device) for name in dict.fromkeys(features)]
    for extractor in extractors:
        if extractor.dimensions > MOST_DIMENSIONS:
            raise InputError(
                f"features '{extractor.name}' are {extractor.dimensions:,} numbers an image, too many to compare at "
                f"every trial: the most is {MOST_DIMENSIONS:,}."
            )
    real = torch.split(torch.from_numpy(images.array(rows.tolist())), BATCH)
    judges = []
    for extractor in extractors:
        about = {"extractor": extractor.sha256, "fingerprint": images.fingerprint, "source": images.name}
        judges.append((extractor, statistics_of(features_of(extractor, real), **about)))
    return Criterion(tuple(judges), samples, seed)
