"""The independent reference: networks of diffusers with every tensor drawn anew, and what they leave in a folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from ddpm.base.progress import Progress
from ddpm.conversion import convert
from ddpm.model.checkpoint import load_model
from ddpm.model.model import Model

# The options of google/ddpm-cifar10-32; those that its file does not have are diffusers' defaults.
PAPER: dict[str, Any] = {
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": (128, 256, 256, 256),
    "center_input_sample": False,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
SMALL = PAPER | {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 8, "sample_size": 16}
TINY = SMALL | {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "sample_size": 8,
}


class Float64Times(nn.Module):
    """The paper's time embedding, for diffusers' `time_proj`, which computes in float32 whatever the dtype."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, times: Tensor) -> Tensor:
        half = self.width // 2
        frequencies = [math.exp(-k * math.log(10_000) / (half - 1)) for k in range(half)]
        rows = [
            [f(float(time) * frequency) for f in (math.sin, math.cos) for frequency in frequencies] for time in times
        ]
        return torch.tensor([row + [0.0] * (self.width % 2) for row in rows], dtype=torch.float64)


def redrawn(options: dict[str, Any], *, seed: int = 0) -> UNet2DModel:
    """A network of diffusers in evaluation mode, every tensor drawn at a scale that keeps its output near 1."""
    network = UNet2DModel(**options).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim == 1:
                centre = 1.0 if name.endswith("weight") else 0.0  # of a norm's scale
                tensor.copy_(centre + 0.2 * noise)
            else:
                tensor.copy_(noise * math.prod(tensor.shape[1:]) ** -0.5)
    return network


def exact(network: UNet2DModel) -> UNet2DModel:
    """The same network in float64 throughout."""
    network.time_proj = Float64Times(network.config.block_out_channels[0])
    return network.double()


class Heard(Progress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


def saved(network: UNet2DModel, folder: Path, **scheduler: Any) -> Path:
    """Write a pipeline as diffusers does."""
    DDPMPipeline(network, DDPMScheduler(**scheduler)).save_pretrained(folder)
    return folder


def converted(folder: Path, dst: Path, **options: Any) -> Model:
    """What `ddpm convert` makes of a folder, in float64."""
    model = load_model(convert(folder, dst, **options), device="cpu")
    model.network.double()
    return model


def inputs(network: UNet2DModel, *, batch: int = 2, seed: int = 1) -> tuple[Tensor, Tensor, Tensor | None]:
    """Noise, times counted from 0, and labels if the network takes any."""
    generator = torch.Generator().manual_seed(seed)
    config = network.config
    size = config.sample_size if isinstance(config.sample_size, list | tuple) else (config.sample_size,) * 2
    x = torch.randn((batch, config.in_channels, *size), generator=generator, dtype=torch.float64)
    times = torch.randint(1000, (batch,), generator=generator)
    classes = config.num_class_embeds
    return x, times, torch.randint(classes, (batch,), generator=generator) if classes else None


@torch.no_grad()
def outputs(theirs: UNet2DModel, ours: Model, *, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Both networks on the same input; ours by its levels, which count from 1 where times count from 0."""
    x, times, labels = inputs(theirs, batch=batch)
    return theirs(x, times, class_labels=labels).sample, ours.denoiser.output(x, times + 1, labels).prediction
