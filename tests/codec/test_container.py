"""Headers, layers and tiles: what is written is read, nothing else is, and units add up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddpm.codec.container import (
    CLASS,
    GREY,
    LOSSLESS,
    SEEDS,
    STORED,
    Cursor,
    Header,
    closed_layer,
    progressive_layer,
    read_header,
    read_packet,
    varint,
)
from ddpm.codec.tiles import bits_of, cut, grid, joined, steps_each, units_done
from ddpm.errors import DamagedFile


@st.composite
def headers(draw: st.DrawFn) -> Header:
    kinds = st.sampled_from([0, LOSSLESS, STORED])
    flags = draw(kinds) | draw(st.sampled_from([0, GREY]))
    seeds: tuple[tuple[int, int], ...] = ()
    if not flags & STORED:
        flags |= draw(st.sampled_from([0, CLASS, SEEDS, CLASS | SEEDS]))
    if flags & SEEDS:
        tiles = sorted(draw(st.sets(st.integers(0, 2**20), min_size=1, max_size=4)))
        seeds = tuple((tile, draw(st.integers(1, 300))) for tile in tiles)
    return Header(
        flags,
        draw(st.binary(min_size=4, max_size=4)),
        (draw(st.integers(1, 2**12)), draw(st.integers(1, 2**12))),
        None if flags & (LOSSLESS | STORED) else draw(st.integers(0, 2**30)),
        draw(st.integers(0, 99_999)) if flags & CLASS else None,
        seeds,
    )


@given(headers())
def test_header_is_read_as_it_was_written(header: Header):
    cursor = Cursor(header.pack() + b"more")
    assert read_header(cursor) == header
    assert cursor.left == 4


@given(headers(), st.data())
def test_flipped_bit_in_a_header_is_never_taken_for_another_header(header: Header, data: st.DataObject):
    packed = bytearray(header.pack())
    place = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[place // 8] ^= 1 << place % 8
    with pytest.raises(DamagedFile):
        read_header(Cursor(bytes(packed)))


@given(headers(), st.data())
def test_cut_header_is_refused(header: Header, data: st.DataObject):
    packed = header.pack()
    with pytest.raises(DamagedFile, match=r"cut short inside its header|no .dpc file"):
        read_header(Cursor(packed[: data.draw(st.integers(0, len(packed) - 1))]))


@given(st.integers(0, 2**35 - 1))
def test_number_is_written_in_its_shortest_form(number: int):
    packed = varint(number)
    assert len(packed) == max(1, -(-number.bit_length() // 7))
    cursor = Cursor(packed)
    assert cursor.varint() == number
    assert cursor.left == 0


LOSSY, EXACT, PNG = (Header(flags, b"abcd", (4, 4), 3 if flags == 0 else None) for flags in (0, LOSSLESS, STORED))
PIXELS = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)


@pytest.mark.parametrize("count", [0, 1, 8, 13, 64])
def test_layers_are_read_whole_cut_and_damaged(count: int):
    bits = np.random.default_rng(count).integers(0, 2, count).astype(np.uint8)
    layer = progressive_layer(bits)
    whole = layer + closed_layer(PIXELS, b"residual")
    found = read_packet(Cursor(whole), EXACT, count)
    assert found.bits.tolist() == bits.tolist()
    assert (found.cut, found.damaged, found.data) == (False, False, b"residual")
    for length in range(len(whole)):
        part = read_packet(Cursor(whole[:length]), EXACT, count)
        assert (part.cut, part.damaged, part.data) == (True, False, None)
        assert part.bits.tolist() == bits[: min(count, 8 * length)].tolist()
    with pytest.raises(DamagedFile, match="1 byte after its end"):
        read_packet(Cursor(whole + b"x"), EXACT, count)
    with pytest.raises(DamagedFile, match="2 bytes after its end"):
        read_packet(Cursor(layer + b"xx"), LOSSY, count)
    wrong = layer[:-1] + bytes([layer[-1] ^ 1])
    assert read_packet(Cursor(wrong), LOSSY, count).damaged
    if count % 8:
        padded = layer[: -(-count // 8) - 1] + bytes([layer[-(-count // 8) - 1] | 1]) + layer[-2:]
        with pytest.raises(DamagedFile, match="bits where its progressive layer has none"):
            read_packet(Cursor(padded), LOSSY, count)


def test_stored_layer_stands_alone():
    found = read_packet(Cursor(closed_layer(PIXELS, b"png")), PNG, 0)
    assert (found.cut, found.damaged, found.data) == (False, False, b"png")
    assert read_packet(Cursor(closed_layer(PIXELS, b"png")[:-1]), PNG, 0).cut


# ---- tiles ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
def test_tiles_join_to_the_picture_they_were_cut_from(height: int, width: int, h: int, w: int, channels: int):
    picture = np.random.default_rng(height * width).integers(0, 256, (channels, height, width), dtype=np.uint8)
    tiles = cut(picture, (h, w))
    rows, columns = grid((height, width), (h, w))
    assert tiles.shape == (rows * columns, channels, h, w)
    assert (joined(torch.from_numpy(tiles), (height, width)).numpy() == picture).all()
    assert (tiles[-1][:, -1, -1] == picture[:, -1, -1]).all()  # what sticks out repeats the last row and column


@given(st.lists(st.integers(8, 60), min_size=1, max_size=6), st.integers(1, 9))
def test_units_are_counted_as_they_are_paid(costs: list[int], tiles: int):
    bits = tuple(costs)
    for units in range(tiles * len(bits) + 1):
        paid = bits_of(bits, tiles, units)
        assert units_done(bits, tiles, paid) == units
        assert units == 0 or units_done(bits, tiles, paid - 1) == units - 1
        steps = steps_each(tiles, units)
        assert steps.sum() == units
        assert (np.diff(steps) <= 0).all()
        assert paid == sum(sum(bits[:done]) for done in steps)
    assert units_done(bits, tiles, 10**9) == tiles * len(bits)
