"""Memorisation: how near samples lie to the training images, beside held-out images (Ho et al. 2020, Figs. 12, 15)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ddpm.base.image_io import save_grid
from ddpm.base.progress import Progress, progress_of
from ddpm.base.tensors import Floats, Pixels
from ddpm.data.sources import ImageData
from ddpm.errors import InputError
from ddpm.evaluation.result_files import ResultFiles
from ddpm.generation.draw import described, draw, plan_for
from ddpm.metrics.neighbours import nearest_neighbours
from ddpm.model.checkpoint import results_folder
from ddpm.model.datasets import images_for, training_images
from ddpm.model.model import Model
from ddpm.model.trained_on import TrainedOn
from ddpm.samplers.plan import Sampling, SamplingOptions

FIRST_PERCENTILE = 1.0
SHOWN, NEAREST = 8, 7
FILE = "memorisation.png"


@dataclass(frozen=True)
class MemorisationReport:
    """Distances of samples to their nearest training image, beside those of held-out images.

    Distances are Euclidean over all pixels, in grey levels.

    source                       of the samples
    samples, held_out, training  how many images of each
    median, held_out_median      median distance to the nearest training image
    ratio                        median / held_out_median; far below 1 means copies
    copies                       share of samples no farther than the held-out images' first percentile (0.01 is ideal)
    seen                         which held-out images are training images
    lost                         a sentence for each file that could not be written
    """

    source: str
    samples: int
    held_out: int
    training: int
    median: float
    held_out_median: float
    ratio: float
    copies: float
    seen: TrainedOn
    lost: tuple[str, ...] = ()

    def table(self) -> dict[str, Any]:
        """As plain values."""
        plain = {name: value for name, value in asdict(self).items() if name not in ("seen", "lost")}
        return {"memorisation": plain | {"trained_on": self.seen.table()}}

    def lines(self) -> list[str]:
        """For a person."""
        return [
            f"{self.samples} samples of {self.source}, {self.held_out} held-out and {self.training} training images",
            f"median distance to the nearest training image: samples {self.median:.1f}, held-out "
            f"{self.held_out_median:.1f} grey levels (ratio {self.ratio:.3f})",
            f"samples no farther than the held-out's first percentile: {self.copies:.1%} "
            "(1 % is ideal; many would be copies)",
            *self.seen.sentences(),
        ]


def evaluate_memorisation(
    model: Model,
    data: ImageData,
    *,
    seeds: Iterable[int] = range(256),
    training_data: ImageData | None = None,
    size: str | int | None = None,
    fit: str | None = None,
    alpha: str | None = None,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: Progress | bool = True,
    **how: Unpack[SamplingOptions],
) -> MemorisationReport:
    """How near a model's samples lie to its training images, beside held-out images.

    data           held-out images, which the model never saw
    seeds          of the samples
    training_data  None: those that the recipe names
    size, fit, alpha  bring other images of `data` and `training_data` to the model's size and channels, see
                   model.datasets.images_for
    out            folder for memorisation.png: samples, a row each, beside their nearest training images; None: no file
    how            samples are drawn, see samplers.Sampling

    Errors: InputError for held-out images that are training images, and as in `sample`.
    """
    report_to = progress_of(progress)
    plan = plan_for(model, Sampling(**how))
    held_out = images_for(model, data, size=size, fit=fit, alpha=alpha)
    if training_data is None:
        training = training_images(model, option="--training-data")
    else:
        training = images_for(model, training_data, split="train", size=size, fit=fit, alpha=alpha)
    files = None if out is None else ResultFiles(results_folder(model.source, out), [FILE])
    known = training.array()
    usual = held_out_distances(held_out.array(), known)
    numbers = list(seeds)
    for sentence in described(model, plan):
        report_to.say(sentence)
    with report_to.stage("Sampling", len(numbers) * plan.chain.steps) as advance:
        samples = draw(model, numbers, plan, batch_size=batch_size, advance=advance).numpy()
    report = measure_memorisation(samples, known, usual, source=model.source, held_out=held_out.name, files=files)
    for file in () if files is None else files.written:
        report_to.say(f"{file}: on the left a sample, then its {NEAREST} nearest training images.")
    return report


def held_out_distances(held_out: Pixels, training: Pixels) -> Floats:
    """Distances (N,) of held-out images to the nearest training image; InputError if most are training images."""
    distances = nearest_neighbours(held_out, training)[0][:, 0]
    if np.median(distances) == 0:
        raise InputError("most of the held-out images are training images: name images that the model never saw.")
    return distances


def measure_memorisation(
    samples: Pixels,
    training: Pixels,
    usual: Floats,
    *,
    source: str = "an array",
    held_out: str = "the held-out array",
    files: ResultFiles | None = None,
) -> MemorisationReport:
    """Compare samples with held-out images by their distance to the training images; images are uint8 (., C, H, W).

    usual             held_out_distances
    source, held_out  where the samples and the held-out images come from
    files             take FILE: some samples, a row each, beside their nearest training images (Ho et al., Fig. 15)
    """
    near, indices = nearest_neighbours(samples, training, count=NEAREST)
    if files is not None:
        rows = np.concatenate([samples[:SHOWN, None], training[indices[:SHOWN]]], axis=1)
        files.write(FILE, lambda path: save_grid(rows.reshape(-1, *samples.shape[1:]), path, columns=rows.shape[1]))
    median, held_out_median = float(np.median(near[:, 0])), float(np.median(usual))
    return MemorisationReport(
        source,
        len(samples),
        len(usual),
        len(training),
        median,
        held_out_median,
        ratio=median / held_out_median,
        copies=float((near[:, 0] <= np.percentile(usual, FIRST_PERCENTILE)).mean()),
        seen=TrainedOn(held_out, int((usual == 0).sum()), len(usual)),
        lost=() if files is None else tuple(files.lost),
    )
