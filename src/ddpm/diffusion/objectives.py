"""Training objectives: L_simple, the variational bound, their hybrid; and which levels they are taken at.

Ho et al. 2020, eqs. 5, 12 and 14; Nichol & Dhariwal 2021, sec. 3.1 (hybrid) and 3.3 (importance-sampled levels).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm.base.tensors import mean_over_image
from ddpm.diffusion.bound import term_nats
from ddpm.diffusion.denoiser import Denoiser, Output

HYBRID_WEIGHT = 1e-3  # of the whole bound beside L_simple (Nichol & Dhariwal 2021, sec. 3.1)
REMEMBERED = 10  # losses kept of each level
UNIFORM_SHARE = 1e-3  # of the importance-sampled levels, so that none is ever left out

LossHistory = NDArray[np.float64]
"""(T, REMEMBERED) the last losses met at each level, newest last, NaN where there were none yet."""


def simple_loss(denoiser: Denoiser, x0: Tensor, t: Tensor, *, noise: Tensor, labels: Tensor | None = None) -> Tensor:
    """Squared error of the network against its target, averaged over each image (eq. 14).

    x0       (B, C, H, W) in [-1, 1]
    t        (B,) levels in 1..T
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


def no_history(steps: int) -> LossHistory:
    """The history before the first loss."""
    return np.full((steps, REMEMBERED), np.nan)


def remember(history: LossHistory, t: NDArray[np.int64], losses: NDArray[np.float64]) -> None:
    """Add the losses met at levels t (B,) to a history, in place."""
    for level, loss in zip(t, losses, strict=True):
        row = history[level - 1]
        row[:-1] = row[1:]
        row[-1] = loss


def level_probabilities(history: LossHistory) -> NDArray[np.float64]:
    """Probability of each level 1..T, (T,): uniform until every level has a full history, then as sqrt(E loss^2).

    That makes the variance of the weighted loss least (Nichol & Dhariwal 2021, eq. 18). Losses that are no numbers, or
    all zero, also leave it uniform.
    """
    steps = len(history)
    uniform = np.full(steps, 1 / steps)
    if not np.isfinite(history).all() or not history.any():
        return uniform
    size = np.sqrt(np.mean(history**2, axis=1))
    probabilities: NDArray[np.float64] = UNIFORM_SHARE * uniform + (1 - UNIFORM_SHARE) * size / size.sum()
    return probabilities


def draw_levels(
    generator: np.random.Generator, count: int, probabilities: NDArray[np.float64]
) -> tuple[Tensor, Tensor]:
    """Draw one level per image: t int64 (count,) in 1..T, and the weights 1 / (T p_t) that keep the loss unbiased.

    probabilities  (T,) of the levels 1..T
    """
    steps = len(probabilities)
    if (probabilities == probabilities[0]).all():
        return torch.from_numpy(generator.integers(1, steps, size=count, endpoint=True)), torch.ones(count)
    t = generator.choice(steps, size=count, p=probabilities / probabilities.sum())
    return torch.from_numpy(t + 1), torch.from_numpy(1 / (steps * probabilities[t])).float()
