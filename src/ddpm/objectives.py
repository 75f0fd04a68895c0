"""Training objectives: the paper's L_simple (Ho et al. 2020, eq. 14)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ddpm.denoiser import Denoiser
from ddpm.tensors import mean_over_image


def draw_levels(generator: np.random.Generator, count: int, steps: int) -> Tensor:
    """Draw one level per image, uniformly from 1..steps: int64 (count,)."""
    return torch.from_numpy(generator.integers(1, steps, size=count, endpoint=True))


def simple_loss(
    denoiser: Denoiser, x0: Tensor, t: Tensor, *, noise: Tensor, labels: Tensor | None = None
) -> Tensor:
    """Squared error of the network against its target, averaged over each image (eq. 14).

    x0       (B, C, H, W) in [-1, 1]
    t        (B,) levels in 1..T
    noise    (B, C, H, W) standard normal
    labels   (B,) or None
    returns  (B,) float32 or better; the paper's sum over pixels becomes a mean, as in its official code
    """
    xt = denoiser.process.q_sample(x0, t, noise=noise)
    target = denoiser.process.target(denoiser.prediction, x0, t, noise=noise)
    return mean_over_image((target - denoiser.output(xt, t, labels)) ** 2)
