"""Any image as tiles of the model's size, and back.

Tiles lie side by side from the top left; what sticks out below and to the right repeats the last row and column and is
cut off again. The chain sees each tile by itself, so a coarse image may show seams; the lossless layer runs over the
whole image, across them. Steps are interleaved over the tiles, so that a prefix of the file is the whole image,
coarse.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from ddpm.base.tensors import Integers, Pixels


def grid(size: tuple[int, ...], tile: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles that cover an image of (height, width)."""
    return -(-size[0] // tile[0]), -(-size[1] // tile[1])


def tiles_in(size: tuple[int, ...], tile: tuple[int, int]) -> int:
    """How many tiles cover an image of (height, width)."""
    return math.prod(grid(size, tile))


def cut(image: Pixels, tile: tuple[int, int]) -> Pixels:
    """An image (C, H, W) as tiles (M, C, h, w), row by row."""
    channels, height, width = image.shape
    rows, columns = grid((height, width), tile)
    below, right = rows * tile[0] - height, columns * tile[1] - width
    padded = np.pad(image, ((0, 0), (0, below), (0, right)), mode="edge")
    split = padded.reshape(channels, rows, tile[0], columns, tile[1])
    return np.ascontiguousarray(split.transpose(1, 3, 0, 2, 4).reshape(rows * columns, channels, *tile))


def joined(tiles: Tensor, size: tuple[int, int]) -> Tensor:
    """Tiles (M, C, h, w) as the image (C, H, W) they were cut from."""
    _, channels, height, width = tiles.shape
    rows, columns = grid(size, (height, width))
    laid = tiles.reshape(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return laid.reshape(channels, rows * height, columns * width)[:, : size[0], : size[1]]


def units_done(bits: tuple[int, ...], tiles: int, available: int) -> int:
    """How many units, a step of a tile each, are whole in so many bits; units go step by step, tile by tile."""
    done = 0
    for cost in bits:
        here = min(tiles, available // cost)
        done, available = done + here, available - here * cost
        if here < tiles:
            break
    return done


def bits_of(bits: tuple[int, ...], tiles: int, units: int) -> int:
    """What the first units cost, in bits."""
    steps, rest = divmod(units, tiles)
    return tiles * sum(bits[:steps]) + (rest * bits[steps] if rest else 0)


def steps_each(tiles: int, units: int) -> Integers:
    """How many steps each tile (M,) has had after so many units."""
    steps, rest = divmod(units, tiles)
    return np.where(np.arange(tiles) < rest, steps + 1, steps)
