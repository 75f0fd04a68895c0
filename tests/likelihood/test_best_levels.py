"""The chosen levels are the best: against every chain there is, and against the bound's own closed form."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ddpm.base.units import bits
from ddpm.diffusion.optimal_variance import Measured
from ddpm.diffusion.schedule import Schedule, make_schedule
from ddpm.errors import InputError
from ddpm.likelihood.best_levels import best_levels
from ddpm.samplers.spacing import spaced
from scorings import closed_form_nats, known_error

T = 8
SCHEDULE = make_schedule(steps=T, beta_start=0.01, beta_end=0.6)


def table(seed: int, schedule: Schedule = SCHEDULE, decoders: tuple[int, ...] | None = None) -> Measured:
    """Of no network in particular; decoders measured at some levels, NaN elsewhere."""
    random, steps = np.random.default_rng(seed), schedule.steps
    log_variance, nats = np.full(steps + 1, np.nan), np.full(steps + 1, np.nan)
    for level in range(1, steps + 1) if decoders is None else decoders:
        nats[level] = 1 + 0.2 * level + random.random()
        log_variance[level] = random.normal()
    error = np.concatenate([[0.0], random.random(steps) * np.linspace(0.01, 0.5, steps)])
    return Measured(error, log_variance, nats, second_moment=0.3)


def cost(schedule: Schedule, measured: Measured, levels: tuple[int, ...]) -> float:
    """What a chain costs in bits per dimension: prior, KLs of its optimal variances, decoder."""
    chain = schedule.subset(levels)
    steps = closed_form_nats(chain, measured.squared_error[chain.levels], measured.log_variance(chain)).sum()
    a = float(chain.alpha_bar[-1])
    prior = 0.5 * (a * measured.second_moment + (1 - a) - 1 - math.log(1 - a))
    return bits(prior + steps + measured.decoder_nats[levels[0]])


DECODERS = [None, (1,), (1, 2, 3), (2, 5), (8,)]


@pytest.mark.parametrize("decoders", DECODERS)
@pytest.mark.parametrize("seed", range(6))
def test_no_chain_of_the_255_costs_less(seed: int, decoders: tuple[int, ...] | None):
    """To 1e-12: another order of the same sums."""
    measured = table(seed, decoders=decoders)
    longest = T - (decoders or (1,))[0] + 1  # from the first measured decoder on
    found = best_levels(SCHEDULE, measured, longest)
    assert len(found.bits) == len(found.chains) == longest
    for count in range(1, longest + 1):
        every = itertools.combinations(range(1, T + 1), count)
        least = min(cost(SCHEDULE, measured, c) for c in every if not np.isnan(measured.decoder_nats[c[0]]))
        assert found.bits[count - 1] == pytest.approx(least, rel=1e-12)
        chain = found.chains[count - 1]
        assert len(chain) == count
        assert list(chain) == sorted(set(chain))
        assert cost(SCHEDULE, measured, chain) == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_chains_of_fewer_levels_are_those_of_a_smaller_question(seed: int):
    whole, some = best_levels(SCHEDULE, table(seed), T), best_levels(SCHEDULE, table(seed), 3)
    assert whole.chains[:3] == some.chains
    assert (whole.bits[:3] == some.bits).all()


def test_all_levels_are_the_full_chain():
    schedule = make_schedule(steps=40, beta_start=2e-3, beta_end=0.4)
    measured = table(0, schedule, decoders=(1,))
    found = best_levels(schedule, measured, 40)
    assert found.chains[-1] == tuple(range(1, 41))
    assert found.bits[-1] == pytest.approx(cost(schedule, measured, tuple(range(1, 41))), rel=1e-12)


def gaussian(schedule: Schedule) -> Measured:
    """Of the exact network on Gaussian data; the decoder as if it read x_0 off a density."""
    error = known_error(schedule)
    nats = np.concatenate([[np.nan], 0.5 * np.log(error[1:]) + 5])
    return Measured(error, np.log(np.maximum(error, 1e-9)), nats, second_moment=0.09)


def test_more_levels_never_cost_more_where_the_error_is_that_of_the_best_network():
    """A better network knows no less of x_0 from less noise: each level added can only help."""
    found = best_levels(make_schedule(), gaussian(make_schedule()), 60)
    assert (np.diff(found.bits) < 1e-12).all()
    assert found.bits[0] > found.bits[-1]
    assert all(len(chain) == k + 1 for k, chain in enumerate(found.chains))


def test_for_gaussian_data_the_prediction_is_the_bound_by_its_terms():
    schedule, measured = make_schedule(), gaussian(make_schedule())
    found = best_levels(schedule, measured, 50)
    for k in (1, 2, 10, 50):
        assert found.bits[k - 1] == pytest.approx(cost(schedule, measured, found.chains[k - 1]), rel=1e-10)
        even = tuple(int(level) for level in spaced(schedule, "uniform", k).levels[1:])
        assert found.bits[k - 1] <= cost(schedule, measured, even) + 1e-12


@pytest.mark.parametrize("most", [0, -1, T + 1])
def test_more_levels_than_there_are_or_none_are_refused(most: int):
    with pytest.raises(InputError, match=f"levels must be 1 to {T}"):
        best_levels(SCHEDULE, table(0), most)
