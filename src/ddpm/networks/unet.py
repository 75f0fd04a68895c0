"""The paper's U-Net (Ho et al. 2020, App. B): residual blocks, attention, skips, one time embedding for all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddpm.networks.blocks import (
    Attention,
    Downsample,
    ResidualBlock,
    Upsample,
    embedded,
    init_weights,
    near_zero,
    norm,
    normalised,
)
from ddpm.networks.compiled import run
from ddpm.networks.size import block_inputs


class Stage(nn.Module):
    """One residual block, then attention where the level has it."""

    def __init__(self, block: ResidualBlock, attention: Attention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention if attention is not None else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, drops: Tensor | None = None, skip: Tensor | None = None) -> Tensor:
        """(B, C, H, W), perhaps beside the channels of a skip -> (B, out, H, W)."""
        x = x if skip is None else torch.cat([x, skip], dim=1)
        out: Tensor = self.attention(self.block(x, embedding, drops))
        return out


class UNet(nn.Module):
    """Image in, image out.

    in_channels, out_channels  of the images (out = 2 x in for a learned variance)
    channels          width of the first level; all widths must be multiples of `groups`
    multipliers       width of each level over `channels`; each level after the first halves height and width
    blocks            residual blocks per level on the way down (one more on the way up)
    attention_levels  levels, from 0, whose blocks are followed by attention; the middle always has one
    dropout           inside the residual blocks, of images that come with a stream for it
    classes           number of class labels, or None
    groups            of every group normalisation
    space_to_depth    side of the pixel blocks folded into channels before the first layer and unfolded after the last
    checkpointing     in training, keep only what goes into each block, and compute the rest again for the gradient
    seed              of the initial weights (torch.Generator)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention_levels: Sequence[int] = (1,),
        dropout: float = 0.0,
        classes: int | None = None,
        groups: int = 32,
        space_to_depth: int = 1,
        checkpointing: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.fold = space_to_depth
        self.channels = channels
        self.checkpointing = checkpointing
        widths = [channels * m for m in multipliers]
        embedding = 4 * channels
        last = len(widths) - 1

        def stage(width_in: int, level: int) -> Stage:
            out = widths[level]
            attention = Attention(out, groups=groups) if level in attention_levels else None
            return Stage(ResidualBlock(width_in, out, embedding=embedding, groups=groups, dropout=dropout), attention)

        self.time1 = nn.Linear(channels, embedding)
        self.time2 = nn.Linear(embedding, embedding)
        self.label = nn.Embedding(classes, embedding) if classes else None
        self.conv_in = nn.Conv2d(in_channels * space_to_depth**2, channels, 3, padding=1)
        down, up = block_inputs(channels, widths, blocks)
        self.down, self.downsample, width = nn.ModuleList(), nn.ModuleList(), widths[-1]
        for level, out in enumerate(widths):
            self.down.append(nn.ModuleList(stage(into, level) for into in down[level]))
            self.downsample.append(Downsample(out) if level != last else nn.Identity())
        middle = [ResidualBlock(width, width, embedding=embedding, groups=groups, dropout=dropout) for _ in range(2)]
        self.middle = Stage(middle[0], Attention(width, groups=groups))
        self.middle_block = middle[1]
        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level in range(last, -1, -1):
            self.up.append(nn.ModuleList(stage(into, level) for into in up[level]))
            self.upsample.append(Upsample(widths[level]) if level else nn.Identity())
        self.norm_out = norm(widths[0], groups)
        self.conv_out = near_zero(nn.Conv2d(widths[0], out_channels * space_to_depth**2, 3, padding=1))
        for layer, block in enumerate(part for part in self.modules() if isinstance(part, ResidualBlock)):
            block.layer = layer
        init_weights(self, torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None, *, drops: Tensor | None = None) -> Tensor:
        """Evaluate the network.

        x       (B, in_channels, H, W); H and W multiples of space_to_depth * 2 ** (levels - 1)
        time    (B,) from 0, integers below MOST_TIMES or real, best on the device of x
        labels  (B,) integers, needed if and only if the network has classes
        drops   (B,) int64, a stream for each image (base.noise): dropout is a function of it; None: no dropout
        """
        return run(UNet._body, self, x, embedded(time, self.channels, x), labels, drops)

    def _body(self, x: Tensor, sinusoids: Tensor, labels: Tensor | None, drops: Tensor | None) -> Tensor:
        """All of it after the sinusoids, which come from a table: what can be compiled."""
        embedding = self._embedding(sinusoids, labels)
        h = self.conv_in(F.pixel_unshuffle(x, self.fold) if self.fold > 1 else x)
        h = h.contiguous(memory_format=torch.channels_last)
        skips = [h]
        for stages, downsample in zip(self.down, self.downsample, strict=True):
            for stage in stages:  # type: ignore[attr-defined]
                h = self._part(stage, h, embedding, drops)
                skips.append(h)
            if isinstance(downsample, Downsample):
                h = downsample(h)
                skips.append(h)
        h = self._part(self.middle, h, embedding, drops)
        h = self._part(self.middle_block, h, embedding, drops)
        for stages, upsample in zip(self.up, self.upsample, strict=True):
            for stage in stages:  # type: ignore[attr-defined]
                h = self._part(stage, h, embedding, drops, skips.pop())
            h = upsample(h)
        out = self.conv_out(normalised(h, self.norm_out))
        return F.pixel_shuffle(out, self.fold) if self.fold > 1 else out

    def _part(self, part: nn.Module, *given: Tensor | None) -> Tensor:
        """Evaluate a part, perhaps without keeping what is inside."""
        out: Tensor
        if self.checkpointing and self.training and torch.is_grad_enabled():
            out = checkpoint(part, *given, use_reentrant=False, preserve_rng_state=False)
        else:
            out = part(*given)
        return out

    def _embedding(self, sinusoids: Tensor, labels: Tensor | None) -> Tensor:
        """One vector for all blocks, activated once: silu(dense(silu(dense(sinusoids))) + label)."""
        embedding = self.time2(F.silu(self.time1(sinusoids)))
        if self.label is not None:
            assert labels is not None, "a network with classes needs labels"
            embedding = embedding + self.label(labels)
        return F.silu(embedding)
