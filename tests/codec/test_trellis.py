"""The shared randomness, to the bit, and bits that choose noise: the best of all circles, and what they deliver."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ddpm.codec import shared
from ddpm.codec.shared import GOLDEN, UNIT, mix, normals, quantiles, scrambling, words
from ddpm.codec.trellis import LAST, LONGEST, STATES, codebook, fewest_bits, noise, segments, simulate, windows

WORD = 2**64 - 1


# ---- shared randomness ----------------------------------------------------------------------------------------------


def plain_mix(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB & WORD
    return z ^ z >> 31


def plain_words(key: tuple[int, ...], count: int) -> list[int]:
    state = 0
    for part in key:
        state = plain_mix(state ^ part)
    return [plain_mix(state + (i + 1) * GOLDEN & WORD) for i in range(count)]


def test_mix_is_that_of_splitmix64():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = [(1234567 + (i + 1) * GOLDEN) & WORD for i in range(len(published))]
    assert [int(mix(np.array([state], np.uint64))[0]) for state in states] == published


@pytest.mark.parametrize("key", [(1,), (2, 17), (4, 0), (1, 99, 2**40), (WORD,)])
def test_words_follow_their_key(key: tuple[int, ...]):
    assert words(*key, count=50).tolist() == plain_words(key, 50)
    assert normals(*key, count=50).tolist() == [int(quantiles()[w >> 52]) for w in plain_words(key, 50)]


def test_table_of_quantiles_is_the_normal_distribution_and_no_rounding_is_close():
    from scipy.special import ndtri  # comes with scikit-learn

    exact = ndtri((np.arange(4096) + 0.5) / 4096) / UNIT
    assert (quantiles() == np.rint(exact)).all()
    assert np.abs(np.abs(exact - np.floor(exact)) - 0.5).min() > 1e-4
    assert (quantiles() == -quantiles()[::-1]).all()


def test_another_table_is_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared, "TABLE_SHA256", "0" * 64)
    with pytest.raises(AssertionError, match="table of quantiles differs"):
        shared.quantiles.__wrapped__()


@pytest.mark.parametrize("dimensions", [1, 64, 784, 3072])
def test_scrambling_is_a_permutation_with_signs(dimensions: int):
    order, signs = scrambling(3, dimensions)
    keys = plain_words((shared.ORDER, 3), dimensions)
    assert order.tolist() == sorted(range(dimensions), key=lambda k: (keys[k], k))
    assert signs.tolist() == [1 - 2 * (w >> 63) for w in plain_words((shared.SIGNS, 3), dimensions)]
    if dimensions > 1:
        assert (scrambling(4, dimensions)[0] != order).any()


# ---- bits and noise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimensions", "bits"), [(40, 8), (64, 13), (784, 36), (3072, 41), (3072, 8), (100, 100)])
def test_segments_hold_every_dimension_once(dimensions: int, bits: int):
    place = segments(dimensions, bits)
    assert sorted(place[place >= 0].tolist()) == list(range(dimensions))
    assert place.shape[0] == bits
    widths = (place >= 0).sum(1)
    assert widths.max() - widths.min() <= 1


def test_every_size_has_bits_enough_for_its_codewords():
    for dimensions in (1, 64, 3072, 12288, 3 * 256 * 256):
        bits = fewest_bits(dimensions)
        assert bits >= 8
        assert segments(dimensions, bits).shape[1] <= LONGEST


@pytest.mark.parametrize("bits", [3, 12, 13, 40])
def test_window_is_the_last_bits_around_the_circle(bits: int):
    string = np.random.default_rng(bits).integers(0, 2, bits)
    for i, found in enumerate(windows(string[None].astype(np.uint8))[0]):
        assert found == sum(int(string[(i - age) % bits]) << age for age in range(min(LAST, bits)))


def test_noise_is_the_codebook_s_answer_unscrambled():
    bits = np.random.default_rng(0).integers(0, 2, (3, 20)).astype(np.uint8)
    found = noise(bits, 5, 70)
    assert (noise(bits[1:2], 5, 70) == found[1]).all()
    assert (found / UNIT == np.rint(found / UNIT)).all()
    order, signs = scrambling(5, 70)
    place, window = segments(70, 20), windows(bits)
    for b, i, v in itertools.product(range(3), range(20), range(place.shape[1])):
        if place[i, v] >= 0:
            dimension = order[place[i, v]]
            assert found[b, dimension] == codebook()[window[b, i], v] * signs[place[i, v]]


def scores(wanted: np.ndarray, share: float, bits: int, step: int) -> np.ndarray:
    """log N(wanted, share) / N(0, 1), up to a constant and times share, of the noise of all 2^bits strings."""
    every = ((np.arange(2**bits)[:, None] >> np.arange(bits)) & 1).astype(np.uint8)
    given = noise(every, step, len(wanted))
    return given @ wanted - 0.5 * (1 - share) * (given**2).sum(1), every


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_short_strings_are_the_best_of_all(bits: int):
    draw = np.random.default_rng(bits)
    for step in range(3):
        wanted = draw.standard_normal(90)
        value, every = scores(wanted, 0.8, bits, step)
        assert (simulate(wanted[None], 0.8, bits, step)[0] == every[value.argmax()]).all()


def test_longer_strings_are_nearly_always_the_best_of_all():
    draw, best = np.random.default_rng(1), []
    for step in range(8):
        wanted = draw.standard_normal(60) * 0.6
        value, _ = scores(wanted, 0.9, 14, step)
        found = noise(simulate(wanted[None], 0.9, 14, step), step, 60)[0]
        reached = found @ wanted - 0.05 * (found**2).sum()
        assert reached <= value.max() + 1e-3
        best.append(reached >= value.max() - 1e-3)
        assert reached > 0.85 * value.max()
    assert sum(best) >= 6


@pytest.mark.parametrize("bits", [32, 48, 64])
def test_bits_deliver_their_divergence_and_noise_stays_noise(bits: int):
    draw, projections, powers = np.random.default_rng(bits), [], []
    length = (2 * np.log(2) * bits / 1.12) ** 0.5
    for step in range(24):
        wanted = draw.standard_normal(3072)
        wanted *= length / np.linalg.norm(wanted)
        found = noise(simulate(wanted[None], 1 / (1 + length**2 / 3072), bits, step), step, 3072)[0]
        projections.append(found @ wanted / length)
        powers.append((found**2).mean())
    delivered = np.mean(projections) ** 2 / 2 / np.log(2)
    assert bits / delivered <= 1.20
    assert 0.95 <= np.mean(powers) <= 1.06


def test_codebook_is_one_of_all_states():
    assert codebook().shape == (STATES, LONGEST)
    assert codebook().std() == pytest.approx(1, abs=0.002)
