"""FID and KID of samples against a reference, each with its error, and the protocol that they depend on.

The distances themselves and their errors are in `ddpm.metrics`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from torch import Tensor

from ddpm.base.files import check_output
from ddpm.base.geometry import parse_size
from ddpm.base.progress import Progress, progress_of
from ddpm.base.tensors import Floats
from ddpm.data.sizing import FITS
from ddpm.data.sources import ImageData, ImageSet, image_set
from ddpm.errors import InputError, known
from ddpm.evaluation.fid_report import FidReport
from ddpm.evaluation.result_files import ResultFiles
from ddpm.evaluation.samples import Samples, given_samples, image_batches, model_samples
from ddpm.generation.draw import described, plan_for
from ddpm.metrics.extractors import open_extractor
from ddpm.metrics.features import Extractor
from ddpm.metrics.frechet import frechet_estimate
from ddpm.metrics.jackknife import BLOCKS
from ddpm.metrics.kernel import kernel_estimate
from ddpm.metrics.statistics import (
    MOST_DIMENSIONS,
    Statistics,
    check_statistics_file,
    is_statistics,
    load_statistics,
    save_statistics,
    statistics_of,
)
from ddpm.model.datasets import images_for
from ddpm.model.model import Model, resolve_device
from ddpm.model.trained_on import TrainedOn, trained_on
from ddpm.samplers.plan import Sampling, SamplingOptions

USUAL = 2048  # images; a Fréchet distance from fewer is mostly bias
LEAST = 2 * BLOCKS  # images on either side, for an error
UNKNOWN = "unknown"
ERRORS = f"jackknife of {BLOCKS} blocks; fid: of the samples, the reference as it is; kid: of both"


def evaluate_fid(
    samples: Model | ImageData,
    data: ImageData | Statistics,
    *,
    features: str,
    seeds: Iterable[int] | None = None,
    size: str | int | None = None,
    fit: str | None = None,
    alpha: str | None = None,
    keep: str | Path | None = None,
    save_to: str | Path | None = None,
    batch_size: int = 64,
    device: str = "auto",
    progress: Progress | bool = True,
    **how: Unpack[SamplingOptions],
) -> FidReport:
    """How far samples lie from a reference: .fid and .kid, each a value, its error and its bias, and the .protocol.

    samples     a model that draws them, or images that are there
    data        images, or the file of their mean and covariance (.npz, which allows the FID alone)
    features    "pixels", or the file of a torch.export program from uint8 (B, C, H, W) to floats (B, D)
    seeds       of a model's samples; 0 to 2047 if not given
    size        "H" or "HxW" to bring all images to; with a model only its own
    fit         how: "crop" (usual) or "resize"; with a model it is enough by itself, see model.datasets.images_for
    alpha       what becomes of see-through images, see data.sources.open_images
    keep        a folder that keeps a model's samples; what is there already is not drawn again
    save_to     an .npz for the statistics of `data`, which may stand for it later
    batch_size  samples, and images of features, at a time
    device      of the features' network; a model's is its own
    how         a model's samples are drawn, see samplers.Sampling

    Errors: InputError, all before anything is drawn, for features, images or statistics that do not compare, for too
    few of them, and as in `sample`; DamagedFile for files that ddpm wrote.
    """
    report_to, sampling = progress_of(progress), Sampling(**how)
    model = samples if isinstance(samples, Model) else None
    opened = _opener(model, size, fit, alpha)
    reference = _reference(data, opened)
    if model is not None and isinstance(reference, Statistics) and (size, fit, alpha) != (None, None, None):
        raise InputError("the reference is statistics: its images have their size, so leave size, fit and alpha out.")
    files = None if save_to is None else _statistics_file(save_to, reference)
    sentences: Iterable[str] = ()
    if isinstance(samples, Model):
        plan, numbers = plan_for(samples, sampling), range(USUAL) if seeds is None else list(seeds)
        judged = model_samples(samples, numbers, plan, keep=None if keep is None else Path(keep), progress=report_to)
        where, sentences = samples.device, described(samples, plan)
    elif sampling != Sampling() or seeds is not None or keep is not None:
        raise InputError("these samples are images, not a model: leave out seeds, keep and how to sample.")
    else:
        judged, where = given_samples(_images(samples, reference, opened)), resolve_device(device)
    extractor = open_extractor(features, judged.geometry, where)
    for remark in check_comparison(judged, reference, extractor, saved=files is not None):
        warnings.warn(remark, stacklevel=3)
    for sentence in sentences:
        report_to.say(sentence)
    seen = None if model is None else _seen(model, reference)
    rows, statistics = _measured(reference, extractor, batch_size, report_to)
    if files is not None and statistics is not None:
        files.write(files.names[0], partial(save_statistics, statistics=statistics))
        for file in files.written:
            report_to.say(f"{file}: statistics of {statistics.source}.")
    found = _features("Features", extractor, judged.batches(batch_size), judged.count, report_to)
    fid = kid = None
    if statistics is not None:
        with report_to.stage("Fréchet distances", BLOCKS + 1) as advance:  # seconds each, in thousands of dimensions
            fid = frechet_estimate(found, statistics, advance=advance)
    if rows is not None:
        kid = kernel_estimate(found, rows)
    lost = () if files is None else tuple(files.lost)
    return FidReport(fid, kid, _protocol(judged, reference, extractor, seen), seen, lost)


def _opener(model: Model | None, size: str | int | None, fit: str | None, alpha: str | None) -> Callable[..., ImageSet]:
    """What opens images at the size that was asked for; with a model, at its own."""
    if model is not None:
        return partial(images_for, model, size=size, fit=fit, alpha=alpha)
    known("fit", fit, FITS)
    if size is None and fit is not None:
        raise InputError("fit says how images come to a size: give the size as well.")
    return partial(image_set, size=None if size is None else parse_size(str(size)), fit=fit or FITS[0], alpha=alpha)


def _reference(data: ImageData | Statistics, opened: Callable[..., ImageSet]) -> ImageSet | Statistics:
    if isinstance(data, Statistics):
        return data
    if isinstance(data, str | os.PathLike) and is_statistics(data):
        return load_statistics(data)
    return opened(data)


def _seen(model: Model, reference: ImageSet | Statistics) -> TrainedOn | None:
    """Whether the reference is what the model was trained on; None for statistics of images that are not known."""
    if isinstance(reference, ImageSet):
        return trained_on(model, reference)
    if reference.count is None or reference.fingerprint != model.data_fingerprint:
        return None
    return TrainedOn(reference.source, reference.count, reference.count)


def _images(data: ImageData, reference: ImageSet | Statistics, opened: Callable[..., ImageSet]) -> ImageSet:
    """Samples as images, with as many channels as the reference where that loses nothing."""
    found = opened(data)
    if isinstance(data, str | os.PathLike) and isinstance(reference, ImageSet) and found.geometry != reference.geometry:
        with suppress(InputError):
            return opened(data, channels=reference.geometry.channels)
    return found


def _statistics_file(path: str | Path, reference: ImageSet | Statistics) -> ResultFiles:
    if isinstance(reference, Statistics):
        raise InputError("the reference is statistics already: leave out the file to save them to.")
    file = check_statistics_file(path)
    if file.exists() and not is_statistics(file):
        raise InputError(f"'{file}' is there and holds no statistics: choose another file to save them to.")
    return ResultFiles(check_output(file.parent, folder=True), [file.name])


def check_comparison(
    samples: Samples, reference: ImageSet | Statistics, extractor: Extractor, *, saved: bool = False
) -> list[str]:
    """Raise InputError for what does not compare; returns warnings about what does.

    saved  the reference's statistics will be, so there must be some
    """
    name, count = _name_and_count(reference)
    if isinstance(reference, Statistics):
        reference.check_features(extractor.dimensions, extractor.sha256)
    if str(reference.geometry) not in ("", str(samples.geometry)):
        sized = isinstance(reference, ImageSet) and reference.geometry.size != samples.geometry.size
        advice = "; --size brings both to one" if sized and samples.fingerprint else ""
        raise InputError(
            f"the reference '{name}' is of images {reference.geometry}, the samples are {samples.geometry}{advice}."
        )
    counts = {"samples": samples.count}
    if isinstance(reference, ImageSet):
        counts[f"images in '{name}'"] = len(reference)
    for what, number in counts.items():
        if number < LEAST:
            raise InputError(f"{number:,} {what} are too few for a distance with an error: it takes {LEAST}.")
    costly = extractor.dimensions > MOST_DIMENSIONS
    if costly and (saved or isinstance(reference, Statistics)):
        raise InputError(
            f"a Fréchet distance in {extractor.dimensions:,} dimensions ('{extractor.name}') is too costly: the most "
            f"are {MOST_DIMENSIONS:,}."
        )
    usual, remarks = max(USUAL, extractor.dimensions), []
    if not costly and min(samples.count, usual if count is None else count) < usual:
        there = "" if count is None else f" and {count:,} reference images"
        remarks.append(
            f"{samples.count:,} samples{there} are few for a Fréchet distance in {extractor.dimensions:,} dimensions, "
            f"which comes out too large then; {usual:,} of each are usual."
        )
    if isinstance(reference, Statistics) and not reference.extractor:
        remarks.append(f"'{name}' does not say which features it is of; that they are '{extractor.name}' is assumed.")
    if samples.fingerprint and samples.fingerprint == reference.fingerprint:
        remarks.append(f"the samples are the very images of the reference '{name}'.")
    return remarks


def _name_and_count(reference: ImageSet | Statistics) -> tuple[str, int | None]:
    """The source, and how many images it holds, None where that is not known."""
    if isinstance(reference, ImageSet):
        return reference.name, len(reference)
    return reference.source, reference.count


def _measured(
    reference: ImageSet | Statistics, extractor: Extractor, batch_size: int, progress: Progress
) -> tuple[Floats | None, Statistics | None]:
    """The reference's features (M, D), for the kernel distance, and its statistics, for the Fréchet distance."""
    if isinstance(reference, Statistics):
        return None, reference
    batches = image_batches(reference, batch_size)
    rows = _features("Features of the reference", extractor, batches, len(reference), progress)
    if extractor.dimensions > MOST_DIMENSIONS:
        return rows, None
    about = {"extractor": extractor.sha256, "fingerprint": reference.fingerprint, "source": reference.name}
    return rows, statistics_of(rows, geometry=str(reference.geometry), **about)


def _features(title: str, extractor: Extractor, batches: Iterable[Tensor], count: int, progress: Progress) -> Floats:
    """Features (N, D) of N = count images; at no time twice in memory."""
    rows = np.empty((count, extractor.dimensions))
    done = 0
    with progress.stage(title, count) as advance:
        for batch in batches:
            rows[done : done + len(batch)] = extractor(batch)
            done += len(batch)
            advance(len(batch))
    return rows


def _protocol(
    samples: Samples, reference: ImageSet | Statistics, extractor: Extractor, seen: TrainedOn | None
) -> dict[str, Any]:
    name, count = _name_and_count(reference)
    extracted = extractor.sha256 if isinstance(reference, ImageSet) else reference.extractor or UNKNOWN
    return {
        "extractor": {"name": extractor.name, "sha256": extractor.sha256, "dimensions": extractor.dimensions},
        "geometry": str(extractor.geometry),
        "counts": {"samples": samples.count, "reference": count},
        "reference": {
            "source": name,
            "given_as": "images" if isinstance(reference, ImageSet) else "statistics",
            "fingerprint": reference.fingerprint or UNKNOWN,
            "extractor": extracted,
            "trained_on": None if seen is None else seen.table(),
        },
        "samples": samples.about,
        "quantisation": samples.quantisation,
        "errors": ERRORS,
    }
