"""Gaussians over images with independent pixels: the only distributions a diffusion chain is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """N(mean, exp(log_variance)), the pixels independent.

    mean          (B, C, H, W)
    log_variance  natural logarithm, broadcasts with the mean
    """

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal noise (B, C, H, W) into a sample."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def kl(self, other: Gaussian) -> Tensor:
        """Kullback-Leibler divergence of `other` from this one, KL(self || other), per pixel in nats: (B, C, H, W)."""
        apart = self.log_variance - other.log_variance
        square = (self.mean - other.mean) ** 2 * torch.exp(-other.log_variance)
        return 0.5 * (torch.expm1(apart) - apart + square)
