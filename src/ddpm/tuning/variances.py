"""Measure what the optimal reverse variances need: the error at every level, and the decoder's best variance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm.base.gaussians import Gaussian
from ddpm.base.progress import Progress, progress_of
from ddpm.base.seeding import generator
from ddpm.base.tensors import Floats, Integers
from ddpm.base.units import BIN, GREY_LEVELS
from ddpm.data.sources import ImageData
from ddpm.data.subsets import hashes
from ddpm.diffusion.decoder import log_probability
from ddpm.diffusion.optimal_variance import Measured
from ddpm.errors import InputError
from ddpm.likelihood.monte_carlo import Calls, Scoring, balanced
from ddpm.model.checkpoint import check_tunable
from ddpm.model.datasets import training_images
from ddpm.model.model import Model
from ddpm.model.scoring import scoring_for
from ddpm.model.variances import Variances, write_variances

CALLS_PER_LEVEL = 32
POOL = 2048  # different images used at most; their hashes are kept, so that they are never scored
DECODER_LEVELS = 32  # from which a chain's last step may start
COMMON = 8  # times as many images at these levels, and the same at each, so that the levels compare fairly
BANDWIDTH = 0.05  # of the smoothing over the levels above, in ln t
FLOOR = BIN / 8  # of the decoder's standard deviation: a pixel off by a whole grey level then costs 10 nats, not more
FINEST, COARSEST, GRID = 0.25, 4.0, 17  # standard deviations tried, over the root mean squared error


@dataclass(frozen=True, eq=False)
class VarianceReport:
    """What `ddpm.tune_variance` returns: the file it wrote, and its content."""

    file: Path
    found: Variances

    def table(self) -> dict[str, Any]:
        """As plain values; sigma_1 is on the scale of [-1, 1], rmse_1 in grey levels."""
        return {
            "file": str(self.file),
            "images": len(self.found.image_hashes),
            "data": self.found.data,
            "calls": self.found.calls,
            "sigma_1": math.exp(self.found.measured.decoder_log_variance[1] / 2),
            "sigma_1_at_floor": bool(self.found.measured.decoder_log_variance[1] <= 2 * math.log(FLOOR) + 1e-9),
            "rmse_1": GREY_LEVELS * math.sqrt(self.found.measured.squared_error[1]),
        }

    def lines(self) -> list[str]:
        """For a person."""
        table = self.table()
        floored = " (its floor)" if table["sigma_1_at_floor"] else ""
        return [
            f"{self.file}: variances of {len(self.found.measured.squared_error) - 1:,} levels from "
            f"{table['images']:,} images of {self.found.data}, {self.found.calls:,} network calls",
            f"last step: standard deviation {GREY_LEVELS * table['sigma_1']:.3f} grey levels{floored}, "
            f"root mean squared error {table['rmse_1']:.3f}",
            "--variance optimal uses them in evaluate likelihood and sample",
        ]


def tune_variance(
    model: Model,
    data: ImageData | None = None,
    *,
    calls: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    progress: Progress | bool = True,
) -> VarianceReport:
    """Measure the reverse variances that make the bound least, and store them beside the checkpoint.

    data        None: the model's own training images; never those that will be scored
    calls       network calls in all; None is 32 a level, more at the first
    batch_size  images in a network call

    Errors (InputError): images of another geometry or class set, too few calls, a checkpoint that cannot be written to.
    """
    report_to = progress_of(progress)
    steps = model.recipe.process.steps
    least = calls_needed(steps, 1)
    each = CALLS_PER_LEVEL if calls is None else calls // least
    if each < 1:
        raise InputError(f"calls must be at least {least}, to reach every level, not {calls}.")
    check_tunable(model.source)
    images = training_images(model, data)
    used = each * max(COMMON, steps - DECODER_LEVELS)  # each image of the pool at least once
    scoring = scoring_for(model, images, limit=min(POOL, used), seed=seed, batch_size=batch_size)
    report_to.say(f"Variances on {images.name}, {model.weights} weights of {model.source}.")
    with scoring.shown(report_to, "Network calls", calls_needed(steps, each)) as counted:
        measured = measure(counted, each)
    variances = Variances(
        measured,
        images.name,
        images.fingerprint,
        tuple(hashes(scoring.images.read(np.arange(len(scoring.images))))),
        seed,
        calls_needed(steps, each),
    )
    return VarianceReport(write_variances(model, variances), variances)


def calls_needed(steps: int, each: int) -> int:
    """Network calls that `measure` makes on a process of so many steps."""
    first = min(DECODER_LEVELS, steps)
    return first * COMMON * each + (steps - first) * each


def measure(scoring: Scoring, each: int = 32) -> Measured:
    """Measure a network's squared error of x0 at all levels of the full process.

    scoring  along the full process; never on images that will be scored
    each     network calls per level, at least 1; the first DECODER_LEVELS get COMMON times as many

    Above the first levels the error is smoothed over neighbouring levels, because the best levels chosen by a table of
    raw errors would follow their noise.
    """
    steps = scoring.chain.steps
    first = min(DECODER_LEVELS, steps)
    draw = generator("measure", scoring.seed)
    common = balanced(draw, len(scoring.images), COMMON * each)
    squared_error = np.zeros(steps + 1)
    log_variance, nats = np.full(steps + 1, np.nan), np.full(steps + 1, np.nan)
    for level in range(1, first + 1):
        part = Calls(common, np.full(len(common), level), np.arange(len(common)) + level * len(common))
        squared_error[level], log_variance[level], nats[level] = _fit_decoder(scoring, part, level)
    images = balanced(draw, len(scoring.images), each * (steps - first))
    if len(images):
        plan = Calls(images, np.repeat(np.arange(first + 1, steps + 1), each), np.arange(len(images)))
        plain = replace(scoring, denoiser=replace(scoring.denoiser, variance="small"))
        raw = plain.terms(plan, "measure noise above").squared_error.reshape(-1, each).mean(1)
        squared_error[first + 1 :] = _smooth(raw, scoring.chain.levels[first + 1 :])
    return Measured(squared_error, log_variance, nats, _second_moment(scoring, np.concatenate([common, images])))


def _smooth(values: Floats, levels: Integers) -> Floats:
    """Local-linear regression in ln t with a Gaussian window; it leaves power laws and both ends (nearly) alone."""
    place = np.log(levels)
    apart = place[None, :] - place[:, None]
    weight = np.exp(-0.5 * (apart / BANDWIDTH) ** 2)
    s0, s1, s2 = (np.sum(weight * apart**k, axis=1) for k in range(3))
    y0, y1 = weight @ values, (weight * apart) @ values
    spread = s0 * s2 - s1**2
    smooth = np.divide(s2 * y0 - s1 * y1, spread, out=y0 / s0, where=spread > 1e-12 * s0**2)
    return np.asarray(np.maximum(smooth, values.min()))


def _fit_decoder(scoring: Scoring, calls: Calls, level: int) -> tuple[float, float, float]:
    """The squared error at one level, and the log-variance of p(x_0 | x_level) that costs least, and what it costs."""
    chain = scoring.chain.subset([level])
    denoiser = replace(scoring.denoiser, variance="small")  # only its mean is used
    pairs: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(calls.steps), scoring.batch_size):
        here = slice(start, start + scoring.batch_size)
        x0, noise, labels = scoring.inputs(calls.images[here], calls.numbers[here], "measure noise")
        with torch.no_grad(), scoring.guarded():
            xt = denoiser.process.q_sample(x0, level, noise=noise)
            pairs.append((x0, denoiser.reverse(xt, 1, chain=chain, labels=labels).gaussian.mean))
        scoring.advance(len(x0))
    pixels = sum(x0.numel() for x0, _ in pairs)
    squared_error = sum(float(((x0 - mean) ** 2).sum()) for x0, mean in pairs) / pixels

    def cost(log_sigma: float) -> float:
        log_variance = torch.tensor(2 * log_sigma, dtype=torch.float64)
        nats = sum(-float(log_probability(Gaussian(mean, log_variance.to(mean)), x0).sum()) for x0, mean in pairs)
        return nats / pixels

    return squared_error, *_least(cost, squared_error**0.5)


def _least(cost: Callable[[float], float], rmse: float) -> tuple[float, float]:
    """Minimise a cost over ln sigma: a grid, then the parabola through its best three. Returns ln sigma^2, cost."""
    centre = np.log(max(rmse, FLOOR / FINEST))
    tried: Floats = centre + np.linspace(np.log(FINEST), np.log(COARSEST), GRID)
    costs = np.array([cost(log_sigma) for log_sigma in tried])
    best = int(costs.argmin())
    if 0 < best < GRID - 1:
        left, middle, right = costs[best - 1 : best + 2]
        vertex = tried[best] + 0.5 * (tried[1] - tried[0]) * (left - right) / (left - 2 * middle + right)
        if cost(vertex) < middle:
            return 2 * float(vertex), cost(vertex)
    return 2 * float(tried[best]), float(costs[best])


def _second_moment(scoring: Scoring, images: np.ndarray) -> float:
    """Mean of x0^2, from the prior's cost, which is linear in it."""
    alpha_bar = scoring.chain.alpha_bar[-1]
    nats = scoring.prior(np.unique(images)).mean() / scoring.dimensions
    return float((2 * nats + np.log1p(-alpha_bar)) / alpha_bar + 1)
