"""Training objectives: L_simple, the variational bound, their hybrid.

Ho et al. 2020, eqs. 5, 12 and 14; Nichol & Dhariwal 2021, sec. 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ddpm.base.tensors import mean_over_image
from ddpm.diffusion.bound import term_nats
from ddpm.diffusion.denoiser import Denoiser, Output

HYBRID_WEIGHT = 1e-3  # of the whole bound beside L_simple (Nichol & Dhariwal 2021, sec. 3.1)


def simple_loss(denoiser: Denoiser, x0: Tensor, t: Tensor, *, noise: Tensor, labels: Tensor | None = None) -> Tensor:
    """Squared error of the network against its target, averaged over each image (eq. 14).

    x0       (B, C, H, W) in [-1, 1]
    t        (B,) levels in 1..T, on the device of x0
    noise    (B, C, H, W) standard normal
    labels   (B,) or None
    returns  (B,) float32 or better; the paper's sum over pixels becomes a mean, as in its official code
    """
    xt = denoiser.process.q_sample(x0, t, noise=noise)
    return _squared_error(denoiser, denoiser.output(xt, t, labels), x0, t, noise)


def bound_loss(denoiser: Denoiser, x0: Tensor, t: Tensor, *, noise: Tensor, labels: Tensor | None = None) -> Tensor:
    """One term of the bound (eq. 5), in bits per dimension: L_{t-1}, or L_0 at t = 1; its mean over t is L / T.

    Arguments as in simple_loss; the gradient reaches the mean and, if it is learned, the variance. L_T has no weights.
    """
    xt = denoiser.process.q_sample(x0, t, noise=noise)
    return _bits(denoiser, denoiser.output(xt, t, labels), x0, xt, t)


def hybrid_loss(denoiser: Denoiser, x0: Tensor, t: Tensor, *, noise: Tensor, labels: Tensor | None = None) -> Tensor:
    """L_simple for the mean, and a thousandth of the bound for the learned variance alone. Arguments as above."""
    xt = denoiser.process.q_sample(x0, t, noise=noise)
    output = denoiser.output(xt, t, labels)
    fixed = Output(output.prediction.detach(), output.spread)
    weight = HYBRID_WEIGHT * denoiser.process.schedule.steps
    return _squared_error(denoiser, output, x0, t, noise) + weight * _bits(denoiser, fixed, x0, xt, t)


def _squared_error(denoiser: Denoiser, output: Output, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    target = denoiser.process.target(denoiser.prediction, x0, t, noise=noise)
    return mean_over_image((target - output.prediction) ** 2)


def _bits(denoiser: Denoiser, output: Output, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    chain = denoiser.process.schedule
    gaussian = replace(denoiser, threshold="none").read(output, xt, t, chain=chain).gaussian
    return term_nats(gaussian, x0, xt, t, chain=chain) / (x0[0].numel() * math.log(2))


Objective = Callable[..., Tensor]
LOSSES: dict[str, Objective] = {"simple": simple_loss, "bound": bound_loss, "hybrid": hybrid_loss}
LEVEL_SAMPLING = ("uniform", "importance")
