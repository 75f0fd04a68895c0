"""The discretised decoder p(x_0 | x_1): exact probabilities of 256 grey levels (Ho et al. 2020, eq. 13).

A level's bin reaches half a level to both sides, the first and the last to infinity. The official code replaces the
normal distribution function by a tanh form and clamps probabilities at 1e-12; here it is exact, in log space, so that
the 256 probabilities sum to 1 and no improbable pixel is forgiven.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm.base.gaussians import Gaussian
from ddpm.base.units import BIN


def log_probability(gaussian: Gaussian, x0: Tensor) -> Tensor:
    """Log-probability of grey levels, per pixel in nats.

    gaussian  over x, its mean (B, C, H, W)
    x0        (B, C, H, W) grey levels as x = level / 127.5 - 1
    returns   (B, C, H, W) in the dtype of x0, finite however far the mean is away

    Computed in float64 (but for Apple's GPUs, which have none): far from the mean float32 loses the gradients.
    """
    wide = torch.float32 if x0.device.type == "mps" else torch.float64
    inverse = torch.exp(-0.5 * gaussian.log_variance.to(wide))
    offset = x0.to(wide) - gaussian.mean.to(wide)
    low, high = (offset - BIN / 2) * inverse, (offset + BIN / 2) * inverse
    interior = _log_between(low, high)
    first, last = x0 < -1 + BIN / 2, x0 > 1 - BIN / 2
    tail = torch.special.log_ndtr(torch.where(first, high, -low))
    return torch.where(first | last, tail, interior).to(x0.dtype)


def _log_between(low: Tensor, high: Tensor) -> Tensor:
    """ln(Phi(high) - Phi(low)) for low < high, in the lower tail, where no digits cancel."""
    flip = low + high > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    upper: Tensor = torch.special.log_ndtr(high)
    return upper + torch.log(-torch.expm1(torch.special.log_ndtr(low) - upper))
