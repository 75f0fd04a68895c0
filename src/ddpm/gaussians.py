"""Isotropic Gaussians over images: the only distributions a diffusion chain is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """N(mean, exp(log_variance) I).

    mean          (B, C, H, W)
    log_variance  natural logarithm, broadcasts with the mean
    """

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal noise (B, C, H, W) into a sample."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise
