"""The parts of the paper's U-Net (Ho et al. 2020, App. B, and the details of its official code).

Weights start Glorot-uniform; layers marked near-zero start 1e-5 times smaller, so that every block begins as the
identity and the whole network as (almost) zero.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEAR_ZERO = 1e-5
NORM_EPS = 1e-6


def time_embedding(time: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding of times (Vaswani et al. 2017 as the official code has it), computed in float64.

    time     (B,) from 0; best on the CPU, where the result lies (some accelerators have no float64)
    returns  (B, width) float64: sines, then cosines; frequencies fall geometrically from 1 to exactly 1e-4
    """
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float64, device="cpu") / max(half - 1, 1)
    angles = time.cpu().double()[:, None] * torch.exp(-math.log(10_000) * exponents)
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


def init_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of every convolution and dense layer below a module; biases start at 0, norms at 1 and 0."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            gain = NEAR_ZERO if getattr(layer, "near_zero", False) else 1.0
            nn.init.xavier_uniform_(layer.weight, gain, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=layer.embedding_dim**-0.5, generator=generator)


def near_zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Mark a layer to start near zero."""
    layer.near_zero = True  # type: ignore[assignment]
    return layer


def norm(channels: int, groups: int) -> nn.GroupNorm:
    """Group normalisation with the paper's epsilon (TensorFlow's, 1e-6)."""
    return nn.GroupNorm(groups, channels, eps=NORM_EPS)


class ResidualBlock(nn.Module):
    """x + f(x, embedding), both 3 x 3 convolutions at (B, C, H, W) -> (B, out, H, W)."""

    def __init__(self, channels: int, out: int, *, embedding: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = norm(channels, groups)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.embedding = nn.Linear(embedding, out)
        self.norm2 = norm(out, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = near_zero(nn.Conv2d(out, out, 3, padding=1))
        self.shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """embedding (B, E), already activated."""
        h = self.conv1(F.silu(self.norm1(x))) + self.embedding(embedding)[:, :, None, None]
        out: Tensor = self.shortcut(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))
        return out


class Attention(nn.Module):
    """x + self-attention of one head over all H x W places."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.norm = norm(channels, groups)
        self.query, self.key, self.value = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.out = near_zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        h = self.norm(x)
        query, key, value = (layer(h).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return out


class Downsample(nn.Module):
    """Halve height and width by a strided convolution; zeros are added below and to the right, as in TensorFlow."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Double height and width by repetition, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out
