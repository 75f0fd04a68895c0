"""Samples to compare: images that are there already, or that a model will draw; always with 8 bits, as in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm.base.geometry import Geometry
from ddpm.base.image_io import file_name
from ddpm.base.progress import SILENT, Progress
from ddpm.data.grammar import parse_source
from ddpm.data.sources import ImageSet
from ddpm.errors import InputError
from ddpm.generation.array_file import protocol_in
from ddpm.generation.draw import draw_batches, protocol
from ddpm.generation.image_folder import open_image_folder
from ddpm.generation.resumable import ARRAY, Drawing
from ddpm.model.model import Model
from ddpm.samplers.plan import Plan

NEAREST_LEVEL, AS_GIVEN = "nearest of 256 levels", "8 bits, as given"


@dataclass(frozen=True, eq=False)
class Samples:
    """Images to compare.

    about         where they come from, for the protocol
    quantisation  how they came to 8 bits
    batches       draws or reads them: uint8 (B, C, H, W), at most so many at a time
    fingerprint   of a source, "" for others
    """

    count: int
    geometry: Geometry
    about: dict[str, Any]
    quantisation: str
    batches: Callable[[int], Iterator[Tensor]]
    fingerprint: str = ""


def given_samples(images: ImageSet) -> Samples:
    """Images that are there already."""
    about = {"source": images.name, "fingerprint": images.fingerprint, **_drawn_how(images)}
    quantisation = NEAREST_LEVEL if "model" in about else AS_GIVEN
    batches = partial(image_batches, images)
    return Samples(len(images), images.geometry, about, quantisation, batches, images.fingerprint)


def model_samples(
    model: Model, seeds: Sequence[int], plan: Plan, *, keep: Path | None = None, progress: Progress = SILENT
) -> Samples:
    """Images that a model will draw, one a seed, no seed twice.

    keep  a folder that keeps them, where a stopped drawing goes on; None draws them when they are needed

    Errors (InputError), before anything is drawn: a seed that comes twice, other images in the folder.
    """
    if len(set(seeds)) < len(seeds):
        raise InputError("a seed was given twice: give each seed once.")
    about = {
        "source": model.source,
        "images_seen": model.images_seen,
        "model": protocol(model, plan),
        "seeds": written(seeds),
    }
    drawing = None
    if keep is not None:
        if keep.suffix == ARRAY:
            raise InputError(f"images are kept in a folder: choose '{keep.stem}', not '{keep}'.")
        drawing = Drawing(model, plan, seeds, keep)
        drawing.missing()

    def batches(batch_size: int) -> Iterator[Tensor]:
        missing = len(seeds) if drawing is None else len(drawing.missing())
        with progress.stage("Sampling", missing * plan.chain.steps) as advance:
            if drawing is None:
                for _, images in draw_batches(model, seeds, plan, batch_size=batch_size, advance=advance):
                    yield images
                return
            if missing < len(seeds):
                progress.say(f"{len(seeds) - missing:,} of {len(seeds):,} images are in '{keep}' already.")
            drawing.draw(batch_size=batch_size, advance=advance)
        yield from open_image_folder(drawing.out).batches(seeds, batch_size=batch_size)

    return Samples(len(seeds), model.geometry, about, NEAREST_LEVEL, batches)


def _drawn_how(images: ImageSet) -> dict[str, Any]:
    """How a folder or an .npz that ddpm wrote says that these images were drawn; nothing for others."""
    with suppress(InputError):
        place = Path(parse_source(images.name).path).expanduser()
        array = protocol_in(place) if place.suffix == ARRAY else None
        if array is not None and len(array[1]) == len(images):
            return {"model": array[0], "seeds": written(array[1])}
        found = open_image_folder(place)
        seeds = {file_name(seed): seed for seed in found.seeds}
        names = [images.item_name(k) for k in range(len(images))]
        if seeds.keys() >= set(names):
            return {"model": found.protocol, "seeds": written([seeds[name] for name in names])}
    return {}


def image_batches(images: ImageSet, batch_size: int) -> Iterator[Tensor]:
    """All images of a source, in order: uint8 (B, C, H, W)."""
    for start in range(0, len(images), batch_size):
        yield torch.from_numpy(images.array(range(start, min(start + batch_size, len(images)))))


def written(seeds: Sequence[int]) -> str:
    """Seeds as a person writes them, in this order: 0-63, or 1,5,10-19."""
    numbers = np.asarray(seeds, np.int64)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)[: len(numbers)]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
