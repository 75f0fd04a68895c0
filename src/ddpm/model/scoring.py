"""Put a model and images together for scoring: which images, classes, variance and levels; nothing is fitted here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ddpm.base.progress import Advance, unheard
from ddpm.base.tensors import Integers
from ddpm.data import ImageSet, Reader
from ddpm.data.subsets import chosen_rows, seen_before
from ddpm.diffusion.denoiser import OPTIMAL, Denoiser, Network
from ddpm.diffusion.schedule import Schedule
from ddpm.errors import InputError
from ddpm.likelihood.best_levels import BestLevels, best_levels
from ddpm.likelihood.monte_carlo import Scoring
from ddpm.model.model import Model
from ddpm.model.variances import denoiser_for, read_variances


@dataclass(frozen=True)
class ScoringOptions:
    """How a bound is computed.

    variance  of the reverse steps, one of REVERSE_VARIANCES; None is the model's own
    levels    K: the best K of the T levels for the bound, with optimal variances; None takes all
    """

    variance: str | None = None
    levels: int | None = None

    def __post_init__(self) -> None:
        if self.levels is not None and self.variance not in (None, OPTIMAL):
            raise InputError(
                f"the best levels are chosen for variance 'optimal', not '{self.variance}'; leave the variance out."
            )

    @property
    def tuned(self) -> bool:
        """Whether it needs what `ddpm tune` measured."""
        return self.levels is not None or self.variance == OPTIMAL


def scoring_for(
    model: Model,
    images: ImageSet,
    manner: ScoringOptions = ScoringOptions(),
    *,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    advance: Advance = unheard,
) -> Scoring:
    """Everything that scoring needs, checked.

    limit  score only so many of the images, drawn by the seed; None scores all

    Errors (InputError): another geometry, channel count or class set; no images; variances that were not measured, or
    measured on these very images.
    """
    check_fits(model, images)
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} images leaves nothing to score; 1 would fit.")
    rows = chosen_rows(len(images), limit, seed)
    reader = Reader(images, rows)
    if manner.tuned:
        _require_held_out(model, images, reader)
    return Scoring(
        scored_denoiser(model, OPTIMAL if manner.tuned else manner.variance),
        reader,
        _chain(model, manner),
        labels=class_numbers(model, images, rows),
        seed=seed,
        batch_size=batch_size,
        device=model.device,
        advance=advance,
        name=f"'{model.source}'",
    )


def scored_denoiser(model: Model, variance: str | None = None) -> Denoiser:
    """The denoiser as bounds see it: clean images clipped to [-1, 1], except where the network says the mean itself,
    which the official code never clips."""
    threshold = "none" if model.recipe.objective.prediction == "mean" else "static"
    denoiser = replace(denoiser_for(model, variance), threshold=threshold)
    return _with_float64(denoiser, model.device)


def _with_float64(denoiser: Denoiser, device: torch.device) -> Denoiser:
    """A denoiser whose arithmetic can be float64: on Apple's GPUs the network alone stays there."""
    if device.type != "mps":
        return denoiser
    network = denoiser.network

    def there_and_back(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        return network(x.to(device), time, labels).cpu()

    moved: Network = there_and_back
    return replace(denoiser, network=moved)


def check_fits(model: Model, images: ImageSet) -> None:
    """Raise InputError unless there are images, of the model's geometry and classes."""
    if not len(images):
        raise InputError(f"there are no images in '{images.name}'; at least one would fit.")
    if images.geometry != model.geometry:
        raise InputError(f"the images in '{images.name}' are {images.geometry}, those of the model {model.geometry}.")
    class_numbers(model, images, np.arange(0))


def class_numbers(model: Model, images: ImageSet, rows: Integers) -> Integers | None:
    """The images' classes as the model counts them, matched by name; None for a model without classes."""
    if not model.recipe.network.classes:
        return None
    known = list(model.class_names)
    if images.labels is None:
        raise InputError(
            f"the model in '{model.source}' wants a class with each image ({', '.join(known)}), and '{images.name}' "
            "has none."
        )
    strange = [name for name in images.class_names if name not in known]
    if strange:
        raise InputError(
            f"the images in '{images.name}' have classes that the model in '{model.source}' does not know: "
            f"{', '.join(strange)}; it knows {', '.join(known)}."
        )
    numbers = np.array([known.index(name) for name in images.class_names], np.int64)
    return numbers[images.labels[rows]]


def best_chains(model: Model, most: int) -> BestLevels:
    """The best chains of 1..most levels, from what `ddpm tune` measured."""
    return best_levels(model.denoiser.process.schedule, read_variances(model).measured, most)


def _chain(model: Model, manner: ScoringOptions) -> Schedule:
    schedule = model.denoiser.process.schedule
    return schedule if manner.levels is None else schedule.subset(best_chains(model, manner.levels).chains[-1])


def _require_held_out(model: Model, images: ImageSet, reader: Reader) -> None:
    """Nothing is ever fitted on what is scored."""
    tuned = read_variances(model)
    if seen_before(images, reader, tuned.data_fingerprint, tuned.image_hashes):
        raise InputError(
            f"the variances of '{model.source}' were measured on images of '{images.name}' itself; `ddpm tune "
            f"{model.source} --variance --data` with other images would fit."
        )
