"""The causal model of pixels against whole numbers and plain loops: what it sees, when, and what it writes."""

from __future__ import annotations

import functools

import independent
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm.codec.mixture import SIXTEENTHS
from ddpm.codec.pixel_model import BEFORE, OUTPUT_BITS, Canvas, CausalModel, Layers, lines, width

NAMES = ("first", "first_bias", "second", "second_bias", "last", "last_bias", "skip")
SIZES = [(1, 1), (1, 7), (7, 1), (5, 3), (17, 9)]
COLOURS = [(1, 1), (3, 3), (3, 1)]
"""Channels of the model, and of the image."""


@functools.cache
def causal_model(channels: int, hidden: int = 6, components: int = 2) -> CausalModel:
    """Random integers, so large that units are off, on and at their ceiling, and means wander."""
    draw = np.random.default_rng(channels)
    out = 3 * components

    def some(*shape: int, most: float) -> np.ndarray:
        return draw.integers(-int(most), int(most) + 1, shape).astype(np.float64)

    every = []
    for channel in range(channels):
        seen = width(channels, channel)
        sizes = [(hidden, seen), (hidden,), (hidden, hidden), (hidden,), (out, hidden), (out,), (out, seen)]
        most = [9000, 10**6, 4000, 10**6, 200, 2**OUTPUT_BITS, 300]
        every.append(Layers(*(some(*size, most=one) for size, one in zip(sizes, most, strict=True))))
    return CausalModel(tuple(every))


def whole_numbers(layers: Layers) -> dict[str, list]:
    return {name: getattr(layers, name).astype(int).tolist() for name in NAMES}


def scene(channels: int, coded: int, size: tuple[int, int], batch: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Guesses, and pixels that lie somewhere near them; the corners of both ranges are among them."""
    draw = np.random.default_rng([channels, coded, *size])
    guess = draw.integers(0, 4081, (batch, channels, *size))
    pixels = np.clip(guess[:, :coded] // SIXTEENTHS + draw.integers(-40, 41, (batch, coded, *size)), 0, 255)
    guess.flat[0], pixels.flat[-1] = 4080, 255
    return guess, pixels.astype(np.uint8)


def everywhere(batch: int, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    return tuple(part.ravel() for part in np.indices((batch, *size)))


# ---- lines ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(1, 20), st.integers(1, 20))
def test_lines_hold_every_pixel_once_and_neighbours_before_lie_on_earlier_ones(height: int, across: int):
    found = [list(zip(r.tolist(), c.tolist(), strict=True)) for r, c in lines(height, across)]
    assert found == independent.lines(height, across)
    number = {place: k for k, line in enumerate(found) for place in line}
    assert sum(map(len, found)) == len(number) == height * across
    for (row, column), k in number.items():
        assert all(number.get((row + down, column + right), -1) < k for down, right in BEFORE)


def test_neighbours_before_are_three_rows_and_what_lies_to_the_left():
    assert len(BEFORE) == len(set(BEFORE)) == 24
    assert all(down < 0 or (down == 0 and right < 0) for down, right in BEFORE)


# ---- what is seen ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_inputs_are_those_of_plain_loops(channels: int, size: tuple[int, int]):
    guess, pixels = scene(channels, channels, size)
    canvas, place = Canvas.of(guess), everywhere(2, size)
    for channel in range(channels):
        canvas.put(channel, *place, pixels[place[0], channel, place[1], place[2]].astype(int))
    for channel in range(channels):
        found = canvas.inputs(channel, *place)
        assert found.shape[1] == width(channels, channel)
        assert found.dtype == np.float64
        for image, row, column, one in zip(*place, found, strict=True):
            plain, known = guess[image].tolist(), pixels[image].astype(int)
            off = {
                where: 16 * int(known[where]) - plain[where[0]][where[1]][where[2]] for where in np.ndindex(known.shape)
            }
            assert one.tolist() == independent.inputs_of(plain, off, channel, int(row), int(column))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "coded"), COLOURS)
def test_what_the_encoder_sees_is_what_the_decoder_has(channels: int, coded: int, size: tuple[int, int]):
    """A canvas that fills line by line shows each pixel the inputs that the full canvas shows it."""
    guess, pixels = scene(channels, coded, size)
    full, growing, place = Canvas.of(guess), Canvas.of(guess), everywhere(2, size)
    known = pixels.astype(int)
    for channel in range(channels):
        full.put(channel, *place, known[place[0], channel % coded, place[1], place[2]])
    for rows, columns in lines(*size):
        here = np.repeat([0, 1], len(rows)), np.tile(rows, 2), np.tile(columns, 2)
        for channel in range(coded):
            assert (growing.inputs(channel, *here) == full.inputs(channel, *here)).all()
            for other in range(channel, channels, coded):
                growing.put(other, *here, known[here[0], channel, here[1], here[2]])
    assert (growing.off == full.off).all()


@settings(max_examples=40)
@given(st.sampled_from([1, 3]), st.tuples(st.integers(1, 8), st.integers(1, 8)), st.data())
def test_another_pixel_changes_nothing_before_it_nor_on_its_line(channels: int, size: tuple[int, int], data):
    guess, pixels = scene(channels, channels, size, batch=1)
    changed = tuple(data.draw(st.integers(0, n - 1)) for n in (channels, *size))
    other = pixels.copy()
    other[0][changed] ^= 255
    place = everywhere(1, size)
    seen = []
    for known in (pixels.astype(int), other.astype(int)):
        canvas = Canvas.of(guess)
        for channel in range(channels):
            canvas.put(channel, *place, known[0, channel, place[1], place[2]])
        seen.append([canvas.inputs(channel, *place) for channel in range(channels)])
    number = {
        (int(r), int(c)): k for k, (rows, cols) in enumerate(lines(*size)) for r, c in zip(rows, cols, strict=True)
    }
    line = number[changed[1:]]
    for channel, (before, after) in enumerate(zip(*seen, strict=True)):
        for k in np.flatnonzero((before != after).any(axis=1)):
            where = int(place[1][k]), int(place[2][k])
            same_pixel = where == changed[1:] and channel > changed[0]
            assert number[where] > line or same_pixel
        if channel > changed[0]:  # and there it does tell
            assert (before != after).any(axis=1)[changed[1] * size[1] + changed[2]]


# ---- the numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_mixtures_are_those_of_whole_numbers(channels: int):
    guess, pixels = scene(channels, channels, (4, 6))
    model, canvas, place = causal_model(channels), Canvas.of(guess), everywhere(2, (4, 6))
    for channel in range(channels):
        canvas.put(channel, *place, pixels[place[0], channel, place[1], place[2]].astype(int))
    for channel in range(channels):
        inputs = canvas.inputs(channel, *place).astype(int).tolist()
        ours = model.mixture(canvas, channel, *place)
        layers, frequencies = whole_numbers(model.layers[channel]), ours.cumulative(np.arange(257)[None])
        for k in range(0, len(inputs), 5):
            centre = int(guess[place[0][k], channel, place[1][k], place[2][k]])
            plain = independent.mixture_of(layers, inputs[k], centre)
            assert ours.weights[k].tolist() == plain[0]
            assert ours.means[k].tolist() == plain[1]
            assert [independent.frequency(level, *plain) for level in range(0, 257, 16)] == frequencies[
                k, ::16
            ].tolist()


def test_outputs_are_the_same_integers_in_any_order_and_one_by_one():
    draw = np.random.default_rng(1)
    for channel, layers in enumerate(causal_model(3).layers):
        inputs = draw.integers(-4080, 4081, (60, width(3, channel))).astype(np.float64)
        found = layers(inputs)
        assert (found == np.rint(found)).all()
        order = draw.permutation(60)
        assert (layers(inputs[order]) == found[order]).all()
        assert (layers(np.asfortranarray(inputs)) == found).all()
        for k in range(60):
            assert (layers(inputs[k : k + 1])[0] == found[k]).all()
        dims = draw.permutation(width(3, channel))  # and whatever the order of the sums
        turned = Layers(*(getattr(layers, n)[:, dims] if n in ("first", "skip") else getattr(layers, n) for n in NAMES))
        assert (turned(inputs[:, dims]) == found).all()


def test_hidden_units_of_the_test_s_model_are_off_on_and_at_their_ceiling():
    draw = np.random.default_rng(2)
    layers = causal_model(1).layers[0]
    inputs = draw.integers(-4080, 4081, (200, width(1, 0))).astype(np.float64)
    hidden = np.clip(np.floor((inputs @ layers.first.T + layers.first_bias + 2**10) / 2**11), 0, 2**15 - 1)
    assert {0.0, 2.0**15 - 1} < set(hidden.ravel().tolist())


# ---- bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "coded"), COLOURS)
def test_pixels_come_back_and_their_bytes_are_those_of_the_image_alone(
    channels: int, coded: int, size: tuple[int, int]
):
    guess, pixels = scene(channels, coded, size, batch=3)
    model = causal_model(channels)
    data, ideal = model.encode(guess, pixels)
    assert model.encode(guess, pixels)[0] == data
    found = model.decode(guess, data, coded)
    assert found.dtype == np.uint8
    assert (found == pixels).all()
    assert ideal.shape == (3,)
    for k in range(3):
        alone, length = model.encode(guess[k : k + 1], pixels[k : k + 1])
        assert (alone[0], float(length[0])) == (data[k], pytest.approx(ideal[k]))
        assert (model.decode(guess[k : k + 1], alone, coded)[0] == pixels[k]).all()
        assert ideal[k] / 8 - 1 <= len(data[k]) <= 1.005 * ideal[k] / 8 + 8


@pytest.mark.parametrize(("channels", "coded"), COLOURS)
def test_ideal_length_is_that_of_the_shares_of_all_pixels(channels: int, coded: int):
    """Of plain loops' frequencies; a grey image is seen by the other channels too and is paid for once."""
    guess, pixels = scene(channels, coded, (3, 4), batch=1)
    model, plain = causal_model(channels), guess[0].tolist()
    bits, off = 0.0, {}
    for line in independent.lines(3, 4):
        for channel in range(coded):
            layers = whole_numbers(model.layers[channel])
            for row, column in line:
                inputs = independent.inputs_of(plain, off, channel, row, column)
                mixture = independent.mixture_of(layers, inputs, plain[channel][row][column])
                level = int(pixels[0, channel, row, column])
                size = independent.frequency(level + 1, *mixture) - independent.frequency(level, *mixture)
                bits += 24 - np.log2(size)
                for other in [channel] if coded > 1 else range(channels):
                    off[other, row, column] = 16 * level - plain[other][row][column]
    assert float(model.encode(guess, pixels)[1][0]) == pytest.approx(bits, rel=1e-12)


@settings(max_examples=25)
@given(st.sampled_from(COLOURS), st.binary(max_size=80))
def test_any_bytes_give_pixels(colours: tuple[int, int], data: bytes):
    channels, coded = colours
    guess, _ = scene(channels, coded, (4, 5), batch=1)
    found = causal_model(channels).decode(guess, [data], coded)
    assert found.shape == (1, coded, 4, 5)
    assert (causal_model(channels).decode(guess, [data + bytes(5)], coded) == found).all()


def test_damage_to_one_image_leaves_the_others_of_its_batch_alone():
    guess, pixels = scene(3, 3, (5, 6), batch=3)
    data, _ = causal_model(3).encode(guess, pixels)
    data[1] = bytes(byte ^ 255 for byte in data[1])
    found = causal_model(3).decode(guess, data, 3)
    assert (found[[0, 2]] == pixels[[0, 2]]).all()
    assert (found[1] != pixels[1]).any()


def test_many_pixels_are_coded_in_parts_with_the_same_bytes():
    """More than one part of 8192 pixels at a time."""
    guess, pixels = scene(1, 1, (97, 91), batch=1)
    model = causal_model(1)
    data, _ = model.encode(guess, pixels)
    assert (model.decode(guess, data, 1) == pixels).all()
