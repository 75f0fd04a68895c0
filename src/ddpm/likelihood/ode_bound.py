"""The probability-flow ODE's bits per dimension of a set of images, beside the bound's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddpm.base.seeding import generator
from ddpm.base.units import bits
from ddpm.errors import InputError
from ddpm.likelihood.estimate import Estimate, estimate_of
from ddpm.likelihood.monte_carlo import Scoring, balanced
from ddpm.likelihood.ode import EXACT_DIMENSIONS, draw_probes, ode_term

CALLS_PER_STEP = 5  # four of the classical Runge-Kutta method, one halfway along the path for Simpson's rule
DEQUANTISATION = "noise of level 1, grey levels decoded as in the bound"


@dataclass(frozen=True)
class OdeBound:
    """An upper bound on -log2 P(x_0) by the ODE's density, in bits per dimension.

    total, flow, decoder  flow stands in place of L_T and all L_{t-1}, t > 1; decoder is L_0
    images, calls         scored, and network calls made
    steps                 of the solver
    trace                 "exact" or "Hutchinson"
    dequantisation        in words
    """

    total: Estimate
    flow: Estimate
    decoder: Estimate
    images: int
    calls: int
    steps: int
    trace: str
    dequantisation: str = DEQUANTISATION
    error_of: str = "images drawn like these, and their noise"


def images_within(calls: int, steps: int) -> int:
    """How many images a budget of network calls allows; at least two, for an error."""
    if steps < 1:
        raise InputError(f"solver steps must be at least 1, not {steps}; 40 is usual.")
    found = calls // calls_per_image(steps)
    if found < 2:
        raise InputError(
            f"calls must be at least {2 * calls_per_image(steps)}, for two images by the ODE, not {calls}."
        )
    return found


def calls_per_image(steps: int) -> int:
    """Network calls an image takes: those of the solver's start and steps, and one of the decoder."""
    return 1 + CALLS_PER_STEP * steps + 1


def ode_bound(scoring: Scoring, *, calls: int = 4096, steps: int = 40) -> OdeBound:
    """Score as many images as the budget allows, drawn at random.

    calls  network calls in all, 5 x steps + 2 an image
    steps  of the solver, 1 or more

    With more than EXACT_DIMENSIONS dimensions the divergence is Hutchinson's estimate, one probe an image.
    """
    count = min(images_within(calls, steps), len(scoring.images))
    chosen = balanced(generator("ode", scoring.seed), len(scoring.images), count)
    exact = scoring.dimensions <= EXACT_DIMENSIONS
    flow, decoder = np.empty(count), np.empty(count)
    for start in range(0, count, scoring.batch_size):
        here = slice(start, start + scoring.batch_size)
        x0, noise, labels = scoring.inputs(chosen[here], np.arange(count)[here], "ode noise")
        positions = range(start, start + len(x0))
        probes = None if exact else draw_probes(1, scoring.seed, positions, x0.shape[1:])
        with scoring.guarded():
            term = ode_term(scoring.denoiser, x0, noise=noise, steps=steps, probes=probes, labels=labels)
        flow[here], decoder[here] = term.flow.cpu().numpy(), term.decoder.cpu().numpy()
        scoring.advance(calls_per_image(steps) * len(x0))
    scoring.check_numbers(flow + decoder)
    scale = bits(1.0) / scoring.dimensions
    trace = "exact" if exact else "Hutchinson"
    total, flow_bits, decoder_bits = (estimate_of(scale * nats) for nats in (flow + decoder, flow, decoder))
    return OdeBound(
        total, flow_bits, decoder_bits, images=count, calls=calls_per_image(steps) * count, steps=steps, trace=trace
    )
