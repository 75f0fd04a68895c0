"""DDIM (Song, Meng & Ermon 2021, eq. 12): the chain without its noise, or with any share of it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.samplers.base import Noise, State, steps


@torch.no_grad()
def ddim(
    denoiser: Denoiser, x: Tensor, *, chain: Schedule, noise: Noise, labels: Tensor | None = None, eta: float = 0.0
) -> Iterator[State]:
    """One network call a step; a first-order solver of the probability-flow ODE. See base.Sampler.

    eta  in [0, 1], the share of the small variance's standard deviation: 0 draws no noise, 1 is the ancestral sampler
         with variance "small". The noise that stays is what leads from the thresholded x0 to x.
    """
    spread = eta * chain.posterior_variance**0.5
    for step, start, level in steps(chain):
        x0 = denoiser.x0(x, step, labels, chain=chain)
        eps = (x - chain.signal[step].item() * x0) / chain.sigma[step].item()
        rest = math.sqrt(max(1 - chain.alpha_bar[step - 1].item() - spread[step].item() ** 2, 0.0))
        x = chain.signal[step - 1].item() * x0 + rest * eps
        if spread[step] > 0:
            x = x + spread[step].item() * noise(level)
        yield State(level, x, start, x0)
