"""The best K of the T levels for the bound, by dynamic programming (Watson et al. 2021, sec. 3).

With optimal variances a step from level t down to level s costs 1/2 ln(1 + (SNR_s - SNR_t) MSE_t) nats a pixel,
whatever the other levels of the chain are, so the cheapest chain of every length comes from one table of costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddpm.base.tensors import Floats
from ddpm.base.units import bits
from ddpm.diffusion.optimal_variance import Measured
from ddpm.diffusion.schedule import Schedule
from ddpm.errors import InputError


@dataclass(frozen=True, eq=False)
class BestLevels:
    """The cheapest chains of 1..K levels.

    bits    (K,) what they are expected to cost, bits per dimension, on images like those that were measured
    chains  the levels of each, rising
    """

    bits: Floats
    chains: tuple[tuple[int, ...], ...]


def best_levels(schedule: Schedule, measured: Measured, most: int) -> BestLevels:
    """The chains of 1..most levels that make the bound least.

    schedule  the full process
    most      K, 1..T

    The first level may be any whose decoder was measured, the last any: the prior's cost is counted too.
    """
    if not 1 <= most <= schedule.steps:
        raise InputError(f"levels must be 1 to {schedule.steps}, the steps of the process, not {most}.")
    step = _step_costs(schedule, measured)
    a = schedule.alpha_bar[1:]
    prior = 0.5 * (a * (measured.second_moment - 1) - np.log1p(-a))
    cost = np.where(np.isnan(measured.decoder_nats[1:]), np.inf, measured.decoder_nats[1:])
    before, totals, ends = [], [], []
    for _ in range(most):
        totals.append((cost + prior).min())
        ends.append(int((cost + prior).argmin()))
        through = cost[:, None] + step
        before.append(through.argmin(0))
        cost = through.min(0)
    chains = tuple(_walk_back(before[:k], ends[k]) for k in range(most))
    return BestLevels(np.array([bits(total) for total in totals]), chains)


def _step_costs(schedule: Schedule, measured: Measured) -> Floats:
    """(T, T) nats a pixel from level t (column) down to level s (row), infinite unless s < t."""
    snr, error = schedule.snr[1:], measured.squared_error[1:]
    gain = np.maximum(snr[:, None] - snr[None, :], 0) * error[None, :]
    below = np.triu(np.ones(gain.shape, bool), k=1)
    return np.where(below, 0.5 * np.log1p(gain), np.inf)


def _walk_back(before: list[np.ndarray], end: int) -> tuple[int, ...]:
    chain = [end]
    for choice in reversed(before):
        chain.append(int(choice[chain[-1]]))
    return tuple(index + 1 for index in reversed(chain))
