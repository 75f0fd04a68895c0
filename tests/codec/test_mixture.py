"""Integer frequencies of grey levels: a distribution whatever the numbers, and that of a mixture of logistics."""

from __future__ import annotations

import math

import independent
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm.codec import mixture as module
from ddpm.codec.mixture import FINE, LARGEST, LOGITS, SMALLEST, WIDTH, Mixture, tables
from ddpm.codec.range_coder import TOTAL_BITS

TOTAL = 2**TOTAL_BITS
EVERY = np.arange(257)[None]
Numbers = tuple[list[int], list[int], list[int]]


@st.composite
def mixtures(draw: st.DrawFn, most: int = 2**30, components: int = 0) -> Numbers:
    """Logits, means and scales of one pixel: as a network says them, or anything up to `most`."""
    count = components or draw(st.integers(1, 6))
    usual = draw(st.booleans())
    logit = st.integers(-300, 300) if usual else st.integers(-most, most)
    mean = st.integers(-200, 4300) if usual else st.integers(-most, most)
    scale = st.integers(SMALLEST, LARGEST) if usual else st.integers(-most, most)
    lists = [draw(st.lists(one, min_size=count, max_size=count)) for one in (logit, mean, scale)]
    return lists[0], lists[1], lists[2]


def made(*pixels: Numbers) -> Mixture:
    return Mixture(*(np.array(part) for part in zip(*pixels, strict=True)))


# ---- a distribution -------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(mixtures())
def test_frequencies_rise_from_nothing_to_all(numbers: Numbers):
    found = made(numbers).cumulative(EVERY)
    assert found.dtype == np.int64
    assert (found[0, 0], found[0, 256]) == (0, TOTAL)
    assert np.diff(found[0]).min() >= 1


EXTREMES = [[0, -(2**30), 2**30], [-(2**30), -8, 2040, 4088, 2**30], [-(2**30), SMALLEST, 0, LARGEST, 2**30]]


def test_frequencies_rise_in_every_corner():
    logit, mean, scale = (part.ravel() for part in np.meshgrid(*EXTREMES, indexing="ij"))
    pairs = Mixture(*(np.stack([part, part[::-1]], axis=1) for part in (logit, mean, scale)))
    found = pairs.cumulative(EVERY)
    assert (found[:, 0] == 0).all()
    assert (found[:, 256] == TOTAL).all()
    assert np.diff(found, axis=1).min() >= 1


@settings(max_examples=100)
@given(mixtures())
def test_frequencies_are_those_of_whole_numbers(numbers: Numbers):
    logits, means, scales = numbers
    weights = independent.weights_of(logits)
    scales = [min(max(scale, SMALLEST), LARGEST) for scale in scales]
    found = made(numbers)
    assert found.weights[0].tolist() == weights
    for level, value in enumerate(found.cumulative(EVERY)[0].tolist()):
        if level % 16 < 2 or level > 253:
            assert value == independent.frequency(level, weights, means, scales)


@settings(max_examples=50)
@given(st.lists(mixtures(components=3), min_size=2, max_size=4), st.integers(0, 256))
def test_pixels_and_levels_do_not_see_each_other(pixels: list[Numbers], level: int):
    together = made(*pixels).cumulative(np.repeat(EVERY, len(pixels), axis=0))
    for row, numbers in zip(together, pixels, strict=True):
        assert (made(numbers).cumulative(EVERY)[0] == row).all()
        assert made(numbers).cumulative(np.array([[level]]))[0, 0] == row[level]


@settings(max_examples=50)
@given(mixtures(), st.integers(-1000, 1000), st.randoms(use_true_random=False))
def test_order_of_components_and_a_constant_in_all_logits_do_not_matter(numbers: Numbers, constant: int, random):
    logits, means, scales = numbers
    order = random.sample(range(len(logits)), len(logits))
    other = [logits[k] + constant for k in order], [means[k] for k in order], [scales[k] for k in order]
    assert (made(other).cumulative(EVERY) == made(numbers).cumulative(EVERY)).all()


# ---- the mixture that is meant --------------------------------------------------------------------------------------


def exact(numbers: Numbers) -> np.ndarray:
    """The mixture's mass below every level in float64, by tanh instead of the logistic function: (257,)."""
    logits, means, scales = (np.array(part, np.float64) for part in numbers)
    weights = np.exp2((logits - logits.max()) / 64 / math.log(2))
    scales = np.exp(np.clip(scales, SMALLEST, LARGEST) / 16)
    place = (np.arange(257)[:, None] - 0.5 - means / 16) / scales
    mass = ((0.5 + 0.5 * np.tanh(place / 2)) * (weights / weights.sum())).sum(1)
    mass[0], mass[-1] = 0, 1
    return mass


@settings(max_examples=200)
@given(mixtures(most=10**5))
def test_frequencies_are_those_of_a_mixture_of_logistics(numbers: Numbers):
    """Off by a place cut to 1/2048 (times the steepest slope, 1/4: 1.22e-4), slopes rounded to 1/8600 of themselves at
    the widest scale (times the largest x f(x), 0.224: 2.6e-5), weights in 2^-16 (6 components, cut and rounded: 1.4e-4
    at most), one count of 2^24 a level (1.5e-5) and the tails beyond 12 (6e-6)."""
    found = made(numbers).cumulative(EVERY)[0] / TOTAL
    assert np.abs(found - exact(numbers)).max() < 3.1e-4


def test_a_level_s_cost_is_that_of_its_mass():
    """Within 0.1 % of a bit a level in the mean, drawn from the mixture itself."""
    draw = np.random.default_rng(0)
    for scale in (0, 16, 32, 48):
        numbers = ([0, -40, 10], [1500, 1700, 2500], [scale, scale + 8, scale])
        shares, sizes = np.diff(exact(numbers)), np.diff(made(numbers).cumulative(EVERY)[0])
        levels = draw.choice(256, size=10_000, p=shares)
        assert -np.log2(sizes[levels] / TOTAL).mean() == pytest.approx(-np.log2(shares[levels]).mean(), rel=1e-3)


def test_far_means_put_nearly_all_on_the_outermost_level():
    for mean, level in ((-(10**6), 0), (10**6, 255)):
        sizes = np.diff(made(([0], [mean], [0])).cumulative(EVERY)[0])
        assert sizes[level] >= TOTAL * (1 - 3e-5)  # a count for each level, and the tail beyond 12
        assert (np.delete(sizes, level) >= 1).all()


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_entries_are_rounded_far_from_ties_in_twenty_five_digits():
    """A library's exp is off by 1e-15 of itself, 4e-9 of the largest entry's unit; every 8th logistic is looked at."""
    import mpmath  # comes with torch, by way of sympy

    weights, slopes, logistic = tables()
    with mpmath.workdps(25):
        cases = [(weights[i], 2**16 * mpmath.exp(mpmath.mpf(-i) / 64)) for i in range(LOGITS)]
        cases += [(slopes[a + 32], 2**20 * mpmath.exp(mpmath.mpf(-a) / 16)) for a in range(SMALLEST, LARGEST + 1)]
        middle = WIDTH * FINE
        cases += [
            (logistic[i + middle], 2**22 / (1 + mpmath.exp(mpmath.mpf(-i) / FINE)))
            for i in range(-middle, middle + 1, 8)
        ]
        for entry, value in cases:
            assert entry == int(mpmath.floor(value + 0.5))
            assert abs(value - mpmath.floor(value) - 0.5) > 1e-5


def test_no_logistic_at_all_is_near_a_tie():
    places = np.arange(-WIDTH * FINE, WIDTH * FINE + 1) / FINE
    value = 2.0**22 / (1 + np.exp(-places))
    assert np.abs(value - np.floor(value) - 0.5).min() > 1e-6  # float64 knows it to 1e-9
    assert (tables()[2] == np.floor(value + 0.5)).all()


def test_logistic_is_symmetric_and_never_all():
    logistic = tables()[2]
    assert (logistic + logistic[::-1] == 2**22).all()
    assert 0 < logistic[0] < logistic[-1] < 2**22
    assert (np.diff(logistic) >= 0).all()


@pytest.mark.parametrize("change", [1e-3, -1e-3])
def test_another_exponential_is_noticed(change: float, monkeypatch: pytest.MonkeyPatch):
    class Other:
        @staticmethod
        def exp(x: float) -> float:
            return math.exp(x) * (1 + change * (x == -7 / 64))  # one entry of the first table

    monkeypatch.setattr(module, "math", Other)
    with pytest.raises(RuntimeError, match="tables of the pixel model differ"):
        tables.__wrapped__()
