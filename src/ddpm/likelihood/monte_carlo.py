"""What is scored, and the one place that calls the network: a plan of calls in, one term of the bound per call out.

A call is one image at one step of the chain with noise of its own. The estimate, the full sum, the rate-distortion
table and the measurement of variances are four plans of calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.base.device_memory import within_memory
from ddpm.base.noise import normals, stream_keys
from ddpm.base.precision import STRICT, computing
from ddpm.base.progress import Advance, Progress, unheard
from ddpm.base.tensors import Floats, Integers, to_device
from ddpm.base.units import images_to_x
from ddpm.data.stream import Reader
from ddpm.diffusion.bound import prior_nats, step_term
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.errors import InputError

CPU = torch.device("cpu")


class Calls(NamedTuple):
    """A plan, each (n,): which image, at which step of the chain, and the number of its noise."""

    images: Integers
    steps: Integers
    numbers: Integers


class Terms(NamedTuple):
    """Results of n calls, each (n,): nats of the bound's term per image, mean squared error of x0 per pixel."""

    nats: Floats
    squared_error: Floats


@dataclass(frozen=True, eq=False)
class Scoring:
    """A denoiser, the images it is scored on, and the chain of levels it is scored along.

    images      reads uint8 (B, C, H, W) by index
    labels      (N,) classes as the network counts them, or None
    device      of the network
    advance     called after each batch with the number of network calls made in it
    name        of the model, in errors
    """

    denoiser: Denoiser
    images: Reader
    chain: Schedule
    labels: Integers | None = None
    seed: int = 0
    batch_size: int = 128
    device: torch.device = CPU
    advance: Advance = unheard
    name: str = "the network"

    @property
    def dimensions(self) -> int:
        """Pixels times channels of an image."""
        return int(np.prod(self.images.shape))

    @contextlib.contextmanager
    def shown(self, progress: Progress, title: str, calls: int) -> Iterator[Scoring]:
        """The same scoring, its network calls shown as a stage of so many."""
        with progress.stage(title, calls) as advance:
            yield replace(self, advance=advance)

    def terms(self, calls: Calls, purpose: str) -> Terms:
        """Make the calls; the noise of each is a function of (purpose, seed, its number)."""
        nats, squared_error = np.empty(len(calls.steps)), np.empty(len(calls.steps))
        for start in range(0, len(nats), self.batch_size):
            here = slice(start, start + self.batch_size)
            part = Calls(*(column[here] for column in calls))
            x0, noise, labels = self.inputs(part.images, part.numbers, purpose)
            with torch.no_grad(), self.guarded():
                steps = to_device(torch.from_numpy(part.steps), x0.device)
                term = step_term(self.denoiser, x0, steps, noise=noise, chain=self.chain, labels=labels)
            nats[here], squared_error[here] = term.nats.cpu().numpy(), term.squared_error.cpu().numpy()
            self.check_numbers(nats[here])
            self.advance(len(part.steps))
        return Terms(nats, squared_error)

    def check_numbers(self, values: Floats) -> None:
        """Raise InputError unless all values are numbers."""
        if not np.isfinite(values).all():
            raise InputError(f"{self.name} puts out values that are not numbers: take an earlier checkpoint.")

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Compute in strict float32, and turn running out of memory into an InputError."""
        with computing(STRICT, self.device), within_memory(self.batch_size, self.device):
            yield

    def inputs(self, images: Integers, numbers: Integers, purpose: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Clean images and their noise in float64, and their labels, where the arithmetic is done."""
        device = CPU if self.device.type == "mps" else self.device  # Apple's GPUs have no float64
        pixels = torch.from_numpy(self.images.read(images))
        with self.guarded():
            x0 = images_to_x(to_device(pixels, device), torch.float64)
            keys = stream_keys(purpose, self.seed, to_device(torch.from_numpy(numbers), device))
            noise = normals(keys, x0.shape[1:]).double()
            labels = None if self.labels is None else to_device(torch.from_numpy(self.labels[images]), self.device)
        return x0, noise, labels

    def prior(self, images: Integers) -> Floats:
        """L_T of some images, in nats (n,); it needs no network."""
        found = []
        for start in range(0, len(images), self.batch_size):
            pixels = torch.from_numpy(self.images.read(images[start : start + self.batch_size]))
            found.append(prior_nats(images_to_x(pixels, torch.float64), self.chain).numpy())
        return np.concatenate(found)


def balanced(generator: np.random.Generator, images: int, count: int) -> Integers:
    """Draw `count` of so many images in random order, each as often as any other (give or take one): (count,)."""
    rounds = [generator.permutation(images) for _ in range(-(-count // images))]
    return np.concatenate([np.empty(0, np.int64), *rounds])[:count]
