"""The bound from few network calls: an unbiased estimate, and a standard error that is right whatever the design.

A pilot measures how large the terms are along the chain. The rest of the budget goes to independent repetitions of
one design: steps by systematic sampling (evenly spaced through the distribution function, one random shift; Kingma et
al. 2021 do the same with a uniform one), drawn in proportion to the terms' root mean square, each weighted by the
inverse of its probability, with the images dealt out evenly. Every repetition is an unbiased estimate by itself, so
the scatter among them is the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddpm.base.seeding import generator
from ddpm.base.tensors import Floats
from ddpm.base.units import bits
from ddpm.errors import InputError
from ddpm.likelihood.monte_carlo import Calls, Scoring, balanced

REPETITIONS = 32
PILOT_SHARE = 1 / 8
PILOT_STEPS = 64  # steps of the chain that the pilot measures, closer together towards the image
UNIFORM_SHARE = 0.05  # of the drawn steps, so that no step that the pilot misjudged weighs more than 20 times
FEWEST_CALLS = 256


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error, in bits per dimension."""

    value: float
    error: float


@dataclass(frozen=True)
class VariationalBound:
    """L = L_T + sum L_{t-1} + L_0 (Ho et al. 2020, eq. 5), in bits per dimension.

    total, prior, steps, decoder  L, L_T, the sum of L_{t-1} over t > 1, and L_0
    images, calls                 how many images were scored, by how many network calls in all
    error_of                      what the errors cover, in words
    """

    total: Estimate
    prior: Estimate
    steps: Estimate
    decoder: Estimate
    images: int
    calls: int
    error_of: str


def bound_of(parts: Floats, dimensions: int, *, images: int, calls: int, error_of: str) -> VariationalBound:
    """The mean and its standard error over n independent rows (n, 3) of prior, steps and decoder, in nats per image."""
    columns = np.concatenate([parts.sum(1, keepdims=True), parts], axis=1) * (bits(1.0) / dimensions)
    total, prior, steps, decoder = (estimate_of(column) for column in columns.T)
    return VariationalBound(total, prior, steps, decoder, images, calls, error_of)


def estimate_of(values: Floats) -> Estimate:
    """The mean of independent values (n,) and its standard error; NaN from a single one."""
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return Estimate(float(values.mean()), float(error))


def estimate_bound(scoring: Scoring, calls: int = 4096) -> VariationalBound:
    """Estimate the bound on the mean image of a set.

    calls  network calls in all, pilot included; at least FEWEST_CALLS

    The errors cover the random calls (which images, levels and noises), for the mean over the images given; they do
    not cover how those images were sampled.
    """
    check_calls(calls)
    each = int(calls * (1 - PILOT_SHARE)) // REPETITIONS
    probabilities = step_probabilities(scoring, calls - each * REPETITIONS)
    parts = repetitions(scoring, probabilities, each)
    covers = "random calls on these images"
    return bound_of(parts, scoring.dimensions, images=len(scoring.images), calls=calls, error_of=covers)


def check_calls(calls: int) -> None:
    """Raise InputError for a budget that is too small for an error bar."""
    if calls < FEWEST_CALLS:
        raise InputError(f"calls must be at least {FEWEST_CALLS} for an estimate with an error, not {calls}.")


def repetitions(scoring: Scoring, probabilities: Floats, each: int) -> Floats:
    """REPETITIONS independent estimates of the mean image's (prior, steps, decoder), in nats: (REPETITIONS, 3).

    probabilities  (S,) of drawing each step 1..S
    each           network calls of one repetition

    Two models scored with the same probabilities and seed meet the same images, levels and noises.
    """
    plans = [_plan(scoring, probabilities, each, repetition) for repetition in range(REPETITIONS)]
    whole = Calls(*(np.concatenate(columns) for columns in zip(*plans, strict=True)))
    nats = scoring.terms(whole, "estimate noise").nats
    weighted = (nats / (each * probabilities[whole.steps - 1])).reshape(REPETITIONS, each)
    decoder = np.where(whole.steps.reshape(REPETITIONS, each) == 1, weighted, 0).sum(1)
    prior = np.array([scoring.prior(plan.images).mean() for plan in plans])
    return np.stack([prior, weighted.sum(1) - decoder, decoder], axis=1)


def _plan(scoring: Scoring, probabilities: Floats, count: int, repetition: int) -> Calls:
    """One repetition: systematic steps, balanced images, noise of its own."""
    draw = generator("estimate", scoring.seed, repetition)
    places = (np.arange(count) + draw.random()) / count
    steps = np.searchsorted(np.cumsum(probabilities)[:-1], places, side="right") + 1
    images = balanced(draw, len(scoring.images), count)
    return Calls(images, steps.astype(np.int64), np.arange(count) + count * repetition)


def step_probabilities(scoring: Scoring, calls: int) -> Floats:
    """How often each step 1..S is drawn, (S,): as a pilot's root mean squares, joined up by straight logarithms."""
    last = scoring.chain.steps
    places = np.unique(np.rint(np.geomspace(1, last, min(PILOT_STEPS, calls // 4, last))).astype(np.int64))
    steps = np.resize(places, calls)
    images = balanced(generator("pilot", scoring.seed), len(scoring.images), calls)
    nats = scoring.terms(Calls(images, steps, np.arange(calls)), "pilot noise").nats
    size = np.array([np.sqrt(np.mean(nats[steps == place] ** 2)) for place in places])
    known = size > 0
    if not known.any():
        return np.full(last, 1 / last)
    every: Floats = np.exp(np.interp(np.log(np.arange(1, last + 1)), np.log(places[known]), np.log(size[known])))
    drawn: Floats = UNIFORM_SHARE / last + (1 - UNIFORM_SHARE) * every / every.sum()
    return drawn
