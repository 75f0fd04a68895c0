"""From seeds to the states of their chains: one seed an image, the same picture in any batch."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ddpm.denoiser import Denoiser
from ddpm.geometry import Geometry
from ddpm.samplers.sampling import Plan
from ddpm.samplers.state import State
from ddpm.seeding import normal


def run_chain(
    denoiser: Denoiser,
    geometry: Geometry,
    seeds: Sequence[int],
    plan: Plan,
    *,
    labels: Tensor | None = None,
    device: torch.device,
) -> Iterator[State]:
    """The states of one batch of chains; the noise is a function of (seed, level) alone.

    seeds   B integers, one an image
    labels  (B,) integers or None

    All chains start from the noise of level T, whatever the level they start at: a picture changes little with N.
    """

    def noise(level: float) -> Tensor:
        return normal("sample", seeds, _position(level), geometry.shape).to(device)

    start = noise(denoiser.process.schedule.steps)
    return plan.sampler(denoiser, start, chain=plan.chain, noise=noise, labels=labels)


def _position(level: float) -> int:
    """A place in the stream of random numbers: a whole level is its own, a real one its float64's bits."""
    return int(level) if level == int(level) else int(struct.unpack("<Q", struct.pack("<d", level))[0])
