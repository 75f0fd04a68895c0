"""diffusers' UNet2DModel of the same shape as a recipe's network, to be timed beside it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

from ddpm.model.model import build_network
from ddpm.model.recipe import Recipe, changed


def without_dropout(recipe: Recipe) -> Recipe:
    """The same network, whose dropout would be drawn in two ways."""
    return changed(recipe, {"network": {"dropout": 0.0}})


class Twin(nn.Module):
    """diffusers' network, called as ours is: x (B, C, H, W), time (B,) -> (B, C, H, W)."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        network, shape = recipe.network, recipe.geometry.shape
        self.fold = network.space_to_depth
        widths = [network.channels * multiplier for multiplier in network.multipliers]
        attends = [level in (network.attention_levels or ()) for level in range(len(widths))]
        self.unet = UNet2DModel(
            sample_size=(shape[1] // self.fold, shape[2] // self.fold),
            in_channels=shape[0] * self.fold**2,
            out_channels=shape[0] * self.fold**2,
            block_out_channels=tuple(widths),
            layers_per_block=network.blocks,
            down_block_types=tuple("AttnDownBlock2D" if attention else "DownBlock2D" for attention in attends),
            up_block_types=tuple("AttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends)),
            norm_num_groups=network.groups,
            dropout=network.dropout,
            freq_shift=1,
            flip_sin_to_cos=False,
            norm_eps=1e-6,
            downsample_padding=0,
            attention_head_dim=None,
        )
        with torch.device("meta"):
            ours = sum(weight.numel() for weight in build_network(recipe).parameters())
        theirs = sum(weight.numel() for weight in self.parameters())
        assert ours == theirs, (ours, theirs)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The tensor that diffusers wraps."""
        x = F.pixel_unshuffle(x, self.fold) if self.fold > 1 else x
        out: Tensor = self.unet(x, time).sample
        return F.pixel_shuffle(out, self.fold) if self.fold > 1 else out
