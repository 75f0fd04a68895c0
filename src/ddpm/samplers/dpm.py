"""DPM-Solver++(2M), of second order in the log-SNR, along the ODE or the SDE (Lu et al. 2022b, Algorithm 2 and eq. 19).

With l = ln(SNR) / 2, the way from l to l + h is solved exactly but for the clean image along it, which is taken as
linear in l through the last two predictions. A step of the SDE weights it by e^(z u), u from 0 to 1 along the step, so
the image is taken at the centre of that weight, which is past the middle the more the longer the step. (The published
formula takes the middle, the limit of short steps; diffusers calls the two solver_type "midpoint" and "heun".)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.samplers.base import Noise, State, steps

SMALL = 1e-4  # below it, the next term of the series is under 1e-14


@torch.no_grad()
def dpm_solver(
    denoiser: Denoiser,
    x: Tensor,
    *,
    chain: Schedule,
    noise: Noise,
    labels: Tensor | None = None,
    eta: float = 0.0,
    at: Callable[[float], float] = lambda z: 0.5,
) -> Iterator[State]:
    """One network call a step; the first step is DDIM's. See base.Sampler.

    eta  at least 0, how much noise is taken away and put back: 0 is the probability-flow ODE and draws none, 1 the
         reverse SDE. With eta, e^-h becomes e^-z, z = (1 + eta) h, in what is kept of x.
    at   from z to the share of the step at which the clean image is taken; as published, the middle
    """
    before: Tensor | None = None
    for step, start, level in steps(chain):
        x0 = denoiser.x0(x, step, labels, chain=chain)
        if step == 1:
            yield State(level, x0, start, x0)
            return
        h = half_log_snr(chain, step - 1) - half_log_snr(chain, step)
        z = (1 + eta) * h
        middle = x0 if before is None else _extrapolated(x0, before, at(z) * h, chain, step)
        sigma = chain.sigma[step - 1].item()
        x = sigma / chain.sigma[step].item() * math.exp(-eta * h) * x
        x = x - chain.signal[step - 1].item() * math.expm1(-z) * middle
        if eta:
            x = x + sigma * math.sqrt(-math.expm1(-2 * eta * h)) * noise(level)
        before = x0
        yield State(level, x, start, x0)


def dpm_solver_sde(
    denoiser: Denoiser, x: Tensor, *, chain: Schedule, noise: Noise, labels: Tensor | None = None, eta: float = 1.0
) -> Iterator[State]:
    """The reverse SDE: one network call and one noise a step, none at the last. See dpm_solver."""
    return dpm_solver(denoiser, x, chain=chain, noise=noise, labels=labels, eta=eta, at=weighted_centre)


def weighted_centre(z: float) -> float:
    """The centre of the weight e^(z u) over u in [0, 1]: 1 / (1 - e^-z) - 1 / z, from 1/2 at z = 0 towards 1."""
    return 0.5 + z / 12 if z < SMALL else -1 / math.expm1(-z) - 1 / z


def half_log_snr(chain: Schedule, step: int) -> float:
    """l = ln(alpha_bar / (1 - alpha_bar)) / 2 at a step of a chain."""
    return 0.5 * float(chain.log_snr[step])


def _extrapolated(x0: Tensor, before: Tensor, ahead: float, chain: Schedule, step: int) -> Tensor:
    """The clean image `ahead` of a step in l, on the line through its predictions there and at the step before."""
    share = ahead / (half_log_snr(chain, step) - half_log_snr(chain, step + 1))
    return (1 + share) * x0 - share * before
