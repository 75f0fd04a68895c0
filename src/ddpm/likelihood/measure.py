"""Measure what the optimal reverse variances need: the error at every level, and the decoder's best variance."""

from __future__ import annotations

import numpy as np
import torch

from ddpm.gaussians import Gaussian
from ddpm.likelihood.decoder import log_probability
from ddpm.likelihood.scoring import Calls, Floats, Scoring, balanced, on_cpu
from ddpm.measured import Measured
from ddpm.schedule import Schedule
from ddpm.seeding import generator
from ddpm.units import BIN

DECODER_LEVELS = 32  # from which a chain's last step may start
COMMON = 8  # times as many images at these levels, and the same at each, so that the levels compare fairly
BANDWIDTH = 0.1  # of the smoothing over the levels above, in ln t
FLOOR = BIN / 8  # of the decoder's standard deviation: an error of half a grey level still costs only 10 nats
FINEST, COARSEST, GRID = 0.25, 2.0, 13  # standard deviations tried, over the root mean squared error


def calls_needed(steps: int, each: int) -> int:
    """Network calls that `measure` makes on a process of so many steps."""
    first = min(DECODER_LEVELS, steps)
    return first * COMMON * each + (steps - first) * each


def measure(scoring: Scoring, each: int = 32) -> Measured:
    """Measure a network's squared error of x0 at all levels of the full process.

    scoring  along the full process; never on images that will be scored
    each     network calls per level, at least 1; the first DECODER_LEVELS get COMMON times as many

    Above the first levels the error, taken relative to the noise, is averaged over neighbouring levels: whoever picks
    levels by a table of raw errors picks their noise.
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
        raw = scoring.terms(plan, "measure noise above").squared_error.reshape(-1, each).mean(1)
        squared_error[first + 1 :] = _smooth(raw, scoring.chain)
    return Measured(squared_error, log_variance, nats, _second_moment(scoring, np.concatenate([common, images])))


def _smooth(squared_error: Floats, chain: Schedule) -> Floats:
    """Average SNR * MSE, which changes slowly, over neighbours of the last levels, with a Gaussian window in ln t."""
    snr = chain.snr[-len(squared_error) :]
    place = np.log(chain.levels[-len(squared_error) :])
    weight = np.exp(-0.5 * ((place[:, None] - place[None, :]) / BANDWIDTH) ** 2)
    smooth: Floats = (weight @ (snr * squared_error)) / weight.sum(1) / snr
    return smooth


def _fit_decoder(scoring: Scoring, calls: Calls, level: int) -> tuple[float, float, float]:
    """The squared error at one level, and the log-variance of p(x_0 | x_level) that costs least, and what it costs."""
    chain = scoring.chain.subset([level])
    denoiser = on_cpu(scoring.denoiser, scoring.device)
    means, clean = [], []
    for start in range(0, len(calls.steps), scoring.batch_size):
        here = slice(start, start + scoring.batch_size)
        x0, noise, labels = scoring.inputs(calls.images[here], calls.numbers[here], "measure noise")
        xt = denoiser.process.q_sample(x0, torch.full((len(x0),), level), noise=noise)
        with torch.no_grad():
            means.append(denoiser.reverse(xt, 1, chain=chain, labels=labels).gaussian.mean)
        clean.append(x0)
        scoring.on_calls(len(x0))
    x0, mean = torch.cat(clean), torch.cat(means)
    squared_error = float(((x0 - mean) ** 2).mean())
    return squared_error, *_best_log_variance(x0, mean, squared_error)


def _best_log_variance(x0: torch.Tensor, mean: torch.Tensor, squared_error: float) -> tuple[float, float]:
    """Minimise the discretised likelihood over one variance: a grid, then the parabola through the best three."""

    def cost(log_sigma: float) -> float:
        gaussian = Gaussian(mean, torch.tensor(2 * log_sigma, dtype=mean.dtype, device=mean.device))
        return -float(log_probability(gaussian, x0).mean())

    centre = np.log(max(squared_error**0.5, FLOOR / FINEST))
    tried: Floats = centre + np.linspace(np.log(FINEST), np.log(COARSEST), GRID)
    costs = np.array([cost(log_sigma) for log_sigma in tried])
    best = int(costs.argmin())
    if 0 < best < GRID - 1:
        left, middle, right = costs[best - 1 : best + 2]
        vertex = tried[best] + 0.5 * (tried[1] - tried[0]) * (left - right) / (left - 2 * middle + right)
        if cost(vertex) < middle:
            return 2 * float(vertex), cost(vertex)
    return 2 * float(tried[best]), float(costs[best])


def decoder_at_floor(measured: Measured) -> bool:
    """Whether the last step's variance was stopped by the floor."""
    return bool(measured.decoder_log_variance[1] <= 2 * np.log(FLOOR) + 1e-9)


def _second_moment(scoring: Scoring, images: np.ndarray) -> float:
    """Mean of x0^2, from the prior's cost, which is linear in it."""
    schedule: Schedule = scoring.chain
    alpha_bar = schedule.alpha_bar[-1]
    nats = scoring.prior(np.unique(images)).mean() / scoring.dimensions
    return float((2 * nats + np.log1p(-alpha_bar)) / alpha_bar + 1)
