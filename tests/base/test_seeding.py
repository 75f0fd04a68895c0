"""Randomness as a function of (purpose, seed, position): repeatable, independent, normal; and how seeds are read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddpm.base.seeding import generator, parse_seeds
from ddpm.errors import InputError


def test_a_stream_repeats_and_differs_with_purpose_seed_and_position():
    keys = list(itertools.product(("noise", "level"), (-1, 0, 1, 2**70), (0, 1, 128, 10**12)))
    draws = [tuple(generator(*key).integers(2**62, size=4)) for key in keys]
    assert draws == [tuple(generator(*key).integers(2**62, size=4)) for key in keys]
    assert len(set(draws)) == len(keys)


def test_neighbouring_positions_do_not_overlap_however_much_is_drawn():
    """A stream that started one block later would show its neighbour's numbers among the first 2**16."""
    here = generator("noise", 3, 7).integers(2**63, size=2**16)
    for position in (0, 6, 8):
        assert not np.isin(generator("noise", 3, position).integers(2**63, size=64), here).any()


def test_streams_of_neighbouring_seeds_and_positions_are_uncorrelated():
    n = 20_000
    streams = [generator("noise", seed, p).standard_normal(n) for seed, p in itertools.product((0, 1, 2), (0, 1))]
    correlations = np.corrcoef(streams) - np.eye(len(streams))
    assert abs(correlations).max() < 4.5 / n**0.5  # the largest of 15


def test_the_numbers_do_not_change_from_one_release_to_the_next():
    """Keyed by SHA-256 of "sample/17", counter 1000 in the second word: a change makes every order, subset and class
    another."""
    assert generator("sample", 17, 1000).integers(2**32, size=3).tolist() == [1333409179, 658352827, 294378502]


# ---- reading seeds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("7", [7]),
        ("0-3", [0, 1, 2, 3]),
        ("1,5,10-12", [1, 5, 10, 11, 12]),
        (" 2 , 4 - 5 ", [2, 4, 5]),
        ("3,1,3", [3, 1, 3]),
        ("8-8", [8]),
        ("999999999999999999", [10**18 - 1]),
    ],
)
def test_seeds_are_read_in_the_order_given(text: str, seeds: list[int]):
    assert parse_seeds(text) == seeds


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 20)), min_size=1, max_size=6))
def test_ranges_of_seeds_include_both_ends(parts: list[tuple[int, int]]):
    text = ",".join(f"{first}-{first + more}" for first, more in parts)
    assert parse_seeds(text) == [seed for first, more in parts for seed in range(first, first + more + 1)]


@pytest.mark.parametrize("text", ["", "a", "1,", ",1", "5-1", "-5", "1--2", "1-2-3", "1.5", "0x10", "1 2", "9" * 5000])
def test_senseless_seeds_are_refused_with_an_example(text: str):
    with pytest.raises(InputError, match="0-63"):
        parse_seeds(text)


@pytest.mark.parametrize("text", ["0-99999999999", "0-5999999,0-5999999", "0-10000000"])
def test_more_seeds_than_memory_holds_are_refused_before_they_are_counted(text: str):
    with pytest.raises(InputError, match="more than 10,000,000 seeds"):
        parse_seeds(text)
