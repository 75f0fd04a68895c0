"""The shared randomness against Python's own integers for any key, and a table that no rounding can change."""

from __future__ import annotations

import math
from statistics import NormalDist

import independent
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm.codec import randomness
from ddpm.codec.randomness import QUANTILES, normals, quantiles, scrambling, words

WORD = 2**64
a_word = st.integers(0, WORD - 1)
a_key = st.lists(a_word, min_size=1, max_size=5)


# ---- words ----------------------------------------------------------------------------------------------------------


@given(a_key, st.integers(0, 20))
def test_words_and_normals_of_any_key_are_those_of_whole_numbers(key: list[int], count: int):
    state = independent.make_key(*key)
    plain = [independent.word(state, i) for i in range(count)]
    found = words(*key, count=count)
    assert found.dtype == np.uint64
    assert found.tolist() == plain
    assert normals(*key, count=count).tolist() == [independent.quantile()[word >> 52] for word in plain]


@given(a_key, st.integers(0, 50), st.integers(0, 50))
def test_stream_of_a_key_does_not_depend_on_how_much_is_asked_for(key: list[int], one: int, other: int):
    both = min(one, other)
    assert (words(*key, count=one)[:both] == words(*key, count=other)[:both]).all()


def test_uses_and_lengths_of_keys_have_streams_of_their_own():
    uses = (randomness.START, randomness.ORDER, randomness.SIGNS, randomness.CODEBOOK, randomness.CHOICE)
    assert len(set(uses)) == 5
    keys = [(use, *rest) for use in uses for rest in ((), (0,), (1,), (0, 0), (0, 1), (1, 0))]
    seen = np.concatenate([words(*key, count=100) for key in keys])
    assert len(np.unique(seen)) == len(seen)  # by chance two agree once in 2^40 runs


# ---- normals --------------------------------------------------------------------------------------------------------


def test_quantiles_are_rounded_far_from_ties_by_a_second_inverse():
    """mpmath's inverse error function, in 25 digits; NormalDist is off by about 1e-12 of these units."""
    import mpmath  # comes with torch, by way of sympy

    with mpmath.workdps(25):
        for i in range(QUANTILES // 2, QUANTILES):
            exact = 4096 * mpmath.sqrt(2) * mpmath.erfinv(mpmath.mpf(2 * i + 1 - QUANTILES) / QUANTILES)
            assert quantiles()[i] == int(mpmath.floor(exact + 0.5))
            assert abs(exact - mpmath.floor(exact) - 0.5) > 1e-5


def test_quantiles_lie_where_the_error_function_has_their_probability():
    """math.erf rises through (i + 1/2) / 4096 between half a unit below the entry and half a unit above it."""
    for i in range(0, QUANTILES, 10):
        below, above = (0.5 * math.erfc(-(int(quantiles()[i]) + d) / 4096 / 2**0.5) for d in (-0.5, 0.5))
        assert below < (i + 0.5) / QUANTILES < above


def test_table_is_symmetric_rises_and_can_not_be_written():
    table = quantiles()
    assert (table == -table[::-1]).all()
    assert (np.diff(table) >= 0).all()
    assert table.dtype == np.int16
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 0


@pytest.mark.parametrize("change", [lambda q: q * (1 + 1e-3), lambda q: q if q > -3.6 else q + 2**-12])
def test_another_inverse_normal_distribution_is_noticed(change, monkeypatch: pytest.MonkeyPatch):
    class Other:
        def inv_cdf(self, p: float) -> float:
            return change(NormalDist().inv_cdf(p))

    monkeypatch.setattr(randomness, "NormalDist", Other)
    with pytest.raises(RuntimeError, match="table of quantiles differs"):
        quantiles.__wrapped__()


def test_normals_have_the_moments_of_the_normal_distribution():
    """The bounds are five standard errors of 2^18 numbers; the table's own variance is 3e-4 below 1."""
    drawn = normals(randomness.START, 0, 0, count=2**18) * randomness.UNIT
    table = quantiles() * randomness.UNIT
    assert 1 - 5e-4 < (table**2).mean() < 1
    assert abs(drawn.mean()) < 5 / 2**9
    assert abs((drawn**2).mean() - 1) < 5 * 2**0.5 / 2**9 + 5e-4
    assert abs((drawn[1:] * drawn[:-1]).mean()) < 5 / 2**9


# ---- scrambling -----------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 300))
def test_scrambling_is_the_sorting_of_its_words_with_signs(step: int, dimensions: int):
    order, signs = scrambling(step, dimensions)
    assert order.tolist() == independent.order(step, dimensions)
    assert signs.tolist() == independent.signs(step, dimensions)
    assert sorted(order.tolist()) == list(range(dimensions))
    assert set(signs.tolist()) <= {-1.0, 1.0}


def test_every_step_scrambles_otherwise():
    every = [scrambling(step, 784) for step in range(60)]
    assert len({order.tobytes() for order, _ in every}) == 60
    assert len({signs.tobytes() for _, signs in every}) == 60
    products = np.array([signs for _, signs in every]).mean(0)
    assert np.abs(products).max() < 6 / 60**0.5  # six standard errors: no dimension keeps its sign


def test_equal_words_keep_the_order_of_their_dimensions(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(randomness, "words", lambda *key, count: (np.arange(count) % 3).astype(np.uint64))
    order, _ = scrambling.__wrapped__(0, 100)
    assert order.tolist() == [*range(0, 100, 3), *range(1, 100, 3), *range(2, 100, 3)]
