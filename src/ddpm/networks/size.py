"""How large a U-Net will be, from its settings alone: nothing is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class NetworkSize(NamedTuple):
    """Of a network.

    parameters   exactly
    activations  values that one image becomes in all layers together, about
    """

    parameters: int
    activations: int


def block_inputs(channels: int, widths: Sequence[int], blocks: int) -> tuple[list[list[int]], list[list[int]]]:
    """Channels that come into each residual block, by level: on the way down, and on the way up.

    channels  that the first convolution gives
    widths    of the levels
    blocks    a level on the way down, one more on the way up
    """
    last, width, skips = len(widths) - 1, channels, [channels]
    down: list[list[int]] = []
    up: list[list[int]] = [[] for _ in widths]
    for level, out in enumerate(widths):
        down.append([width, *[out] * (blocks - 1)])
        skips += [out] * (blocks + (level != last))
        width = out
    for level in range(last, -1, -1):
        for _ in range(blocks + 1):
            up[level].append(width + skips.pop())
            width = widths[level]
    return down, up


def unet_size(
    shape: tuple[int, int, int],
    out_channels: int,
    *,
    channels: int,
    multipliers: Sequence[int],
    blocks: int,
    attention_levels: Sequence[int],
    classes: int | None,
    space_to_depth: int,
) -> NetworkSize:
    """The size of a UNet of these arguments for images of a shape (C, H, W)."""
    widths, embedding, fold = [channels * m for m in multipliers], 4 * channels, space_to_depth**2
    pixels = shape[1] * shape[2] // fold
    parameters = _layer(channels, embedding) + _layer(embedding, embedding) + (classes or 0) * embedding
    parameters += _layer(9 * shape[0] * fold, channels) + 2 * widths[0] + _layer(9 * widths[0], out_channels * fold)
    activations = 2 * pixels * channels
    down, up = block_inputs(channels, widths, blocks)
    last = len(widths) - 1
    for level, width in enumerate(widths):
        here = pixels >> 2 * level
        inputs = [*down[level], *up[level], *([width, width] if level == last else [])]
        attended = len(inputs) if level in attention_levels else 1 if level == last else 0
        if level in attention_levels and level == last:
            attended -= 1  # of the two blocks in the middle, the first attends
        parameters += sum(_block(into, width, embedding) for into in inputs)
        parameters += attended * (2 * width + 4 * _layer(width, width))
        parameters += ((level != last) + (level != 0)) * _layer(9 * width, width)
        activations += here * (sum(2 * into + 4 * width for into in inputs) + attended * 6 * width)
    return NetworkSize(parameters, activations)


def _layer(inputs: int, outputs: int) -> int:
    """Weights and biases."""
    return (inputs + 1) * outputs


def _block(inputs: int, width: int, embedding: int) -> int:
    """Parameters of a residual block: two norms, two convolutions, the embedding's layer, and a shortcut."""
    shortcut = _layer(inputs, width) if inputs != width else 0
    return (
        2 * inputs
        + 2 * width
        + _layer(9 * inputs, width)
        + _layer(9 * width, width)
        + shortcut
        + _layer(embedding, width)
    )
