"""Heun's second-order method on the probability-flow ODE (Karras et al. 2022, Algorithm 1).

In y = x / sqrt(alpha_bar) and s = sqrt((1 - alpha_bar) / alpha_bar) the ODE is dy / ds = (y - x0(y, s)) / s.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.samplers.base import Noise, State, steps


@torch.no_grad()
def heun(
    denoiser: Denoiser, x: Tensor, *, chain: Schedule, noise: Noise, labels: Tensor | None = None
) -> Iterator[State]:
    """Two network calls a step and one for the last, 2 N - 1 in all; draws no noise. See base.Sampler."""
    s = chain.sigma / chain.signal
    for step, start, level in steps(chain):
        x0 = denoiser.x0(x, step, labels, chain=chain)
        if step == 1:
            yield State(level, x0, start, x0)
            return
        here, there = s[step].item(), s[step - 1].item()
        y = x / chain.signal[step].item()
        slope = (y - x0) / here
        ahead = y + (there - here) * slope
        signal = chain.signal[step - 1].item()
        slope_ahead = (ahead - denoiser.x0(signal * ahead, step - 1, labels, chain=chain)) / there
        x = signal * (y + (there - here) / 2 * (slope + slope_ahead))
        yield State(level, x, start, x0)
