"""Which levels are learned at, and how often."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.base.noise import stream_keys
from ddpm.training.levels import REMEMBERED, UNIFORM_SHARE, LossHistory, draw_levels

T = 1000
SOUND = torch.tensor(True)


def keys(count: int, seed: int = 0, first: int = 0) -> Tensor:
    """Streams of images number `first` on."""
    return stream_keys("level", seed, torch.arange(first, first + count))


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_levels_are_uniform_over_one_to_the_last(steps: int):
    """Chi-square over all levels, its mean steps - 1 and variance 2 (steps - 1), within four deviations."""
    count = 200 * steps
    levels, weights = draw_levels(keys(count), steps)
    assert levels.dtype == torch.int64
    assert levels.shape == (count,)
    assert (levels.min(), levels.max()) == (1, steps)
    assert torch.equal(weights, torch.ones(count))
    found = torch.bincount(levels, minlength=steps + 1)[1:].double()
    chi_square = ((found - 200) ** 2 / 200).sum().item()
    assert chi_square == pytest.approx(steps - 1, abs=4 * (2 * steps) ** 0.5)


def test_levels_of_a_batch_are_independent_and_repeat_with_their_images():
    first, again, other = (draw_levels(keys(50_000, first=p), T)[0].double() for p in (0, 0, 50_000))
    assert torch.equal(first, again)
    for a, b in ((first, other), (first[1:], first[:-1])):
        correlation = torch.corrcoef(torch.stack([a, b]))[0, 1]
        assert abs(correlation) < 4 / 50_000**0.5


def history_of(table: np.ndarray) -> LossHistory:
    history = LossHistory(len(table), torch.device("cpu"))
    history.restore(torch.from_numpy(table))
    return history


def full_history(steps: int, seed: int = 0) -> np.ndarray:
    """Losses of sizes from 0.001 to 1, as those of the bound."""
    rng = np.random.default_rng(seed)
    return np.geomspace(1, 1e-3, steps)[:, None] * rng.uniform(0.5, 1.5, (steps, REMEMBERED))


@pytest.mark.parametrize("steps", [2, 7, 50])
def test_levels_are_drawn_with_the_probabilities_given_and_weighted_by_their_inverse(steps: int):
    """Chi-square as above; weights are 1 / (T p) in float32."""
    probabilities = history_of(full_history(steps)).probabilities()
    p, count = probabilities.numpy(), 40_000 * steps
    levels, weights = draw_levels(keys(count, 1), steps, probabilities)
    assert levels.dtype == torch.int64
    assert weights.dtype == torch.float32
    assert (levels.min(), levels.max()) == (1, steps)
    expected = count * p
    found = np.bincount(levels.numpy(), minlength=steps + 1)[1:]
    assert ((found - expected) ** 2 / expected).sum() == pytest.approx(steps - 1, abs=4 * (2 * steps) ** 0.5)
    np.testing.assert_allclose(weights.numpy(), 1 / (steps * p[levels.numpy() - 1]), rtol=1e-6)


def test_the_weighted_mean_of_losses_is_their_uniform_mean():
    """Exactly in expectation, sum_t p_t w_t f_t = mean f; and of 100,000 draws within four standard errors."""
    history, steps = full_history(30), 30
    f, p = history[:, 0], history_of(history).probabilities()
    t, weights = draw_levels(keys(100_000, 2), steps, p)
    one_each = dict(zip(t.tolist(), weights.tolist(), strict=True))
    assert sorted(one_each) == list(range(1, steps + 1))
    assert sum(float(p[k - 1]) * w * f[k - 1] for k, w in one_each.items()) == pytest.approx(f.mean(), rel=1e-6)
    values = weights.double().numpy() * f[t.numpy() - 1]
    assert abs(values.mean() - f.mean()) < 4 * values.std() / 100_000**0.5
    plain = f[draw_levels(keys(100_000, 2), steps)[0].numpy() - 1]
    assert values.std() < plain.std() / 2  # what it is for


def test_importance_needs_every_level_to_have_its_full_history():
    """Uniform before, exactly; one missing loss of one level is enough."""
    for table in (np.full((6, REMEMBERED), np.nan), full_history(6), np.zeros((6, REMEMBERED))):
        if table.any():
            table[3, 0] = np.nan
        p = history_of(table).probabilities()
        np.testing.assert_allclose(p, 1 / 6, rtol=1e-14)
        assert torch.equal(draw_levels(keys(5, 3), 6, p)[1], torch.ones(5))


def test_a_full_history_gives_the_roots_of_the_mean_squares_and_a_thousandth_to_all():
    history = full_history(12, seed=4)
    history[5] *= -1  # densities give negative losses; their size counts
    root = np.array([math.sqrt(sum(x * x for x in row) / 10) for row in history])
    found = history_of(history).probabilities().numpy()
    np.testing.assert_allclose(found, 0.999 * root / root.sum() + 0.001 / 12, rtol=1e-12)
    assert found.sum() == pytest.approx(1, abs=1e-14)
    assert UNIFORM_SHARE == 1e-3
    history[2] = 0
    assert float(history_of(history).probabilities()[2]) == pytest.approx(0.001 / 12, rel=1e-12)  # never left out


def test_a_history_begins_empty_and_keeps_the_last_ten_losses_of_each_level():
    history = LossHistory(4, torch.device("cpu"))
    assert history.table().shape == (4, 10)
    assert history.table().isnan().all()
    for number in range(12):
        history.remember(torch.tensor([1, 4]), torch.tensor([float(number), 100.0 + number]), SOUND)
        history.remember(torch.tensor([2]), torch.tensor([1.0]), ~SOUND)
    found = history.table().numpy()
    np.testing.assert_array_equal(found[0], np.arange(2.0, 12))
    np.testing.assert_array_equal(found[3], np.arange(102.0, 112))
    assert np.isnan(found[1:3]).all()


def test_a_level_met_twice_in_a_batch_remembers_both_losses_in_order():
    history = LossHistory(2, torch.device("cpu"))
    history.remember(torch.tensor([2, 1, 2, 2]), torch.tensor([5.0, 6.0, 7.0, 8.0]), SOUND)
    np.testing.assert_array_equal(history.table()[1], [*[np.nan] * 7, 5, 7, 8])
    np.testing.assert_array_equal(history.table()[0], [*[np.nan] * 9, 6])


def test_a_history_is_that_of_losses_added_one_by_one():
    """Batches of random levels, some met more often than a ring holds, some left out; restored half-way."""
    rng, history, plain = (
        np.random.default_rng(0),
        LossHistory(3, torch.device("cpu")),
        [[np.nan] * 10 for _ in range(3)],
    )
    for number in range(40):
        t, losses = rng.integers(1, 4, size=rng.integers(1, 50)), rng.standard_normal(50)
        history.remember(torch.from_numpy(t), torch.from_numpy(losses[: len(t)]), torch.tensor(number % 5 != 4))
        for level, loss in zip(t, losses[: len(t)] if number % 5 != 4 else [], strict=False):
            plain[level - 1] = [*plain[level - 1][1:], loss]
        np.testing.assert_array_equal(history.table(), plain)
        if number == 20:
            history = history_of(history.table().numpy())


@pytest.mark.parametrize("part", [1, 7, 64])
def test_levels_do_not_depend_on_the_split_of_a_batch(part: int):
    whole, p = keys(64), history_of(full_history(20)).probabilities()
    for probabilities in (None, p):
        drawn = [draw_levels(some, 20, probabilities)[0] for some in (whole, *whole.split(part))]
        assert torch.equal(drawn[0], torch.cat(drawn[1:]))
