"""Trajectories: from seeds to the states of their chains, and the clean images predicted along the way."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ddpm.base.geometry import Geometry
from ddpm.base.noise import normals, signed, stream_keys
from ddpm.base.tensors import to_device
from ddpm.diffusion.denoiser import Denoiser
from ddpm.samplers.base import State
from ddpm.samplers.plan import Plan


def trajectory(
    denoiser: Denoiser,
    geometry: Geometry,
    seeds: Sequence[int],
    plan: Plan,
    *,
    labels: Tensor | None = None,
    device: torch.device,
) -> Iterator[State]:
    """The states of one batch of chains; the noise is a function of (seed, level) alone, and made on the device.

    seeds   B integers, one an image; those that agree modulo 2^64 are one
    labels  (B,) integers or None

    All chains start from the noise of level T, whatever the level they start at: an image changes little with N.
    """

    numbers = to_device(torch.tensor([signed(seed) for seed in seeds]), device)

    def noise(level: float) -> Tensor:
        return normals(stream_keys("sample", 0, numbers, _position(level)), geometry.shape)

    start = noise(denoiser.process.schedule.steps)
    return plan.sampler(denoiser, start, chain=plan.chain, noise=noise, labels=labels)


def predicted_images(states: Iterable[State], *, every: int) -> list[Tensor]:
    """Clean images predicted along a trajectory (Ho et al. 2020, Fig. 6): one x0 from each stretch of `every` levels.

    states   a sampler's, over any chain
    returns  slot k holds the last prediction made from a level in k * every + 1 .. (k + 1) * every; slot 0 is the
             final sample of the ancestral sampler; stretches that the chain leaves out are missing
    """
    slots: dict[int, Tensor] = {}
    for state in states:
        slots[int(state.start - 1) // every] = state.x0
    return [slots[k] for k in sorted(slots)]


def _position(level: float) -> int:
    """The number of a level in the key of its noise: a whole level is its own, a real one has its float64's bits."""
    return int(level) if level == int(level) else int(struct.unpack("<Q", struct.pack("<d", level))[0])
