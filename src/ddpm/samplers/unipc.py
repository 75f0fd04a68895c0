"""UniPC: a predictor and a corrector that share their network calls (Zhao et al. 2023, Algorithms 1 and 2, B2(h)).

With l = ln(SNR) / 2, the clean image between two levels is taken as a polynomial in l. The predictor's runs through the
last predictions; when the next one is known, the corrector takes the same step again, with that one as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.samplers.base import Noise, State, steps
from ddpm.samplers.dpm import half_log_snr

Known = tuple[float, Tensor]
"""A level's l, and the clean image predicted there."""

ORDER = 2  # predictions that the predictor uses; the corrector uses one more, and its order is one higher


@torch.no_grad()
def unipc(
    denoiser: Denoiser, x: Tensor, *, chain: Schedule, noise: Noise, labels: Tensor | None = None
) -> Iterator[State]:
    """One network call a step; draws no noise. States hold what was predicted, before its correction.

    Order ORDER + 1 (the first step's is 2). See base.Sampler.
    """
    known: list[Known] = []  # at the last levels, newest first
    origin = x
    for step, start, level in steps(chain):
        here = half_log_snr(chain, step)
        x0 = denoiser.x0(x, step, labels, chain=chain)
        if step == 1:
            yield State(level, x0, start, x0)
            return
        if known:
            x = _step(origin, [*known, (here, x0)], chain, step + 1)
        known = [(here, x0), *known][:ORDER]
        origin, x = x, _step(x, known, chain, step)
        yield State(level, x, start, x0)


def _step(x: Tensor, known: Sequence[Known], chain: Schedule, step: int) -> Tensor:
    """From the state at a step to the next.

    known  here first; then at levels before and, for the corrector, at the one of arrival
    """
    (here, x0), *others = known
    h = half_log_snr(chain, step - 1) - here
    decay, signal = math.expm1(-h), chain.signal[step - 1].item()
    x = (chain.sigma[step - 1] / chain.sigma[step]).item() * x - signal * decay * x0
    places = [(there - here) / h for there, _ in others]
    for (_, other), place, weight in zip(others, places, _weights(places, h), strict=True):
        x = x - (signal * decay * weight / place) * (other - x0)
    return x


def _weights(places: Sequence[float], h: float) -> list[float]:
    """Weights of the divided differences to each place (in units of h), exact for polynomials in l, over expm1(-h).

    With one place the paper takes 1/2, which is as good to this order.
    """
    if len(places) < 2:
        return [0.5] * len(places)
    moments, phi = [], math.expm1(-h) / -h
    for k in range(1, len(places) + 1):
        phi = (phi - 1 / math.factorial(k)) / -h
        moments.append(phi * math.factorial(k) * -h / math.expm1(-h))
    return [float(weight) for weight in np.linalg.solve(np.vander(places, increasing=True).T, moments)]
