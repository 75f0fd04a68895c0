"""How far pictures lie from a reference: no distance without its error, and none without its protocol.

    Question    a reference, an extractor and metrics, checked before any work is done
    Reference   its features, computed once for any number of comparisons
    Comparison  the distances of some pictures (judged.py), and everything that they depend on

The distances themselves and their errors are in `ddpm.distances`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ddpm.data import ImageSet
from ddpm.distances import (
    BLOCKS,
    Estimate,
    Extractor,
    Statistics,
    frechet_estimate,
    kernel_estimate,
    load_statistics,
    moments_of,
    open_extractor,
)
from ddpm.distances.jackknife import Floats
from ddpm.errors import InputError, nearest
from ddpm.evaluation.judged import Pictures, ToDraw, given_pictures, image_batches
from ddpm.model import Model, resolve_device
from ddpm.samplers import Sampling

FID, KID = "fid", "kid"
DISTANCES = (FID, KID)
USUAL = 2048  # images; a Fréchet distance from fewer is mostly bias
LEAST = 2 * BLOCKS  # images on either side, for an error
MOST_DIMENSIONS = 16_384  # of a Fréchet distance: a matrix of it takes 2 GB
UNKNOWN = "unknown"
ERRORS = f"jackknife of {BLOCKS} blocks; fid: of the pictures, the reference as it is; kid: of both"


# ---- what is asked --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """What a protocol says about the reference.

    source       what the user called its images, or the file of statistics of others
    given_as     "images" or "statistics"
    count        images, None: unknown
    fingerprint  of them, "" unknown
    extractor    hash of what computed the statistics, or UNKNOWN
    """

    source: str
    given_as: str
    count: int | None
    fingerprint: str
    extractor: str


@dataclass(frozen=True, eq=False)
class Question:
    """What pictures are to be compared with, and how; see question().

    metrics  of DISTANCES, those that will be computed
    side     the reference, for the protocol
    remarks  warnings that go out once the work begins
    """

    reference: ImageSet | Statistics
    extractor: Extractor
    metrics: tuple[str, ...]
    side: Side
    remarks: tuple[str, ...]

    @property
    def images(self) -> int:
        """Of the reference, those whose features are still to be computed."""
        return 0 if isinstance(self.reference, Statistics) else len(self.reference)

    def measure(self, *, batch_size: int = 64, on_images: Callable[[int], None] = lambda images: None) -> Reference:
        """Compute the reference's features; `on_images` is called with the images of every batch."""
        for remark in self.remarks:
            warnings.warn(remark, stacklevel=2)
        if isinstance(self.reference, Statistics):
            return Reference(self, self.reference, None)
        found: Iterable[Floats] = _features(self.extractor, image_batches(self.reference, batch_size), on_images)
        rows, statistics = None, None
        if KID in self.metrics:
            rows = _gathered(found, len(self.reference))
            found = [rows]
        if FID in self.metrics:
            statistics = moments_of(found).statistics(
                extractor=self.extractor.sha256,
                fingerprint=self.side.fingerprint,
                source=self.side.source,
                geometry=str(self.reference.geometry),
            )
        return Reference(self, statistics, rows)


def question(
    pictures: Pictures | ToDraw,
    reference: ImageSet | Statistics,
    extractor: Extractor,
    *,
    metrics: Iterable[str] | None = None,
) -> Question:
    """Check what is asked, before any feature is computed; None asks for every distance that the reference allows.

    A Fréchet distance of few images never comes alone: the kernel distance, which has no bias, is added.

    Errors (InputError): features or images that do not compare, too few images, a metric that cannot be.
    """
    side = _side(reference, extractor)
    asked = tuple(metrics) if metrics is not None else DISTANCES if side.given_as == "images" else (FID,)
    _check_metrics(asked, side)
    if isinstance(reference, Statistics):
        reference.check_features(extractor.dimensions, extractor.sha256)
        if reference.geometry not in ("", str(pictures.geometry)):
            came = f"the statistics of '{reference.source}' are of images {reference.geometry}"
            raise InputError(f"{came}, the pictures are {pictures.geometry}; one size would fit.")
    elif reference.geometry != pictures.geometry:
        came = f"the images in '{reference.name}' are {reference.geometry}, the pictures {pictures.geometry}"
        raise InputError(f"{came}; one size would fit.")
    if FID in asked and extractor.dimensions > MOST_DIMENSIONS:
        came = f"a Fréchet distance in {extractor.dimensions:,} dimensions ('{extractor.name}') is out of reach"
        raise InputError(f"{came}; kid, or features of up to {MOST_DIMENSIONS:,}, would fit.")
    _check_counts(pictures.count, side)
    few = _few(pictures.count, side, extractor.dimensions) if FID in asked else ""
    if few and side.given_as == "images":
        asked = DISTANCES
    remarks = [few] if few else []
    if side.extractor == UNKNOWN:
        remarks.append(
            f"nothing in '{side.source}' says which features it is of; that '{extractor.name}' fits is taken on trust."
        )
    if pictures.fingerprint and pictures.fingerprint == side.fingerprint:
        remarks.append(f"the pictures are the very images of the reference '{side.source}'.")
    return Question(reference, extractor, asked, side, tuple(remarks))


def _side(reference: ImageSet | Statistics, extractor: Extractor) -> Side:
    if isinstance(reference, Statistics):
        known = reference.extractor or UNKNOWN
        return Side(reference.source, "statistics", reference.count, reference.fingerprint, known)
    return Side(reference.name, "images", len(reference), reference.fingerprint, extractor.sha256)


def _check_metrics(asked: tuple[str, ...], side: Side) -> None:
    strange = next((name for name in asked if name not in DISTANCES), None)
    if strange is not None:
        raise InputError(f"there is no distance '{strange}'{nearest(strange, DISTANCES)}; there are fid and kid.")
    if KID in asked and side.given_as == "statistics":
        raise InputError(
            f"kid needs the images of the reference, and '{side.source}' has but statistics; fid would fit."
        )


def _check_counts(pictures: int, side: Side) -> None:
    """Raise InputError if one side has too few images for the jackknife; a finished mean and covariance has enough."""
    there = side.count if side.given_as == "images" else None
    if pictures < LEAST:
        raise InputError(f"{pictures:,} pictures are too few for a distance with an error; {LEAST} would fit.")
    if there is not None and there < LEAST:
        raise InputError(f"{there:,} reference images in '{side.source}' are too few; {LEAST} would fit.")


def _few(pictures: int, side: Side, dimensions: int) -> str:
    """A warning if there are few images for a Fréchet distance, else ""."""
    usual = max(USUAL, dimensions)
    there = usual if side.count is None else side.count
    if min(pictures, there) >= usual:
        return ""
    images = f"{pictures:,} pictures" + ("" if side.count is None else f" and {there:,} reference images")
    return (
        f"{images} are few for a Fréchet distance in {dimensions:,} dimensions, which comes out too large then; "
        f"{usual:,} of each would fit."
    )


# ---- the answer -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `ddpm.compare` hands out.

    fid       Fréchet distance, with its error and its bias; None if it was not asked for
    kid       kernel distance, unbiased; None if it was not asked for, or there are no images to compare with
    protocol  everything that they depend on, as plain values
    """

    fid: Estimate | None
    kid: Estimate | None
    protocol: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Reference:
    """The reference's side of every comparison: statistics for fid, features (M, D) for kid."""

    question: Question
    statistics: Statistics | None
    features: Floats | None

    def judge(
        self, pictures: Pictures, *, batch_size: int = 64, on_images: Callable[[int], None] = lambda images: None
    ) -> Comparison:
        """The distances of some pictures; `on_images` is called with the images of every batch of features."""
        batches = pictures.batches(batch_size)
        found = _gathered(_features(self.question.extractor, batches, on_images), pictures.count)
        fid = None if self.statistics is None else frechet_estimate(found, self.statistics)
        kid = None if self.features is None else kernel_estimate(found, self.features)
        return Comparison(fid, kid, self._protocol(pictures))

    def _protocol(self, pictures: Pictures) -> dict[str, Any]:
        extractor, side = self.question.extractor, self.question.side
        return {
            "extractor": {"name": extractor.name, "sha256": extractor.sha256, "dimensions": extractor.dimensions},
            "geometry": str(extractor.geometry),
            "counts": {"pictures": pictures.count, "reference": side.count},
            "reference": {
                "source": side.source,
                "given_as": side.given_as,
                "fingerprint": side.fingerprint or UNKNOWN,
                "extractor": side.extractor,
            },
            "pictures": pictures.about,
            "quantisation": pictures.quantisation,
            "errors": ERRORS,
        }


def _gathered(batches: Iterable[Floats], count: int) -> Floats:
    """Features (N, D) of N = count images; at no time twice in memory."""
    rows: Floats | None = None
    done = 0
    for batch in batches:
        rows = np.empty((count, batch.shape[1])) if rows is None else rows
        rows[done : done + len(batch)] = batch
        done += len(batch)
    assert rows is not None, "no images"
    assert done == count
    return rows


def _features(extractor: Extractor, batches: Iterable[Tensor], on_images: Callable[[int], None]) -> Iterator[Floats]:
    for batch in batches:
        yield extractor(batch)
        on_images(len(batch))


def compare(
    pictures: Model | Tensor | ImageSet,
    reference: ImageSet | Statistics | str | Path,
    *,
    features: str,
    metrics: Iterable[str] | None = None,
    seeds: Iterable[int] | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    spacing: str | None = None,
    variance: str | None = None,
    eta: float | None = None,
    threshold: str = "static",
    class_name: str | None = None,
    guidance: float = 1.0,
    keep: str | Path | None = None,
    batch_size: int = 64,
    device: str = "auto",
    on_step: Callable[[int], None] = lambda pictures: None,
    on_images: Callable[[int], None] = lambda images: None,
) -> Comparison:
    """How far pictures lie from a reference: .fid and .kid, each a value, its error and its bias, and the .protocol.

    pictures              a model that draws them, images from `images`, or uint8 (N, C, H, W)
    reference             images, statistics of them, or the file of statistics (which allow fid alone)
    features              "pixels", or the file of a torch.export program from uint8 (B, C, H, W) to floats (B, D)
    metrics               "fid", "kid"; None is every one that the reference allows
    seeds                 of a model's pictures; 0 to 2047 if not given
    sampler ... guidance  of a model's pictures, see samplers.Sampling
    keep                  a folder that keeps a model's pictures; what is there already is not drawn again
    batch_size            pictures, and images of features, at a time
    device                of the features' network; a model's is its own
    on_step, on_images    called after every step with the pictures it advanced; after every batch of features

    Errors: InputError, all before anything is drawn, for features, images or statistics that do not compare, for too
    few of them, and as in `sample`; DamagedFile for files of ours.
    """
    sampling = Sampling(sampler, steps, spacing, variance, eta, threshold, class_name, guidance)
    judged: Pictures | ToDraw
    if isinstance(pictures, Model):
        numbers = range(USUAL) if seeds is None else list(seeds)
        judged = ToDraw(pictures, numbers, sampling, None if keep is None else Path(keep))
        judged.missing()
    elif sampling != Sampling() or seeds is not None or keep is not None:
        raise InputError("seeds, keep and how to sample mean nothing to pictures that are there; leave them out.")
    else:
        judged = given_pictures(pictures)
    if isinstance(reference, str | Path):
        reference = load_statistics(reference)
    where = pictures.device if isinstance(pictures, Model) else resolve_device(device)
    asked = question(judged, reference, open_extractor(features, judged.geometry, where), metrics=metrics)
    measured = asked.measure(batch_size=batch_size, on_images=on_images)
    drawn = judged.draw(batch_size=batch_size, on_step=on_step) if isinstance(judged, ToDraw) else judged
    return measured.judge(drawn, batch_size=batch_size, on_images=on_images)
