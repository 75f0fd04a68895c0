"""The parts of the paper's U-Net (Ho et al. 2020, App. B, and the details of its official code).

Weights start Glorot-uniform; layers marked near-zero start 1e-5 times smaller, so that every block begins as the
identity and the whole network as (almost) zero.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from ddpm.base.noise import dropped_of, kept, mix
from ddpm.base.tensors import Floats, on_device

NEAR_ZERO = 1e-5
NORM_EPS = 1e-6
MOST_TIMES = 10_000  # whole times below this are read from a table


@functools.cache
def frequencies(width: int) -> Floats:
    """Of the sinusoids: (width // 2,) float64, falling geometrically from 1 to exactly 1e-4."""
    half = width // 2
    return torch.exp(
        -math.log(10_000) * (torch.arange(half, dtype=torch.float64, device="cpu") / max(half - 1, 1))
    ).numpy()


@functools.cache
def whole_times(width: int) -> Floats:
    """The embeddings of the times 0, 1, ..., (MOST_TIMES, width) float64."""
    return time_embedding(torch.arange(MOST_TIMES, device="cpu"), width).numpy()


def time_embedding(time: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding of times (Vaswani et al. 2017 as the official code has it), computed in float64.

    time     (B,) from 0, on a device that has float64; the result lies there too
    returns  (B, width) float64: sines, then cosines
    """
    angles = time.double()[:, None] * on_device(frequencies(width), time.device, torch.float64)
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


def embedded(time: Tensor, width: int, like: Tensor) -> Tensor:
    """The same with the dtype and device of `like`, rounded once: whole times below MOST_TIMES are rows of a table
    that lies on the device, real ones are computed where they lie (on the CPU for devices without float64)."""
    if not time.is_floating_point():
        return on_device(whole_times(width), like.device, like.dtype)[time.to(like.device)]
    time = time.cpu() if like.device.type == "mps" else time.to(like.device)
    return time_embedding(time, width).to(like.dtype).to(like.device)


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


def normalised(x: Tensor, norm: nn.GroupNorm, *, activate: bool = True) -> Tensor:
    """A group normalisation of x (B, C, H, W), then SiLU if wanted, in the dtype of x.

    As with PyTorch's own functions, a TorchFunctionMode may stand in for it (training.step_memory does).
    """
    if has_torch_function_unary(x):
        out: Tensor = handle_torch_function(normalised, (x,), x, norm, activate=activate)
        return out
    if x.device.type == "cpu":
        h = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    else:
        h = by_channels(x, norm)
    return (F.silu(h) if activate else h).to(x.dtype)


def by_channels(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group normalisation of x (B, C, H, W), in float32 or better, by operations that leave the order of its memory.

    Where channels lie last, PyTorch's own kernels copy x into another order and back.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    weight, bias = (value.reshape(norm.num_groups, -1) for value in (norm.weight, norm.bias))
    if torch.compiler.is_compiling():  # a channel is a column, whose sums make one fast kernel: law of total variance
        variance, mean = (value.reshape(-1, *weight.shape) for value in torch.var_mean(wide, (2, 3), correction=0))
        between, mean = torch.var_mean(mean, 2, correction=0, keepdim=True)
        variance = variance.mean(2, keepdim=True) + between
    else:  # operation by operation, fewer are faster
        groups = wide.view(len(wide), *weight.shape, -1)
        variance, mean = (value.flatten(2) for value in torch.var_mean(groups, (2, 3), correction=0, keepdim=True))
    scale = torch.rsqrt(variance + norm.eps) * weight
    shift = torch.addcmul(bias, mean, scale, value=-1)
    return torch.addcmul(shift.flatten(1)[:, :, None, None], wide, scale.flatten(1)[:, :, None, None])


def dropped(x: Tensor, keys: Tensor, rate: float) -> Tensor:
    """Dropout on x (B, C, H, W): zeros where the streams `keys` (B,) say so, the rest scaled so that the mean stays."""
    return x * kept(keys, x.shape[1:], rate) * (1 / (1 - dropped_of(rate) / 2**16))


class ResidualBlock(nn.Module):
    """x + f(x, embedding), both 3 x 3 convolutions at (B, C, H, W) -> (B, out, H, W).

    Its attribute `layer`, a number in the network, tells its dropout from that of other blocks.
    """

    def __init__(self, channels: int, out: int, *, embedding: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = norm(channels, groups)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.embedding = nn.Linear(embedding, out)
        self.norm2 = norm(out, groups)
        self.conv2 = near_zero(nn.Conv2d(out, out, 3, padding=1))
        self.shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        self.dropout, self.layer = dropout, 0

    def forward(self, x: Tensor, embedding: Tensor, drops: Tensor | None = None) -> Tensor:
        """embedding (B, E), already activated; drops (B,) streams of dropout, None for none."""
        h = self.conv1(normalised(x, self.norm1)) + self.embedding(embedding)[:, :, None, None]
        h = normalised(h, self.norm2)
        if drops is not None and self.dropout:
            h = dropped(h, mix(drops ^ self.layer), self.dropout)
        out: Tensor = self.shortcut(x) + self.conv2(h)
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
        h = normalised(x, self.norm, activate=False).permute(0, 2, 3, 1).flatten(1, 2)  # a view, channels being last
        parts = (self.query, self.key, self.value)
        weight, bias = (torch.cat([getattr(part, name) for part in parts]) for name in ("weight", "bias"))
        query, key, value = F.linear(h, weight.flatten(1), bias)[:, None].chunk(3, -1)
        mixed = F.scaled_dot_product_attention(query, key, value)  # of one head, as a dimension: else no fast kernel
        out = F.linear(mixed, self.out.weight.flatten(1), self.out.bias)
        batch, channels, *sides = x.shape
        return x + out.reshape(batch, *sides, channels).permute(0, 3, 1, 2)


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
