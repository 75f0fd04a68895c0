"""Trajectories: from seeds to the states of their chains, and the clean images predicted along the way."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ddpm.base.geometry import Geometry
from ddpm.base.noise import normals, signed, stream_keys
from ddpm.base.tensors import to_device
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.samplers.base import Noise, State
from ddpm.samplers.plan import Plan

MOST_AT_ONCE = 2**20  # numbers of noise


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

    noise = noise_along(plan.chain, seeds, geometry.shape, device)
    start = noise(denoiser.process.schedule.steps)
    return plan.sampler(denoiser, start, chain=plan.chain, noise=noise, labels=labels)


def noise_along(chain: Schedule, seeds: Sequence[int], shape: tuple[int, ...], device: torch.device) -> Noise:
    """The noise of some seeds by level, made for the next levels of a chain too where that is little: a GPU then spends
    its time on fewer and larger kernels."""
    numbers = numbers_of(seeds, device)
    arrivals = chain.levels[-2:0:-1].tolist()
    at_once = max(1, MOST_AT_ONCE // (len(seeds) * math.prod(shape)))
    ready: dict[float, Tensor] = {}

    def noise(level: float) -> Tensor:
        if level not in ready:
            wanted = [level, *(other for other in arrivals if other < level)]
            wanted = wanted[: at_once if level in arrivals else 1]  # not every sampler wants more than its start
            keys = [stream_keys("sample", 0, numbers, _position(one)) for one in wanted]
            ready.update(zip(wanted, normals(torch.cat(keys), shape).chunk(len(wanted)), strict=True))
        return ready.pop(level)

    return noise


def numbers_of(seeds: Sequence[int], device: torch.device) -> Tensor:
    """Any integers, modulo 2^64, as numbers of images in noise.stream_keys: (B,) int64."""
    return to_device(torch.tensor([signed(seed) for seed in seeds], dtype=torch.int64, device="cpu"), device)


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
