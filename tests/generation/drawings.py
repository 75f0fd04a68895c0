"""Drawings of a model that needs no network, stopped where a test wants it; and what they left."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm.base.geometry import Geometry
from ddpm.base.noise import NOISE_VERSION
from ddpm.base.progress import Advance
from ddpm.diffusion.schedule import make_schedule
from ddpm.generation.draw import plan_for
from ddpm.generation.image_folder import hashes_in
from ddpm.generation.resumable import Drawing
from ddpm.model.model import Model
from ddpm.samplers.plan import Plan, Sampling, plan

SAMPLING = Sampling(steps=3)
SEEDS = list(range(7))
BATCH = 3
OUT = {"folder": "images", "array": "a.npz"}
SMALL = Geometry(1, 2, 3)
BOTH = pytest.mark.parametrize("out", OUT.values(), ids=OUT)


@dataclasses.dataclass
class Fake:
    """Draws, without a network, images that depend on their batch: all of a batch begin with the sum of its seeds."""

    geometry: Geometry = SMALL
    drawn: list[int] = dataclasses.field(default_factory=list)

    def protocol(self, plan: Plan) -> dict[str, Any]:
        return {
            "weights": "ema",
            "weights_sha256": "7" * 64,
            "sampler": "fake",
            "steps": plan.sampling.steps,
            "calls": 2,
            "spacing": "uniform",
            "levels": (0.25, 1 / 3),
            "eta": None,
            "variance": None,
            "measured_sha256": None,
            "threshold": "static",
            "guidance": 1.0,
            "class": None,
            "precision": plan.sampling.precision,
            "noise": NOISE_VERSION,
        }

    def labels_for(self, seeds: Sequence[int], name: str | None = None) -> Tensor | None:
        return None

    def draw_batches(
        self, seeds: Sequence[int], plan: Plan, *, batch_size: int, asked: int, advance: Advance
    ) -> Iterator[tuple[Sequence[int], Tensor]]:
        """In two steps a batch."""
        for start in range(0, len(seeds), batch_size):
            part = seeds[start : start + batch_size]
            for _ in range(2):
                advance(len(part))
            self.drawn += part
            images = [
                np.random.default_rng(seed % 2**32).integers(0, 256, self.geometry.shape, np.uint8) for seed in part
            ]
            stacked = np.stack(images)
            stacked[:, 0, 0, 0] = sum(part) % 256
            yield part, torch.from_numpy(stacked)


def fake(out: Path, seeds: Sequence[int] = SEEDS, sampling: Sampling = SAMPLING, **options: Any) -> Drawing:
    return Drawing(Fake(**options), plan(sampling, make_schedule(steps=20)), seeds, out)  # type: ignore[arg-type]


def drawing(model: Model, seeds: Sequence[int], sampling: Sampling, out: Path) -> Drawing:
    return Drawing(model, plan_for(model, sampling), seeds, out)


def drawn_by(found: Drawing) -> list[int]:
    """What its fake model drew."""
    return found.model.drawn  # type: ignore[attr-defined,no-any-return]


def place_of(out: str) -> str:
    """The folder that its PNGs go to."""
    return "a.npz.parts" if out == "a.npz" else out


def contents(out: Path) -> dict[str, bytes]:
    """The images of a folder as they look, or all of a file; and everything else that lies there."""
    if out.is_file():
        return {"file": out.read_bytes()}
    shown = {}
    for path in out.iterdir():
        if path.suffix == ".png" and not path.name.startswith("."):
            with Image.open(path) as image:
                shown[path.name] = f"{image.mode} {image.size}".encode() + image.tobytes()
        elif path.name == "sampling.jsonl":
            shown[path.name] = repr(sorted((hashes_in(out) or {}).items())).encode()  # a kill may leave a line twice
        elif path.name != ".lock":
            shown[path.name] = path.read_bytes()
    return shown


def finished_without_a_stop(out: Path, **options: Any) -> dict[str, bytes]:
    fake(out, **options).draw(batch_size=BATCH)
    return contents(out)


class Stop(BaseException):
    """What Ctrl-C is."""


def stopping(after: int) -> Advance:
    steps = iter(range(after))

    def advance(more: int, note: str = "") -> None:
        if next(steps, None) is None:
            raise Stop

    return advance


def stopped(found: Drawing, after: int) -> None:
    with pytest.raises(Stop):
        found.draw(batch_size=BATCH, advance=stopping(after))


def stopped_at_image(found: Drawing, number: int) -> None:
    """Before it writes this PNG, the first of a batch, which lies there whole."""
    plain, before = Image.Image.save, iter(range(1, number))

    def save(image: Image.Image, target: Path) -> None:
        if next(before, None) is None:
            raise Stop
        plain(image, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "save", save)
        with pytest.raises(Stop):
            found.draw(batch_size=BATCH)
