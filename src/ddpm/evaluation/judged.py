"""Pictures to judge: given, or to be drawn by a model; always as the 8 bits that would lie in a file."""

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

from ddpm.data import ImageSet
from ddpm.data.grammar import parse_source
from ddpm.drawn import Drawing, drawing
from ddpm.errors import InputError
from ddpm.geometry import Geometry
from ddpm.kept import kept, protocol_in
from ddpm.model import PAPER, Model
from ddpm.samplers import Sampling

NEAREST_LEVEL, AS_GIVEN = "nearest of 256 levels", "8 bits, as given"


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures to judge.

    about         where they come from, for the protocol
    quantisation  how they came to 8 bits
    batches       uint8 (B, C, H, W), at most so many at a time
    fingerprint   of a source, "" for others
    """

    count: int
    geometry: Geometry
    about: dict[str, Any]
    quantisation: str
    batches: Callable[[int], Iterator[Tensor]]
    fingerprint: str = ""

    def tensor(self, batch_size: int = 256) -> Tensor:
        """All of them at once, (N, C, H, W)."""
        return torch.cat(list(self.batches(batch_size)))


def given_pictures(pictures: ImageSet | Tensor) -> Pictures:
    """Pictures that are there already: a source of images, or uint8 (N, C, H, W)."""
    if isinstance(pictures, ImageSet):
        return _of_source(pictures)
    if pictures.dtype != torch.uint8 or pictures.ndim != 4:
        came = f"{str(pictures.dtype).removeprefix('torch.')} of shape {tuple(pictures.shape)}"
        raise InputError(f"pictures are {came}; uint8 (N, C, H, W) would fit.")
    return _of_tensor(pictures.cpu(), {"source": "a tensor"}, AS_GIVEN)


def _of_tensor(pictures: Tensor, about: dict[str, Any], quantisation: str) -> Pictures:
    geometry = Geometry(*pictures.shape[1:])
    return Pictures(len(pictures), geometry, about, quantisation, partial(_tensor_batches, pictures))


def _of_source(images: ImageSet) -> Pictures:
    about = {"source": images.name, "fingerprint": images.fingerprint, **_drawn_how(images)}
    quantisation = NEAREST_LEVEL if "model" in about else AS_GIVEN
    batches = partial(image_batches, images)
    return Pictures(len(images), images.geometry, about, quantisation, batches, images.fingerprint)


def _drawn_how(images: ImageSet) -> dict[str, Any]:
    """How a folder or an .npz of ours says that these pictures were drawn; nothing for others."""
    with suppress(InputError):
        place = Path(parse_source(images.name).path).expanduser()
        array = protocol_in(place) if place.suffix == ".npz" else None
        if array is not None and len(array[1]) == len(images):
            return {"model": array[0], "seeds": written(array[1])}
        found = kept(place)
        seeds = {f"{seed:06d}.png": seed for seed in found.seeds}
        names = [images.item_name(k) for k in range(len(images))]
        if seeds.keys() >= set(names):
            return {"model": found.protocol, "seeds": written([seeds[name] for name in names])}
    return {}


def _tensor_batches(pictures: Tensor, batch_size: int) -> Iterator[Tensor]:
    yield from torch.split(pictures, batch_size)


def image_batches(images: ImageSet, batch_size: int) -> Iterator[Tensor]:
    """All images of a source, in order: uint8 (B, C, H, W)."""
    for start in range(0, len(images), batch_size):
        yield torch.from_numpy(images.array(range(start, min(start + batch_size, len(images)))))


@dataclass(frozen=True, eq=False)
class ToDraw:
    """Pictures that a model is to draw.

    seeds  one picture each, no seed twice
    keep   a folder that keeps them, where a drawing that was stopped goes on; None keeps them in memory
    """

    model: Model
    seeds: Sequence[int]
    sampling: Sampling = PAPER
    keep: Path | None = None
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError("a seed comes twice, and so would its picture; each seed once would fit.")
        if self.keep is not None and self.keep.suffix == ".npz":
            raise InputError(f"pictures are kept in a folder, not in '{self.keep}'; '{self.keep.stem}' would fit.")

    @property
    def count(self) -> int:
        """As of Pictures."""
        return len(self.seeds)

    @property
    def geometry(self) -> Geometry:
        """As of Pictures."""
        return self.model.geometry

    @property
    def about(self) -> dict[str, Any]:
        """As of Pictures."""
        return {
            "source": self.model.source,
            "images_seen": self.model.images_seen,
            "model": self.model.protocol(self.sampling),
            "seeds": written(self.seeds),
        }

    def missing(self) -> Sequence[int]:
        """The seeds still to draw; InputError if the model cannot draw so, or other pictures lie in the folder."""
        self.model.protocol(self.sampling)  # it looks at all that a picture depends on
        return self.seeds if self.keep is None else self._drawing(self.keep).missing()

    def draw(self, *, batch_size: int = 64, on_step: Callable[[int], None] = lambda pictures: None) -> Pictures:
        """Draw what is missing. Options as in Model.draw_batches."""
        if self.keep is None:
            drawn = self.model.draw(self.seeds, self.sampling, batch_size=batch_size, on_step=on_step)
            return _of_tensor(drawn, self.about, NEAREST_LEVEL)
        self._drawing(self.keep).draw(batch_size=batch_size, on_step=on_step)
        return Pictures(
            self.count, self.geometry, self.about, NEAREST_LEVEL, partial(_kept_batches, self.keep, self.seeds)
        )

    def _drawing(self, folder: Path) -> Drawing:
        return drawing(self.model, self.seeds, self.sampling, folder)


def _kept_batches(folder: Path, seeds: Sequence[int], batch_size: int) -> Iterator[Tensor]:
    yield from kept(folder).batches(seeds, batch_size=batch_size)


def written(seeds: Sequence[int]) -> str:
    """Seeds as a person writes them, in this order: 0-63, or 1,5,10-19."""
    numbers = np.asarray(seeds, np.int64)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
