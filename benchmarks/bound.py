"""Bits per dimension on Fashion-MNIST's test images: training objectives, variances and levels, on the same calls.

    RUN="ddpm train fashion-mnist --data fashion-mnist --set train_images=200k --set objective.weighting=none"
    $RUN --set objective.levels=uniform --out runs/simple
    $RUN --set objective.levels=uniform --set objective.loss=bound --out runs/bound
    $RUN --set objective.levels=uniform --set objective.loss=hybrid --set process.variance=range --out runs/hybrid-range
    $RUN --set objective.levels=importance --set objective.loss=bound --set process.variance=range \
        --out runs/bound-range-importance
    python benchmarks/bound.py --data fashion-mnist

Every run is tuned on the training images first (ddpm tune variance RUN). Writes results/bound.json after each row. The
one that is there is of the recipe `fashion-mnist` as it was until 2026-11-26: 24 channels, no linear correction, and
batches of 128.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from record import write_result

import ddpm
from ddpm.base.units import bits
from ddpm.data.sources import ImageSet
from ddpm.errors import InputError
from ddpm.evaluation.full_sum import full_sum
from ddpm.likelihood.estimate import REPETITIONS, Estimate, bound_of, estimate_of, repetitions, step_probabilities
from ddpm.likelihood.monte_carlo import Scoring
from ddpm.likelihood.ode_bound import calls_per_image, ode_bound
from ddpm.likelihood.rate_distortion import estimate_rate_distortion
from ddpm.model.model import Model
from ddpm.model.scoring import scoring_for
from ddpm.model.variances import read_variances

PILOT = 4096
TERMS = ("total", "prior", "steps", "decoder")
PUBLISHED = "models/fashion-mnist"
LARGE, SMALL, OPTIMAL = ({"variance": name} for name in ("large", "small", "optimal"))
ROWS: Sequence[tuple[str, str, dict[str, Any]]] = (
    (PUBLISHED, "a: L_simple, variance large", LARGE),
    (PUBLISHED, "b: L_simple, variance small", SMALL),
    (PUBLISHED, "c: L_simple, variance optimal", OPTIMAL),
    (PUBLISHED, "d: L_simple, variance optimal, 50 levels", {"levels": 50}),
    (PUBLISHED, "d: L_simple, variance optimal, 100 levels", {"levels": 100}),
    ("runs/simple", "a: L_simple, variance large", LARGE),
    ("runs/simple", "c: L_simple, variance optimal", OPTIMAL),
    ("runs/bound", "e: L, variance large", LARGE),
    ("runs/bound", "e: L (variance large), scored with variance optimal", OPTIMAL),
    ("runs/hybrid-range", "f: hybrid, learned range", {}),
    ("runs/hybrid-range", "f: hybrid, scored with variance optimal", OPTIMAL),
    ("runs/bound-range-importance", "g: L, learned range, importance-sampled levels", {}),
)
CONFIRMED = (0, 2, 9)  # rows whose full sum is taken too


def tuned(run: str, data: str) -> Model:
    """A model with its optimal variances measured on training images."""
    model = ddpm.load(run)
    try:
        read_variances(model)
    except InputError:
        ddpm.tune_variance(model, ddpm.images(f"{data}:train"))
    return model


def scored(parts: np.ndarray, dimensions: int, images: int, calls: int) -> dict[str, Any]:
    """A row's four numbers with their errors."""
    bound = bound_of(parts, dimensions, images=images, calls=calls, error_of="random calls on these images")
    return {name: rounded(getattr(bound, name)) for name in TERMS} | {"images": images, "calls": calls}


def rounded(estimate: Any) -> dict[str, float]:
    """An estimate for JSON."""
    return {"value": round(estimate.value, 5), "error": round(estimate.error, 5)}


def closed_form(model: Model, scoring: Scoring, *, each: int = 32) -> dict[str, float]:
    """What the steps of an optimal variance must cost by the formula, from squared errors measured on test images.

    The calls are others than the row's, and nothing is fitted on them.
    """
    chain = scoring.chain
    profile = estimate_rate_distortion(scoring, each * chain.steps)
    log_variance = read_variances(model).measured.log_variance(chain)[2:]
    slope = 0.5 * chain.posterior_x0[2:] ** 2 * np.exp(-log_variance)
    apart = np.log(chain.posterior_variance[2:]) - log_variance
    nats = 0.5 * (np.expm1(apart) - apart) + slope * profile.squared_error[2:]
    error = float(np.sqrt(((slope * profile.squared_error_error[2:]) ** 2).sum()))
    return rounded(Estimate(bits(float(nats.sum())), bits(error)))


def confirm(model: Model, test: ImageSet, how: dict[str, Any], *, images: int, calls: int) -> dict[str, Any]:
    """The full sum over some images with two seeds, the estimate on the very same, and how many errors lie between."""
    totals, bounds = [], []
    for seed in (0, 1):
        scoring = scoring_for(model, test, **how, limit=images)
        full = full_sum(model, replace(scoring, seed=seed), Path("runs") / "bound-full")
        full.compute()
        bounds.append(full.bound().total)
        totals.append(full.totals())
    noise = (totals[0] - totals[1]) / 2 * bits(1.0) / scoring.dimensions
    exact, noise_error = (bounds[0].value + bounds[1].value) / 2, float(noise.std(ddof=1)) / images**0.5
    bound = ddpm.evaluate_likelihood(model, test, **how, limit=images, calls=calls).bound
    assert bound is not None
    estimate = bound.total
    return {
        "images": images,
        "full_sum": rounded(Estimate(exact, bounds[0].error)),
        "full_sum_noise_error": round(noise_error, 5),
        "estimate_on_the_same_images": rounded(estimate),
        "calls": calls,
        "errors_apart": round((exact - estimate.value) / float(np.hypot(estimate.error, noise_error)), 2),
    }


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="the IDX folder")
    parser.add_argument("--calls", type=int, default=80_000, help="of each row, pilot left out")
    parser.add_argument("--images", type=int, default=64, help="of the full sums and the ODE")
    options = parser.parse_args()
    test = ddpm.images(f"{options.data}:test")
    each = -(-options.calls // REPETITIONS)
    table: dict[str, Any] = {"data": f"{options.data}:test", "rows": [], "confirmed": [], "ode": []}
    first: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for number, (run, name, how) in enumerate(ROWS):
        model, start = tuned(run, options.data), time.monotonic()
        scoring = scoring_for(model, test, **how)
        if scoring.chain.steps not in first:  # the pilot of the first model decides for all on as many levels
            first[scoring.chain.steps] = step_probabilities(scoring, PILOT), np.empty(0)
        probabilities, base = first[scoring.chain.steps]
        parts = repetitions(scoring, probabilities, each)
        row = {"run": run, "images_seen": model.images_seen, "row": name, "variance": scoring.denoiser.variance}
        row |= {"levels": scoring.chain.steps, **scored(parts, scoring.dimensions, len(test), each * REPETITIONS)}
        if len(base):
            apart = (parts - base).sum(1) * bits(1.0) / scoring.dimensions
            row["total_minus_first_row"] = rounded(estimate_of(apart))
        elif number == 0:
            first[scoring.chain.steps] = probabilities, parts
        row["seconds"] = round(time.monotonic() - start, 1)
        if how == OPTIMAL:
            row["steps_by_the_closed_form"] = closed_form(model, scoring)
        table["rows"].append(row)
        if number in CONFIRMED:
            confirmed = confirm(model, test, how, images=options.images, calls=options.calls // 5)
            table["confirmed"].append({"run": run, "row": name, **confirmed})
        write_result("bound", table, seed=0)
    for run, steps in ((PUBLISHED, 40), (PUBLISHED, 20), ("runs/hybrid-range", 40)):
        model = tuned(run, options.data)
        same = scoring_for(model, test, **OPTIMAL, limit=options.images)
        found = asdict(ode_bound(same, calls=calls_per_image(steps) * options.images, steps=steps))
        found |= {key: rounded(Estimate(**found[key])) for key in ("total", "flow", "decoder")}
        table["ode"].append({"run": run, "variance_of_decoder": "optimal", **found})
        write_result("bound", table, seed=0)


if __name__ == "__main__":
    main()
