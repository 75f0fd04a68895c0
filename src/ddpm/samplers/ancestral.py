"""The paper's own sampler (Ho et al. 2020, Algorithm 2), on all levels or any subset of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.samplers.base import Noise, State, steps


@torch.no_grad()
def ancestral(
    denoiser: Denoiser, x: Tensor, *, chain: Schedule, noise: Noise, labels: Tensor | None = None
) -> Iterator[State]:
    """Walk the reverse chain, one network call a step; the last step adds no noise. See base.Sampler."""
    for step, start, level in steps(chain):
        gaussian, x0 = denoiser.reverse(x, step, chain=chain, labels=labels)
        x = gaussian.sample(noise(level)) if step > 1 else gaussian.mean
        yield State(level, x, start, x0)
