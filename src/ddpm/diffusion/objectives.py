"""Training objectives: L_simple, the variational bound, their hybrid; tables of weights and of how often levels come.

Ho et al. 2020, eqs. 5, 12 and 14; Nichol & Dhariwal 2021, sec. 3.1; Hang et al. 2023; Karras et al. 2022, sec. 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ddpm.base.tensors import Floats, mean_over_image
from ddpm.diffusion.bound import term_nats
from ddpm.diffusion.denoiser import Denoiser, Output
from ddpm.diffusion.process import Process
from ddpm.diffusion.schedule import Schedule

HYBRID_WEIGHT = 1e-3  # of the whole bound beside L_simple (Nichol & Dhariwal 2021, sec. 3.1)
GAMMA = 5.0  # where min-SNR weights end (Hang et al. 2023)


def simple_loss(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    *,
    noise: Tensor,
    labels: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Squared error of the network against its target, averaged over each image (eq. 14).

    x0       (B, C, H, W) in [-1, 1]
    t        (B,) levels in 1..T, on the device of x0
    noise    (B, C, H, W) standard normal
    labels   (B,) or None
    weight   (B,) of each image's squared error; None is 1
    returns  (B,) float32 or better; the paper's sum over pixels becomes a mean, as in its official code
    """
    xt = denoiser.process.q_sample(x0, t, noise=noise)
    return _squared_error(denoiser, denoiser.output(xt, t, labels), x0, t, noise, weight)


def bound_loss(denoiser: Denoiser, x0: Tensor, t: Tensor, *, noise: Tensor, labels: Tensor | None = None) -> Tensor:
    """One term of the bound (eq. 5), in bits per dimension: L_{t-1}, or L_0 at t = 1; its mean over t is L / T.

    Arguments as in simple_loss; the gradient reaches the mean and, if it is learned, the variance. L_T has no weights.
    """
    xt = denoiser.process.q_sample(x0, t, noise=noise)
    return _bits(denoiser, denoiser.output(xt, t, labels), x0, xt, t)


def hybrid_loss(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    *,
    noise: Tensor,
    labels: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """L_simple for the mean, and a thousandth of the bound for the learned variance alone; see simple_loss."""
    xt = denoiser.process.q_sample(x0, t, noise=noise)
    output = denoiser.output(xt, t, labels)
    fixed = Output(output.prediction.detach(), output.spread)
    share = HYBRID_WEIGHT * denoiser.process.schedule.steps
    return _squared_error(denoiser, output, x0, t, noise, weight) + share * _bits(denoiser, fixed, x0, xt, t)


def _squared_error(
    denoiser: Denoiser, output: Output, x0: Tensor, t: Tensor, noise: Tensor, weight: Tensor | None
) -> Tensor:
    target = denoiser.process.target(denoiser.prediction, x0, t, noise=noise)
    error = mean_over_image((target - output.prediction) ** 2)
    return error if weight is None else weight * error


def _bits(denoiser: Denoiser, output: Output, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    chain = denoiser.process.schedule
    gaussian = replace(denoiser, threshold="none").read(output, xt, t, chain=chain).gaussian
    return term_nats(gaussian, x0, xt, t, chain=chain) / (x0[0].numel() * math.log(2))


Objective = Callable[..., Tensor]
LOSSES: dict[str, Objective] = {"simple": simple_loss, "bound": bound_loss, "hybrid": hybrid_loss}
WEIGHTINGS = ("none", "unit", "min-snr", "uncertainty")
LEVEL_SAMPLING = ("uniform", "importance", "log-normal")


def min_snr(process: Process, prediction: str) -> Floats:
    """Weights of a prediction's squared error at levels 0..T, (T + 1,): the clean image's error counts min(SNR, GAMMA).

    Hang et al. 2023; index 0 is unused (0).
    """
    snr = process.schedule.snr[1:]
    with torch.device("cpu"):  # also where a step is traced without memory
        t, one = torch.arange(1, len(snr) + 1), torch.ones(len(snr), 1, 1, 1, dtype=torch.float64)
        slope = process.x0_from(prediction, one, 0 * one, t).flatten().numpy()  # the clean image is linear in it
    return np.concatenate([[0.0], np.minimum(snr, GAMMA) * slope**2])


def log_normal(schedule: Schedule, mean: float, std: float) -> Floats:
    """Probabilities of the levels 1..T, (T,), where ln sigma ~ N(mean, std^2), sigma = SNR^(-1/2) (Karras et al. 2022).

    A level has all that lies nearer to it than to others in ln sigma; what lies beyond the ends is theirs.
    """
    log_sigma = -schedule.log_snr[1:] / 2
    edges = torch.from_numpy((log_sigma[:-1] + log_sigma[1:]) / 2)
    return np.diff(torch.special.ndtr((edges - mean) / std).numpy(), prepend=0.0, append=1.0)
