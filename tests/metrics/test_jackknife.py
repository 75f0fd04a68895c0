"""The jackknife, on numbers whose error and bias are known exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ddpm.metrics.jackknife import Distance, block_numbers, jackknife

NUMBERS = np.random.default_rng(0).gamma(2, size=24)


def estimate(statistic: Callable[[np.ndarray], float], numbers: np.ndarray, blocks: np.ndarray) -> Distance:
    without = np.array([statistic(numbers[blocks != block]) for block in np.unique(blocks)])
    return jackknife(statistic(numbers), without, np.bincount(blocks))


def test_of_a_mean_one_number_at_a_time_it_is_the_standard_error():
    found = estimate(np.mean, NUMBERS, np.arange(24))
    assert found.error == pytest.approx(NUMBERS.std(ddof=1) / 24**0.5, rel=1e-12)
    assert found.bias == pytest.approx(0, abs=1e-13)


def test_it_takes_the_bias_off_a_variance_exactly():
    """Divided by N, a variance is too small by a factor 1 - 1 / N; without one number, by 1 - 1 / (N - 1)."""
    found = estimate(np.var, NUMBERS, np.arange(24))
    assert found.bias < 0
    assert found.corrected == pytest.approx(NUMBERS.var(ddof=1), rel=1e-12)


def test_equal_blocks_give_the_textbook_formula():
    blocks = block_numbers(24, 6)
    without = np.array([np.var(NUMBERS[blocks != block]) for block in range(6)])
    found = estimate(np.var, NUMBERS, blocks)
    assert found.error == pytest.approx((5 / 6 * ((without - without.mean()) ** 2).sum()) ** 0.5, rel=1e-12)
    assert found.bias == pytest.approx(5 * (without.mean() - NUMBERS.var()), rel=1e-12)


def test_unequal_blocks_still_give_the_error_of_a_mean():
    """Over 2,000 samples of 23 in blocks of 5 and 4: both scatters are known to 1.6 % or better."""
    rng, blocks = np.random.default_rng(1), block_numbers(23, 5)
    assert sorted(np.bincount(blocks)) == [4, 4, 5, 5, 5]
    found = [estimate(np.mean, numbers, blocks) for numbers in rng.gamma(2, size=(2000, 23))]
    assert np.mean([one.error**2 for one in found]) == pytest.approx(2 / 23, rel=0.05)
    assert np.abs([one.bias for one in found]).max() < 1e-13


def test_images_are_dealt_like_cards():
    assert block_numbers(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_the_interval_is_two_errors_wide_each_way_around_the_value():
    low, high = Distance(10, 2, 1).interval
    assert (low, high) == (pytest.approx(6.08), pytest.approx(13.92))
    assert Distance(10, 2, 1).corrected == 9
    table = Distance(10, 2, 1).table()
    assert table == {"value": 10, "error": 2, "bias": 1, "interval": [low, high], "corrected": 9}
