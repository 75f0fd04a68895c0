"""The discretised decoder p(x_0 | x_1): exact probabilities of 256 grey levels under a Gaussian (Ho et al. 2020, eq. 13).

A level's bin reaches half a level to both sides, the first and the last to infinity. The official code replaces the
normal distribution function by a tanh form and clamps probabilities at 1e-12; here it is exact, in log space, so that
the 256 probabilities sum to 1 and no improbable pixel is forgiven.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm.gaussians import Gaussian
from ddpm.units import BIN


def log_probability(gaussian: Gaussian, x0: Tensor) -> Tensor:
    """Log-probability of grey levels, per pixel in nats.

    gaussian  over x, its mean (B, C, H, W); float64 unless gradients of float32 are enough
    x0        (B, C, H, W) grey levels as x = level / 127.5 - 1
    returns   (B, C, H, W), finite however far the mean is away
    """
    inverse = torch.exp(-0.5 * gaussian.log_variance)
    offset = x0 - gaussian.mean
    low, high = (offset - BIN / 2) * inverse, (offset + BIN / 2) * inverse
    interior = _log_between(low, high)
    first, last = x0 < -1 + BIN / 2, x0 > 1 - BIN / 2
    tail = torch.special.log_ndtr(torch.where(first, high, -low))
    return torch.where(first | last, tail, interior)


def _log_between(low: Tensor, high: Tensor) -> Tensor:
    """ln(Phi(high) - Phi(low)) for low < high, in the lower tail, where no digits cancel."""
    flip = low + high > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    upper = torch.special.log_ndtr(high)
    return upper + torch.log(-torch.expm1(torch.special.log_ndtr(low) - upper))
