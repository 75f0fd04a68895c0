"""Images as tiles and back, and the order in which the steps of tiles are counted."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm.codec.tiles import bits_of, cut, grid, joined, steps_each, units_done

sides = st.integers(1, 40)
shapes = st.tuples(sides, sides)
costs = st.lists(st.integers(1, 80), min_size=1, max_size=12).map(tuple)


def image_of(channels: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(channels * 1000 + size[0]).integers(0, 256, (channels, *size), dtype=np.uint8)


# ---- images -------------------------------------------------------------------------------------------------------


@given(st.sampled_from([1, 3]), shapes, shapes)
def test_joined_tiles_are_the_image_they_were_cut_from(channels: int, size: tuple[int, int], tile: tuple[int, int]):
    image = image_of(channels, size)
    tiles = cut(image, tile)
    rows, columns = grid(size, tile)
    assert tiles.shape == (rows * columns, channels, *tile)
    assert tiles.flags.c_contiguous
    back = joined(torch.from_numpy(tiles), size).numpy()
    assert back.shape == image.shape
    assert (back == image).all()


@settings(max_examples=40)
@given(st.tuples(st.integers(1, 12), st.integers(1, 12)), st.tuples(st.integers(1, 7), st.integers(1, 7)))
def test_tiles_lie_row_by_row_and_repeat_the_last_pixels(size: tuple[int, int], tile: tuple[int, int]):
    image = image_of(2, size)
    tiles, columns = cut(image, tile), grid(size, tile)[1]
    for (number, channel, row, column), value in np.ndenumerate(tiles):
        above, left = number // columns * tile[0], number % columns * tile[1]
        assert value == image[channel, min(above + row, size[0] - 1), min(left + column, size[1] - 1)]


@given(shapes, shapes)
def test_grid_is_the_smallest_that_covers(size: tuple[int, int], tile: tuple[int, int]):
    for whole, side, count in zip(size, tile, grid(size, tile), strict=True):
        assert (count - 1) * side < whole <= count * side


# ---- units ----------------------------------------------------------------------------------------------------------


def in_turn(bits: tuple[int, ...], tiles: int) -> list[tuple[int, int, int]]:
    """Step, tile and cost of every unit, in their order."""
    return [(step, tile, cost) for step, cost in enumerate(bits) for tile in range(tiles)]


@given(costs, st.integers(1, 9))
def test_bits_of_the_first_units_are_the_sum_of_their_costs(bits: tuple[int, ...], tiles: int):
    total = 0
    assert bits_of(bits, tiles, 0) == 0
    for units, (_, _, cost) in enumerate(in_turn(bits, tiles), start=1):
        total += cost
        assert bits_of(bits, tiles, units) == total


@given(costs, st.integers(1, 9))
def test_units_are_done_with_their_last_bit_and_not_before(bits: tuple[int, ...], tiles: int):
    for units in range(len(bits) * tiles + 1):
        needed = bits_of(bits, tiles, units)
        assert units_done(bits, tiles, needed) == units
        if units:
            assert units_done(bits, tiles, needed - 1) == units - 1


@given(costs, st.integers(1, 9), st.integers(0, 10**6))
def test_more_bits_than_there_are_units_for_are_all_units(bits: tuple[int, ...], tiles: int, more: int):
    every = len(bits) * tiles
    assert units_done(bits, tiles, bits_of(bits, tiles, every) + more) == every


@given(costs, st.integers(1, 9))
def test_steps_of_each_tile_are_those_of_its_units(bits: tuple[int, ...], tiles: int):
    had = np.zeros(tiles, int)
    assert (steps_each(tiles, 0) == 0).all()
    for units, (step, tile, _) in enumerate(in_turn(bits, tiles), start=1):
        had[tile] += 1
        assert had[tile] == step + 1
        assert (steps_each(tiles, units) == had).all()
