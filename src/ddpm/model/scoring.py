"""Put a model and images together for scoring: which images, classes, variance and levels. Nothing is fitted here."""

from __future__ import annotations

import warnings
from dataclasses import replace

from torch import Tensor

from ddpm.base.progress import Advance, unheard
from ddpm.data.sources import ImageSet
from ddpm.data.stream import Reader
from ddpm.data.subsets import chosen_rows, seen_before
from ddpm.diffusion.denoiser import OPTIMAL, REVERSE_VARIANCES, Denoiser, Network
from ddpm.errors import InputError, known
from ddpm.likelihood.best_levels import BestLevels, best_levels
from ddpm.likelihood.monte_carlo import Scoring
from ddpm.model.datasets import check_geometry
from ddpm.model.labels import Labels, labelling
from ddpm.model.model import Model
from ddpm.model.variances import SIDECAR, denoiser_for, read_variances


def scoring_for(
    model: Model,
    images: ImageSet,
    *,
    variance: str | None = None,
    levels: int | None = None,
    labels: Labels | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    advance: Advance = unheard,
) -> Scoring:
    """Everything that scoring needs, checked.

    variance  of the reverse steps, one of REVERSE_VARIANCES; None is the model's own
    levels    K: the best K of the T levels for the bound, with optimal variances; None takes all
    labels    how the classes of the images become the model's, see labels.labelling, whose remark is for the caller to
              say; None: by name, and the remark is a warning
    limit     score only so many of the images, drawn by the seed; None scores all
    others    as in Scoring

    Errors (InputError): no images; another geometry or channel count; classes that the model does not know; variances
    that were not measured, or measured on these very images.
    """
    known("variance", variance, REVERSE_VARIANCES)
    if levels is not None and variance not in (None, OPTIMAL):
        raise InputError(
            f"the best levels are chosen for variance '{OPTIMAL}', not '{variance}': leave the variance out."
        )
    check_fits(model, images)
    classes = labelling(model, images, labels)
    if labels is None and classes.remark:
        warnings.warn(f"{images.name}: {classes.remark}.", stacklevel=3)
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1 image, not {limit}.")
    rows = chosen_rows(len(images), limit, seed)
    reader = Reader(images, rows)
    if levels is not None or variance == OPTIMAL:
        _require_held_out(model, images, reader)
        variance = OPTIMAL
    schedule = model.denoiser.process.schedule
    return Scoring(
        scored_denoiser(model, variance),
        reader,
        schedule if levels is None else schedule.subset(best_chains(model, levels).chains[-1]),
        labels=classes.of(images, rows, seed),
        seed=seed,
        batch_size=batch_size,
        device=model.device,
        advance=advance,
        name=f"'{model.source}'",
    )


def scored_denoiser(model: Model, variance: str | None = None) -> Denoiser:
    """The denoiser as bounds see it: clean images clipped to [-1, 1], except where the network predicts the mean
    itself, which the official code never clips. On Apple's GPUs, which have no float64, only the network runs there.
    """
    threshold = "none" if model.recipe.objective.prediction == "mean" else "static"
    denoiser, device = replace(denoiser_for(model, variance), threshold=threshold), model.device
    network = denoiser.network

    def there_and_back(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        return network(x.to(device), time, labels).cpu()

    moved: Network = there_and_back
    return replace(denoiser, network=moved) if device.type == "mps" else denoiser


def check_fits(model: Model, images: ImageSet) -> None:
    """Raise InputError unless there are images, of the model's geometry."""
    if not len(images):
        raise InputError(f"there are no images in '{images.name}': name a source that holds some.")
    check_geometry(model, images)


def best_chains(model: Model, most: int) -> BestLevels:
    """The best chains of 1..most levels, by what `ddpm tune variance` measured."""
    measured = read_variances(model, model.recipe.process.steps).measured
    return best_levels(model.denoiser.process.schedule, measured, most)


def _require_held_out(model: Model, images: ImageSet, reader: Reader) -> None:
    """Images that something was fitted on are never scored with it."""
    tuned = read_variances(model)
    if seen_before(images, reader, tuned.data_fingerprint, tuned.image_hashes):
        raise InputError(
            f"the variances of '{model.source}' were measured on images of '{images.name}' itself: score other images, "
            f"or measure on others with {SIDECAR.made_by(model)} and --data."
        )
