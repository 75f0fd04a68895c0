"""Rate and distortion along the chain (Ho et al. 2020, sec. 4.3, eq. 15, Fig. 5, Table 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddpm.base.seeding import generator
from ddpm.base.tensors import Floats, Integers
from ddpm.base.units import GREY_LEVELS, bits
from ddpm.errors import InputError
from ddpm.likelihood.monte_carlo import Calls, Scoring, balanced

ROWS = 10


class RunningMoments:
    """Mean and standard error of S columns, from rows that come a few at a time."""

    def __init__(self, columns: int) -> None:
        self.count, self.sums, self.squares = 0, np.zeros(columns), np.zeros(columns)

    def add(self, rows: Floats) -> None:
        """Take in rows (n, S)."""
        self.count += len(rows)
        self.sums += rows.sum(0)
        self.squares += (rows**2).sum(0)

    @property
    def mean(self) -> Floats:
        """(S,)"""
        return self.sums / self.count

    @property
    def error(self) -> Floats:
        """(S,) standard error of the mean; NaN from a single row."""
        if self.count < 2:
            return np.full(len(self.sums), np.nan)
        return np.sqrt(np.maximum(self.squares / self.count - self.mean**2, 0) / (self.count - 1))


@dataclass(frozen=True, eq=False)
class RateDistortion:
    """The bound's terms by step of a chain, tables (S + 1,) that start with the clean image.

    levels   the level of the full process each step starts from
    bits     (S + 1,) E L_{i-1} in bits per dimension at i >= 1 (L_0 at 1), L_T at index 0
    bits_error           (S + 1,) standard errors of bits; NaN from a single call
    squared_error        (S + 1,) mean of (x0 - predicted x0)^2 on the scale of [-1, 1]; index 0 unused (0)
    squared_error_error  (S + 1,) its standard errors
    """

    levels: Integers
    bits: Floats
    bits_error: Floats
    squared_error: Floats
    squared_error_error: Floats

    @property
    def rate(self) -> Floats:
        """Bits per dimension received at step i, L_T + sum of L_{s-1} over s > i; (S + 1,), index 0 the whole bound."""
        received: Floats = np.cumsum(self.bits[:0:-1])[::-1]
        return np.append(self.bits[0] + received, self.bits[0])

    @property
    def distortion(self) -> Floats:
        """Root mean squared error of the image predicted at step i, in grey levels; (S + 1,), 0 at index 0."""
        return np.asarray(GREY_LEVELS * np.sqrt(self.squared_error))

    @property
    def distortion_error(self) -> Floats:
        """Standard errors of distortion (S + 1,); 0 at index 0."""
        root = np.sqrt(np.maximum(self.squared_error, 1e-300))
        return np.asarray(GREY_LEVELS * self.squared_error_error / (2 * root))

    def rows(self) -> list[dict[str, float]]:
        """Ten rows laid out as the paper's Table 4, or as many as the chain has steps: most bits first."""
        steps = len(self.levels) - 1
        chosen = sorted({1 + round(k * steps / ROWS) for k in range(ROWS)} & set(range(1, steps + 1)))
        return [self._row(i) | {"reverse_steps": steps - i + 1} for i in chosen]

    def table(self) -> list[dict[str, float]]:
        """Every step, for JSON and CSV."""
        return [
            self._row(i) | {"term": float(self.bits[i]), "term_error": float(self.bits_error[i])}
            for i in range(1, len(self.levels))
        ]

    def _row(self, step: int) -> dict[str, float]:
        return {
            "t": int(self.levels[step]),
            "rate": float(self.rate[step]),
            "rmse": float(self.distortion[step]),
            "rmse_error": float(self.distortion_error[step]),
        }


def rate_distortion_of(
    scoring: Scoring, *, prior: RunningMoments, nats: RunningMoments, squared_error: RunningMoments
) -> RateDistortion:
    """From moments of the prior (1 column), the terms and the squared errors (S columns, step 1 first)."""
    scale = bits(1.0) / scoring.dimensions
    return RateDistortion(
        scoring.chain.levels,
        scale * np.concatenate([prior.mean, nats.mean]),
        scale * np.concatenate([prior.error, nats.error]),
        np.concatenate([[0.0], squared_error.mean]),
        np.concatenate([[0.0], squared_error.error]),
    )


def calls_per_step(calls: int, steps: int) -> int:
    """Network calls at each of so many steps; InputError if they do not suffice for one."""
    if calls < steps:
        raise InputError(f"calls must be at least {steps} for rate and distortion, one at each step, not {calls}.")
    return calls // steps


def estimate_rate_distortion(scoring: Scoring, calls: int = 4096) -> RateDistortion:
    """Measure every step with the same number of calls, at least one; the images are dealt out evenly.

    calls  network calls in all, at least one a step; the remainder of calls / steps is not used
    """
    steps = scoring.chain.steps
    each = calls_per_step(calls, steps)
    images = balanced(generator("profile", scoring.seed), len(scoring.images), each * steps)
    plan = Calls(images, np.tile(np.arange(1, steps + 1), each), np.arange(each * steps))
    terms = scoring.terms(plan, "profile noise")
    nats, squared_error, prior = RunningMoments(steps), RunningMoments(steps), RunningMoments(1)
    nats.add(terms.nats.reshape(each, steps))
    squared_error.add(terms.squared_error.reshape(each, steps))
    prior.add(scoring.prior(images)[:, None])
    return rate_distortion_of(scoring, prior=prior, nats=nats, squared_error=squared_error)
