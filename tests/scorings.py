"""Small things to score: sets of images in memory, networks whose errors are known, checkpoints of a few weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm.base.geometry import Geometry
from ddpm.base.progress import Advance, Progress
from ddpm.base.tables import signed
from ddpm.base.units import images_to_x
from ddpm.data.items import ArrayItems
from ddpm.data.sources import ImageSet
from ddpm.data.stream import Reader
from ddpm.diffusion.bound import prior_nats, step_term
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.process import Process
from ddpm.diffusion.schedule import Schedule
from ddpm.generation.draw import draw, plan_for
from ddpm.likelihood.monte_carlo import Scoring
from ddpm.model.checkpoint import load_model, write_checkpoint
from ddpm.model.model import Model, build_network
from ddpm.model.recipe import make_recipe
from ddpm.samplers.plan import Sampling

SHAPE = (1, 2, 4)
SPREAD = 0.3  # standard deviation of the pixels of `pixels`, on the scale of [-1, 1]


def pixels(count: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0, spread: float = SPREAD) -> np.ndarray:
    """Grey levels of Gaussian pixels: uint8 (count, *shape)."""
    x = spread * np.random.default_rng(seed).standard_normal((count, *shape))
    return np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8)


def image_set(
    images: np.ndarray, labels: Sequence[int] | None = None, class_names: tuple[str, ...] = (), name: str = "here"
) -> ImageSet:
    """Images in memory as a source opened; the fingerprint is that of their content."""
    marks = None if labels is None else np.asarray(labels, np.int64)
    fingerprint = hashlib.sha256(images.tobytes() + repr((images.shape, labels)).encode()).hexdigest()
    items = ArrayItems(images, name, np.arange(len(images)))
    return ImageSet(name, Geometry(*images.shape[1:]), marks, class_names, fingerprint, items, "crop")


class Network:
    """Predicts the noise of Gaussian data of one spread exactly, but for a wobble; counts the images it was asked."""

    def __init__(self, schedule: Schedule, spread: float = SPREAD, wobble: float = 0.0) -> None:
        self.schedule, self.spread, self.wobble, self.calls = schedule, spread, wobble, 0
        self.seen: list[Tensor | None] = []

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls += len(x)
        self.seen.append(labels)
        a = torch.from_numpy(np.interp(time.double() + 1, np.arange(self.schedule.steps + 1), self.schedule.alpha_bar))
        a = a.to(x.dtype).reshape(-1, 1, 1, 1)
        eps = (1 - a).sqrt() * x / (a * self.spread**2 + 1 - a)
        shift = 0 if labels is None else labels.to(x.dtype).reshape(-1, 1, 1, 1)
        return eps + self.wobble * torch.tanh(3 * x.flip(-1) + x.roll(1, -1) + shift)


def known_error(schedule: Schedule, spread: float = SPREAD) -> np.ndarray:
    """MSE of x0 of the exact network on Gaussian pixels (T + 1,): the variance of p(x_0 | x_t)."""
    a = schedule.alpha_bar
    return spread**2 * (1 - a) / (a * spread**2 + 1 - a)


def closed_form_nats(chain: Schedule, squared_error: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
    """E L_{i-1} a pixel from the mean squared error of x0, for isotropic variances.

    squared_error  (S + 1,) by step of the chain
    log_variance   (S + 1,) of the reverse steps
    returns        (S + 1,) nats a pixel; indices 0 and 1 unused (0)
    """
    apart = np.log(chain.posterior_variance[2:]) - log_variance[2:]
    square = chain.posterior_x0[2:] ** 2 * squared_error[2:] / np.exp(log_variance[2:])
    return np.concatenate([[0.0, 0.0], 0.5 * (np.expm1(apart) - apart + square)])


def scoring_of(
    schedule: Schedule,
    images: np.ndarray,
    *,
    chain: Schedule | None = None,
    wobble: float = 0.0,
    denoiser: dict[str, Any] | None = None,
    **options: Any,
) -> Scoring:
    """The network above on images, all in float64; its denoiser's other settings, and the scoring's."""
    settings = {"variance": "small", "threshold": "none", "dtype": torch.float64} | (denoiser or {})
    whole = Denoiser(settings.pop("network", None) or Network(schedule, wobble=wobble), Process(schedule), **settings)
    return Scoring(whole, Reader(image_set(images)), chain or schedule, **options)


def expected_parts(scoring: Scoring, draws: int, seed: int = 0) -> np.ndarray:
    """The mean image's (total, prior, steps, decoder) in nats by the whole sum, each term of each image drawn so often.

    Noise from a generator of its own; the network is asked directly.
    """
    noise = torch.Generator().manual_seed(seed)
    x0 = images_to_x(torch.from_numpy(scoring.images.read(np.arange(len(scoring.images)))), torch.float64)
    many = x0.repeat(draws, 1, 1, 1)
    means = []
    for step in range(1, scoring.chain.steps + 1):
        drawn = torch.randn(many.shape, generator=noise, dtype=torch.float64)
        steps = torch.full((len(many),), step)
        means.append(float(step_term(scoring.denoiser, many, steps, noise=drawn, chain=scoring.chain).nats.mean()))
    prior = float(prior_nats(x0, scoring.chain).mean())
    return np.array([prior + sum(means), prior, sum(means[1:]), means[0]])


class Watching(Progress):
    """Keeps what a verb says, and calls act(title of the stage, units done) after each piece of work."""

    def __init__(self, act: Callable[[str, int], None] = lambda title, done: None) -> None:
        self.sentences: list[str] = []
        self.act = act

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    @contextmanager
    def stage(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        def advance(more: int, note: str = "") -> None:
            nonlocal done
            done += more
            self.act(title, done)

        yield advance


class Counting(Progress):
    """Keeps what a verb says, and adds up its stages: by title, [done, total]."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stages: dict[str, list[int]] = {}

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    @contextmanager
    def stage(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        assert title not in self.stages
        counts = self.stages[title] = [done, total]

        def advance(more: int, note: str = "") -> None:
            counts[0] += more

        yield advance


SHA = "a" * 64


@dataclass(frozen=True)
class Of:
    """Whose side file is meant, without a model."""

    source: str
    weights: str = "ema"
    weights_sha256: str = SHA


def edited(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a side file's table and sign it again."""
    table = json.loads(file.read_text(encoding="utf-8"))
    del table["own_sha256"]
    change(table)
    file.write_text(json.dumps(signed(table)), encoding="utf-8")


RECIPE: dict[str, Any] = {
    "data": "here",
    "train_images": 96,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "device": "cpu",
    "image": {"channels": 1, "height": 4, "width": 4},
    "network": {"channels": 4, "groups": 2, "multipliers": [1], "blocks": 1, "attention_levels": [], "classes": 0},
    "process": {"steps": 12, "beta_start": 0.01, "beta_end": 0.5, "variance": "small"},
    "training": {"warmup_images": 0, "log_images": 32, "sample_images": 10_000},
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested settings, some replaced."""
    below = {k: merged(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v
             for k, v in changes.items()}  # fmt: skip
    return base | below


def drawn(model: Model, seeds: Sequence[int], sampling: Sampling, **options: Any) -> Tensor:
    """Images of these seeds: uint8 (B, C, H, W)."""
    return draw(model, seeds, plan_for(model, sampling), **options)


def stored_model(folder: Path, class_names: tuple[str, ...] = (), seed: int = 0, **changes: Any) -> Model:
    """A checkpoint of a tiny U-Net with weights at random, written and read back."""
    recipe = make_recipe(merged(RECIPE | {"seed": seed}, changes))
    random = torch.Generator().manual_seed(seed)
    states = {}
    for kind in ("ema", "raw"):
        state = build_network(recipe).state_dict()
        states[kind] = {name: w + 0.1 * torch.randn(w.shape, generator=random) for name, w in state.items()}
    write_checkpoint(folder, recipe=recipe, weights=states, class_names=class_names)
    return load_model(folder, device="cpu")
