"""The lossless layer: an integer range coder, integer frequencies, and a causal model that is exact by construction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpm.codec import mixture as mixtures
from ddpm.codec.causal import BEFORE, LARGEST_HIDDEN, Canvas, CausalModel, Layers, lines, width
from ddpm.codec.coder import TOTAL_BITS, Decoder, Encoder
from ddpm.codec.fit import FloatLayers, code_length, fit_causal
from ddpm.codec.mixture import FINE, LARGEST, SMALLEST, Mixture

TOTAL = 2**TOTAL_BITS


# ---- range coder ----------------------------------------------------------------------------------------------------


def coded(cumulative: list[int], symbols: list[int]) -> bytes:
    coder = Encoder()
    for symbol in symbols:
        coder.encode(cumulative[symbol], cumulative[symbol + 1] - cumulative[symbol])
    return coder.finish()


def decoded(cumulative: list[int], data: bytes, count: int) -> list[int]:
    coder, found = Decoder(data), []
    for _ in range(count):
        symbol = int(np.searchsorted(cumulative, coder.target(), side="right")) - 1
        found.append(symbol)
        coder.take(cumulative[symbol], cumulative[symbol + 1] - cumulative[symbol])
        assert 0 <= coder.code < coder.range
    return found


def ideal_bytes(cumulative: list[int], symbols: list[int]) -> float:
    return float(-np.log2(np.diff(cumulative)[symbols] / TOTAL).sum() / 8)


@given(st.sets(st.integers(1, TOTAL - 1), max_size=40), st.data())
def test_symbols_come_back_in_nearly_ideal_bytes(cuts: set[int], data: st.DataObject):
    cumulative = [0, *sorted(cuts), TOTAL]
    symbols = data.draw(st.lists(st.integers(0, len(cumulative) - 2), max_size=200))
    found = coded(cumulative, symbols)
    assert decoded(cumulative, found, len(symbols)) == symbols
    assert decoded(cumulative, found + bytes(3), len(symbols)) == symbols
    assert len(found) <= ideal_bytes(cumulative, symbols) * 1.0001 + 1.01


def frequencies(draw: np.random.Generator, symbols: int) -> list[int]:
    weights = draw.random(symbols) ** 6 + 1e-9
    sizes = np.floor(weights / weights.sum() * (TOTAL - symbols)).astype(int) + 1
    sizes[0] += TOTAL - sizes.sum()
    return [0, *np.cumsum(sizes).tolist()]


def test_long_streams_are_as_short_as_constriction_makes_them():
    import constriction

    draw = np.random.default_rng(2)
    cumulative = frequencies(draw, 200)
    shares = np.diff(cumulative) / TOTAL
    symbols = draw.choice(200, size=20_000, p=shares).tolist()
    ours = len(coded(cumulative, symbols))
    model = constriction.stream.model.Categorical(shares, perfect=False)
    theirs = constriction.stream.queue.RangeEncoder()
    theirs.encode(np.array(symbols, np.int32), model)
    assert ours == pytest.approx(4 * len(theirs.get_compressed()), rel=1e-3, abs=8)
    assert ours <= 1.001 * ideal_bytes(cumulative, symbols) + 1
    assert decoded(cumulative, coded(cumulative, symbols), len(symbols)) == symbols


def test_carry_walks_back_through_full_bytes(monkeypatch: pytest.MonkeyPatch):
    carries: list[int] = []
    emit = Encoder._emit

    def watched(coder: Encoder, byte: int) -> None:
        if byte > 255:
            carries.append(len(coder.out) - len(coder.out.rstrip(b"\xff")))
        emit(coder, byte)

    monkeypatch.setattr(Encoder, "_emit", watched)
    draw = np.random.default_rng(0)
    half = TOTAL // 2
    cumulative = [
        0,
        half - 1,
        half + 1,
        TOTAL,
    ]  # the middle one straddles a byte's edge, the last one lifts low over it
    for _ in range(300):
        symbols = [*[1] * draw.integers(1, 4), 2, *draw.choice(3, size=draw.integers(1, 9)).tolist()]
        assert decoded(cumulative, coded(cumulative, symbols), len(symbols)) == symbols
    assert carries
    assert max(carries) >= 3


@given(st.binary(max_size=60), st.sets(st.integers(1, TOTAL - 1), max_size=10))
def test_any_bytes_decode_to_something(data: bytes, cuts: set[int]):
    assert len(decoded([0, *sorted(cuts), TOTAL], data, 100)) == 100


# ---- frequencies ----------------------------------------------------------------------------------------------------


def test_frequencies_rise_from_nothing_to_all_whatever_the_mixture():
    draw = np.random.default_rng(4)
    made = Mixture(
        draw.integers(-(10**6), 10**6, (300, 4)),
        draw.integers(-(10**5), 10**5, (300, 4)),
        draw.integers(-1000, 1000, (300, 4)),
    )
    found = made.cumulative(np.arange(257)[None])
    assert found.dtype == np.int64
    assert (found[:, 0] == 0).all()
    assert (found[:, -1] == TOTAL).all()
    assert np.diff(found, axis=1).min() >= 1


def test_frequencies_are_those_of_logistics():
    draw = np.random.default_rng(5)
    logits, means, scales = (
        draw.integers(-200, 200, (50, 3)),
        draw.integers(0, 4080, (50, 3)),
        draw.integers(-10, 60, (50, 3)),
    )
    found = Mixture(logits, means, scales).cumulative(np.arange(257)[None]) / TOTAL
    weights = np.exp(logits / 64 - (logits / 64).max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    edges = np.arange(257) - 0.5
    place = (edges[None, None] - means[:, :, None] / 16) / np.exp(scales / 16)[:, :, None]
    exact = (weights[:, :, None] / (1 + np.exp(-place))).sum(1)
    exact[:, 0], exact[:, -1] = 0, 1
    assert np.abs(found - exact).max() < 2e-4


def test_tables_are_hashed_and_no_rounding_is_close(monkeypatch: pytest.MonkeyPatch):
    import math

    raw = [2**22 / (1 + math.exp(-i / FINE)) for i in range(1, 12 * FINE + 1)]
    raw += [math.exp(-i / 64) * 2**16 for i in range(1, 1024)]
    raw += [2**20 * math.exp(-a / 16) for a in range(SMALLEST, LARGEST + 1) if a]
    assert min(abs(value - math.floor(value) - 0.5) for value in raw) > 1e-6  # a rounding error of exp is 1e-9
    monkeypatch.setattr(mixtures, "TABLES_SHA256", "0" * 64)
    with pytest.raises(AssertionError, match="tables of the pixel model differ"):
        mixtures.tables.__wrapped__()


# ---- the causal model -----------------------------------------------------------------------------------------------


def random_model(channels: int, seed: int = 0, hidden: int = 7, components: int = 3) -> CausalModel:
    draw = np.random.default_rng(seed)

    def some(*shape: int, most: int) -> np.ndarray:
        return draw.integers(-most, most + 1, shape).astype(np.float64)

    return CausalModel(
        tuple(
            Layers(
                some(hidden, width(channels, channel), most=900),
                some(hidden, most=10**6),
                some(hidden, hidden, most=2000),
                some(hidden, most=10**6),
                some(3 * components, hidden, most=3000),
                some(3 * components, most=10**7),
                some(3 * components, width(channels, channel), most=200),
            )
            for channel in range(channels)
        )
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 1), (5, 8), (13, 17)])
def test_lines_hold_every_pixel_once_and_all_it_sees_before_it(size: tuple[int, int]):
    number = np.full(size, -1)
    for k, (rows, columns) in enumerate(lines(*size)):
        assert (number[rows, columns] == -1).all()
        assert (np.diff(rows) > 0).all()
        number[rows, columns] = k
    assert number.min() >= 0
    for (row, column), here in np.ndenumerate(number):
        for down, right in BEFORE:
            if 0 <= row + down < size[0] and 0 <= column + right < size[1]:
                assert number[row + down, column + right] < here


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pixel_is_an_input_of_later_pixels_only(channels: int):
    draw = np.random.default_rng(0)
    guess, pixels = draw.integers(0, 4081, (1, channels, 7, 9)), draw.integers(0, 256, (1, channels, 7, 9))
    image, row, column = (part.ravel() for part in np.indices((1, 7, 9)))

    def inputs(values: np.ndarray) -> np.ndarray:
        canvas = Canvas.of(guess)
        for channel in range(channels):
            canvas.put(channel, image, row, column, values[image, channel, row, column])
        seen = [canvas.inputs(channel, image, row, column) for channel in range(channels)]
        return np.stack([part[:, : width(channels, 0)] for part in seen]), [part for part in seen]

    order = {(r, c): k for k, (rows, columns) in enumerate(lines(7, 9)) for r, c in zip(rows, columns, strict=True)}
    _, before = inputs(pixels)
    for place in [(0, 0, 0), (channels - 1, 3, 4), (0, 6, 8), (channels // 2, 2, 0)]:
        other = pixels.copy()
        other[0, place[0], place[1], place[2]] ^= 255
        _, after = inputs(other)
        for channel in range(channels):
            for k in np.flatnonzero((before[channel] != after[channel]).any(1)):
                here = order[int(row[k]), int(column[k])]
                earlier = order[place[1], place[2]]
                assert here > earlier or (here == earlier and channel > place[0] and (row[k], column[k]) == place[1:])


CASES = [(1, 1, 1, 1), (1, 1, 17, 9), (3, 3, 1, 7), (3, 3, 5, 3), (3, 3, 16, 12), (3, 1, 9, 6)]


@pytest.mark.parametrize(("channels", "coded_channels", "height", "across"), CASES)
def test_pixels_come_back_together_and_alone(channels: int, coded_channels: int, height: int, across: int):
    draw, model = np.random.default_rng(7), random_model(channels)
    guess = draw.integers(0, 4081, (3, channels, height, across))
    pixels = draw.integers(0, 256, (3, coded_channels, height, across), dtype=np.uint8)
    data, ideal = model.encode(guess, pixels)
    assert (model.decode(guess, data, coded_channels) == pixels).all()
    assert model.encode(guess, pixels)[0] == data
    for k in range(3):
        alone, _ = model.encode(guess[k : k + 1], pixels[k : k + 1])
        assert alone == data[k : k + 1]
        assert (model.decode(guess[k : k + 1], alone, coded_channels)[0] == pixels[k]).all()
        assert ideal[k] / 8 - 1 <= len(data[k]) <= 1.005 * ideal[k] / 8 + 8


def test_matrices_are_exact_integers():
    """Against Python's own integers, and whatever the order of the sums."""
    draw, layers = np.random.default_rng(8), random_model(3).layers[2]
    inputs = draw.integers(-4080, 4081, (20, width(3, 2))).astype(np.float64)
    found = layers(inputs)
    assert (layers(inputs[::-1].copy())[::-1] == found).all()
    assert all((layers(row[None])[0] == one).all() for row, one in zip(inputs, found, strict=True))
    whole = {name: getattr(layers, name).astype(int).tolist() for name in vars(layers)}

    def active(weights: list[list[int]], bias: list[int], values: list[int], shift: int) -> list[int]:
        sums = [sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(weights, bias, strict=True)]
        return [min(max((total + (1 << shift - 1)) >> shift, 0), LARGEST_HIDDEN) for total in sums]

    for row, said in zip(inputs.astype(int).tolist(), found.tolist(), strict=True):
        hidden = active(whole["second"], whole["second_bias"], active(whole["first"], whole["first_bias"], row, 11), 12)
        for k, value in enumerate(said):
            last = sum(w * h for w, h in zip(whole["last"][k], hidden, strict=True)) + whole["last_bias"][k]
            assert value == last + 2 * sum(w * v for w, v in zip(whole["skip"][k], row, strict=True))


def test_integers_of_a_fitted_model_cost_what_its_floats_do():
    import torch

    draw = np.random.default_rng(9)
    smooth = np.clip(np.cumsum(draw.integers(-6, 7, (24, 1, 12, 12)), axis=3) + 120, 0, 255)
    pixels = smooth.astype(np.uint8)
    guess = np.clip(smooth * 16 + draw.integers(-200, 200, smooth.shape), 0, 4080)
    model = fit_causal(guess, pixels, steps=60)
    _, bits = model.encode(guess, pixels)
    _, untrained = CausalModel((FloatLayers(width(1, 0), 0).integers(),)).encode(guess, pixels)
    assert bits.sum() < 0.8 * untrained.sum()
    floats = FloatLayers(width(1, 0), 0)
    canvas, (image, row, column) = Canvas.of(guess), (part.ravel() for part in np.indices((24, 12, 12)))
    canvas.put(0, image, row, column, pixels[image, 0, row, column].astype(int))
    with torch.no_grad():
        said = floats(torch.from_numpy(canvas.inputs(0, image, row, column)).float())
        centre = torch.from_numpy(canvas.centre(0, image, row, column) / 16).float()
        exact = code_length(said, centre, torch.from_numpy(pixels[image, 0, row, column]).float())
    assert float(exact.sum()) == pytest.approx(untrained.sum(), rel=0.005)
