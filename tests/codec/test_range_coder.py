"""The range coder against whole numbers without bound, against entropy and another coder, and on bytes of no origin."""

from __future__ import annotations

import bisect
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm.codec.range_coder import LEAST, TOP, TOTAL_BITS, Decoder, Encoder

TOTAL = 2**TOTAL_BITS
Symbols = list[tuple[int, int]]
"""Start and size of each."""


@st.composite
def tables(draw: st.DrawFn) -> list[int]:
    """Where the symbols of an alphabet begin, and TOTAL: any cuts, or slivers of size 1 beside all the rest."""
    if draw(st.booleans()):
        cuts = draw(st.sets(st.integers(1, TOTAL - 1), max_size=40))
    else:
        low, high = draw(st.integers(0, 4)), draw(st.integers(0, 4))
        cuts = {*range(1, low + 1), *range(TOTAL - high, TOTAL)}
    return [0, *sorted(cuts), TOTAL]


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    """A table for every symbol, a few of them in turn, and the symbols."""
    some = draw(st.lists(tables(), min_size=1, max_size=4))
    count = draw(st.integers(0, 80))
    every = list(itertools.islice(itertools.cycle(some), count))
    return every, [draw(st.integers(0, len(table) - 2)) for table in every]


def pairs_of(every: list[list[int]], symbols: list[int]) -> Symbols:
    return [(table[s], table[s + 1] - table[s]) for table, s in zip(every, symbols, strict=True)]


def encoded(pairs: Symbols) -> bytes:
    coder = Encoder()
    for start, size in pairs:
        coder.encode(start, size)
    return coder.finish()


def decoded(every: list[list[int]], data: bytes) -> list[int]:
    """The symbols; the code stays inside the range and the range inside its bounds."""
    coder, found = Decoder(data), []
    for table in every:
        target = coder.target()
        assert 0 <= target < TOTAL
        symbol = bisect.bisect_right(table, target) - 1
        coder.take(table[symbol], table[symbol + 1] - table[symbol])
        assert 0 <= coder.code < coder.range
        assert LEAST <= coder.range <= TOP
        found.append(symbol)
    return found


def on_paper(pairs: Symbols) -> bytes:
    """The same interval as one whole number of any length, so that no carry exists; its shortest name in bytes."""
    low, size, whole = 0, TOP, 7  # bytes that the interval counts in
    for start, share in pairs:
        unit = size >> TOTAL_BITS
        low, size = low + unit * start, unit * share
        while size < LEAST:
            low, size, whole = low << 8, size << 8, whole + 1
    for length in range(whole + 1):
        grain = 256 ** (whole - length)
        value = -(-low // grain) * grain
        if value < low + size:
            return value.to_bytes(whole, "big")[:length]
    raise AssertionError("an interval holds its lower end")


# ---- round trips ----------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(streams())
def test_symbols_of_any_tables_come_back(stream: tuple[list[list[int]], list[int]]):
    every, symbols = stream
    data = encoded(pairs_of(every, symbols))
    assert decoded(every, data) == symbols


@settings(max_examples=150)
@given(streams())
def test_bytes_are_the_shortest_name_of_the_interval_to_the_bit(stream: tuple[list[list[int]], list[int]]):
    pairs = pairs_of(*stream)
    assert encoded(pairs) == on_paper(pairs)


@settings(max_examples=150)
@given(streams())
def test_length_is_the_ideal_one_and_a_byte(stream: tuple[list[list[int]], list[int]]):
    """A symbol's share is cut to 2^-16 of itself at most (range >= 2^40 in units of 2^24), an end costs a byte."""
    pairs = pairs_of(*stream)
    ideal = sum(TOTAL_BITS - float(np.log2(size)) for _, size in pairs)
    assert 8 * len(encoded(pairs)) <= ideal + len(pairs) * 2**-15 + 8


@settings(max_examples=100)
@given(streams(), st.integers(0, 12))
def test_bytes_beyond_the_end_read_as_zero(stream: tuple[list[list[int]], list[int]], more: int):
    every, symbols = stream
    data = encoded(pairs_of(every, symbols))
    assert not data.endswith(b"\0")
    assert decoded(every, data + bytes(more)) == symbols


def test_nothing_and_certainty_are_no_bytes():
    assert encoded([]) == b""
    assert encoded([(0, TOTAL)] * 1000) == b""
    assert encoded([(0, 1)] * 50) == b""  # the lowest number of all is that of no bytes


def test_slivers_beside_almost_everything_cost_what_they_must():
    """1000 symbols of all but one of 2^24 take no byte of their own, a symbol of 1 takes 24 bits."""
    table = [0, 1, TOTAL]
    for place in (0, 500, 999):
        symbols = [1] * 1000
        symbols[place] = 0
        data = encoded(pairs_of([table] * 1000, symbols))
        assert decoded([table] * 1000, data) == symbols
        assert len(data) <= 4
    symbols = [0, 1] * 40
    data = encoded(pairs_of([table] * 80, symbols))
    assert decoded([table] * 80, data) == symbols
    assert len(data) <= 40 * 3 + 1


# ---- carries --------------------------------------------------------------------------------------------------------


class Watched(Encoder):
    """Notes through how many full bytes each carry went."""

    def __init__(self) -> None:
        super().__init__()
        self.carries: list[int] = []

    def _emit(self, byte: int) -> None:
        if byte > 255:
            self.carries.append(len(self.out) - len(self.out.rstrip(b"\xff")))
        super()._emit(byte)


def test_carry_runs_through_as_many_full_bytes_as_there_are():
    """Slivers that straddle an edge keep the interval on both sides of it; the last symbol decides for above."""
    half, longest = TOTAL // 2, 0
    table = [0, half - 1, half + 1, TOTAL]
    for count in range(1, 60):
        symbols = [1] * count + [2]
        coder = Watched()
        pairs = pairs_of([table] * len(symbols), symbols)
        for start, size in pairs:
            coder.encode(start, size)
        data = coder.finish()
        assert data == on_paper(pairs)
        assert decoded([table] * len(symbols), data) == symbols
        longest = max([longest, *coder.carries])
    assert longest >= 5


def test_carries_of_random_streams_are_those_on_paper():
    draw, carries = np.random.default_rng(0), []
    for _ in range(300):
        wide = int(draw.integers(1, 200))
        table = [0, TOTAL // 2 - wide, TOTAL // 2 + wide, TOTAL]
        symbols = draw.choice(3, size=40, p=[0.1, 0.8, 0.1]).tolist()
        pairs, coder = pairs_of([table] * 40, symbols), Watched()
        for start, size in pairs:
            coder.encode(start, size)
        assert coder.finish() == on_paper(pairs)
        carries += coder.carries
    assert len(carries) > 100
    assert max(carries) >= 2


# ---- length ---------------------------------------------------------------------------------------------------------


def frequencies(shares: np.ndarray) -> np.ndarray:
    """Integers out of 2^24, each at least 1."""
    sizes = np.floor(shares / shares.sum() * (TOTAL - len(shares))).astype(np.int64) + 1
    sizes[shares.argmax()] += TOTAL - sizes.sum()
    return sizes


INDEX = np.arange(256)
SHARES = {
    "even": np.ones(256),
    "a coin": np.array([0.5, 0.5]),
    "a bent coin": np.array([0.995, 0.005]),
    "geometric": 0.9**INDEX,
    "a narrow bell": np.exp(-0.5 * ((INDEX - 90.3) / 1.2) ** 2),
    "a wide bell": np.exp(-0.5 * ((INDEX - 200) / 40) ** 2),
    "rough": np.random.default_rng(0).random(256) ** 8,
    "three thousand": np.random.default_rng(1).random(3000) ** 3,
}


@pytest.mark.parametrize("name", SHARES)
def test_long_streams_have_the_length_of_entropy_and_of_constriction(name: str):
    import constriction

    sizes = frequencies(SHARES[name])
    shares = sizes / TOTAL
    symbols = np.random.default_rng(2).choice(len(sizes), size=20_000, p=shares)
    table = [0, *np.cumsum(sizes).tolist()]
    data = encoded(pairs_of([table] * len(symbols), symbols.tolist()))
    ideal = -np.log2(shares[symbols]).sum() / 8
    assert ideal - 1 <= len(data) <= 1.001 * ideal + 1
    theirs = constriction.stream.queue.RangeEncoder()
    theirs.encode(symbols.astype(np.int32), constriction.stream.model.Categorical(shares, perfect=False))
    assert len(data) == pytest.approx(4 * len(theirs.get_compressed()), rel=1e-3, abs=8)
    assert decoded([table] * len(symbols), data) == symbols.tolist()


def test_tables_that_change_with_every_symbol_have_the_length_of_constriction_too():
    import constriction

    draw, count = np.random.default_rng(3), 5000
    centres, widths = draw.uniform(0, 255, (count, 1)), np.exp(draw.uniform(-1, 3, (count, 1)))
    every = np.array([frequencies(row) for row in np.exp(-np.abs(INDEX - centres) / widths)])
    symbols = np.array([draw.choice(256, p=row / TOTAL) for row in every])
    tables = [[0, *row] for row in np.cumsum(every, axis=1).tolist()]
    data = encoded(pairs_of(tables, symbols.tolist()))
    theirs = constriction.stream.queue.RangeEncoder()
    family = constriction.stream.model.Categorical(perfect=False)
    theirs.encode(symbols.astype(np.int32), family, every / TOTAL)
    assert len(data) == pytest.approx(4 * len(theirs.get_compressed()), rel=1e-3, abs=8)
    assert decoded(tables, data) == symbols.tolist()


# ---- bytes of no origin ---------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(st.binary(max_size=60) | st.builds(lambda n: b"\xff" * n, st.integers(0, 60)), st.lists(tables(), min_size=1))
def test_any_bytes_give_symbols_and_the_code_stays_below_the_range(data: bytes, some: list[list[int]]):
    every = list(itertools.islice(itertools.cycle(some), 120))
    assert len(decoded(every, data)) == 120


@settings(max_examples=100)
@given(streams(), st.data())
def test_a_flipped_bit_leaves_the_symbols_before_it_alone(
    stream: tuple[list[list[int]], list[int]], data: st.DataObject
):
    """Symbols that were read while the code did not yet hold the byte: bytes enter in order, seven at first."""
    every, symbols = stream
    good = encoded(pairs_of(every, symbols))
    if len(good) <= 7:
        return
    place = data.draw(st.integers(7, len(good) - 1))
    bad = good[:place] + bytes([good[place] ^ 1 << data.draw(st.integers(0, 7))]) + good[place + 1 :]
    coder, safe = Decoder(good), 0
    for table, symbol in zip(every, symbols, strict=True):
        if coder.place > place:
            break
        coder.take(table[symbol], table[symbol + 1] - table[symbol])
        safe += 1
    assert decoded(every, bad)[:safe] == symbols[:safe]
