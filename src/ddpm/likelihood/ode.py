"""The likelihood by the probability-flow ODE (Song et al. 2021, "Score-based generative modeling", sec. 4.3).

In y = x / sqrt(alpha_bar) and sigma = sqrt((1 - alpha_bar) / alpha_bar) the flow from level 1 to T is

    dy / d ln sigma = sigma eps(x, level),

and along it ln p(y) falls by the divergence of the right-hand side. Fixed steps, uniform in ln sigma: the classical
Runge-Kutta method for the path, Simpson's rule for the divergence. The density is a smooth function of the image, and
its error falls with the fourth power of the number of steps (where the network is smooth in the level; levels between
whole ones are Schedule.level_at's).

Everything is per image and in nats, in the dtype of the images (float64 for exact sums), and without gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.base.seeding import generator
from ddpm.diffusion.bound import term_nats
from ddpm.diffusion.denoiser import Denoiser
from ddpm.errors import InputError

EXACT_DIMENSIONS = 256  # an image with more needs probes: the exact trace takes one direction for each
VALUES_AT_ONCE = {"cpu": 1 << 12, "cuda": 1 << 16}  # of a batch and its copies in a network call; it bounds memory


class OdeTerm(NamedTuple):
    """An upper bound on -ln P(x_0), in expectation over the noise; its two summands, each (B,) in nats.

    flow     ln q(x_1 | x_0) - ln p_1(x_1), with the density of the ODE
    decoder  L_0 = -ln p(x_0 | x_1), the very term of the variational bound
    """

    flow: Tensor
    decoder: Tensor


class _Rate(NamedTuple):
    """The right-hand side of the ODE (B, C, H, W), and its divergence (B,)."""

    y: Tensor
    divergence: Tensor


def standard_normal_log_density(x: Tensor) -> Tensor:
    """ln N(x; 0, I) of images (B, C, H, W) -> (B,) nats."""
    return -0.5 * (x**2 + math.log(2 * math.pi)).flatten(1).sum(1)


def draw_probes(count: int, seed: int, positions: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Rademacher probes for Hutchinson's estimator, one independent stream per image.

    count      P, probes per image; more of them begin with the same ones
    positions  B non-negative integers, one per image
    shape      of one image
    returns    float64 (P, B, *shape) of -1 and 1 on the CPU; [:, k] depends on the seed and positions[k] alone
    """
    rows = [generator("probe", seed, position).integers(0, 2, (count, *shape)) for position in positions]
    return torch.from_numpy(np.stack(rows, axis=1) * 2.0 - 1)


@torch.inference_mode(False)
@torch.no_grad()
def log_density(
    denoiser: Denoiser,
    x: Tensor,
    *,
    steps: int,
    level: int = 1,
    labels: Tensor | None = None,
    probes: Tensor | None = None,
    terminal: Callable[[Tensor], Tensor] = standard_normal_log_density,
) -> Tensor:
    """ln p_level(x), the density that the ODE carries from the terminal one to images at a level.

    x         (B, C, H, W) at `level`
    steps     at least 1, each of five network calls, two of them with a divergence; the start takes one more
    level     1..T
    labels    (B,) integers, or None
    probes    (P, B, C, H, W) of -1 and 1, for an unbiased estimate of the divergence, the same all along the path; None
              takes it exactly, by one vector-Jacobian product for each of at most EXACT_DIMENSIONS dimensions;
              a small batch stands in a network call several times, so that a backward pass makes several products
    terminal  log-density of images (B, C, H, W) at level T -> (B,) nats
    returns   (B,) nats; works under any grad mode of the caller's

    The prediction "mean" has no ODE (InputError).
    """
    schedule = denoiser.process.schedule
    if steps < 1 or not 1 <= level <= schedule.steps:
        raise InputError(
            f"the ODE runs from a level 1 to {schedule.steps} in 1 step or more, not from level {level} in {steps}."
        )
    directions, share = _directions(x, probes)

    def slope(y: Tensor, log_sigma: float) -> Tensor:
        return _slope(denoiser, y, log_sigma, labels)

    def rate(y: Tensor, log_sigma: float) -> _Rate:
        return _rate(denoiser, y, log_sigma, labels, directions, share)

    log_sigmas = np.linspace(-0.5 * schedule.log_snr[level], -0.5 * schedule.log_snr[-1], 2 * steps + 1)
    log_scale = 0.5 * np.log(schedule.alpha_bar)  # of x over y
    y, gain = _integrate(slope, rate, x / math.exp(log_scale[level]), log_sigmas.tolist())
    jacobian = x[0].numel() * float(log_scale[-1] - log_scale[level])
    return terminal(y * math.exp(log_scale[-1])) + gain + jacobian


@torch.no_grad()
def ode_term(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    noise: Tensor,
    steps: int,
    probes: Tensor | None = None,
    labels: Tensor | None = None,
) -> OdeTerm:
    """A variational upper bound on -ln P(x_0) of grey levels, dequantised by the noise of level 1 itself.

    x0      (B, C, H, W) grey levels as x in [-1, 1], float64 for exact sums
    noise   (B, C, H, W) standard normal; it makes x_1 ~ q(x_1 | x_0), over which the bound is an expectation
    others  as in log_density

    flow + decoder compares with the whole variational bound: flow takes the place of L_T + sum of L_{t-1} for t > 1.
    """
    schedule, one = denoiser.process.schedule, torch.ones(len(x0), dtype=torch.int64, device=x0.device)
    x1 = denoiser.process.q_sample(x0, one, noise=noise)
    jump = 0.5 * x0[0].numel() * math.log(1 - schedule.alpha_bar[1])  # ln of the noise's volume
    log_q = standard_normal_log_density(noise) - jump
    flow = log_q - log_density(denoiser, x1, steps=steps, labels=labels, probes=probes)
    reverse = denoiser.reverse(x1, 1, chain=schedule, labels=labels).gaussian
    return OdeTerm(flow, term_nats(reverse, x0, x1, one, chain=schedule))


def _directions(x: Tensor, probes: Tensor | None) -> tuple[Tensor, float]:
    """Vectors v and the factor that makes the sum of v J v the trace of J, or its estimate.

    returns  (P, K, B or 1, C, H, W) for P backward passes of K copies of the batch each, filled up with zeros
    """
    if probes is not None:
        if probes.ndim != x.ndim + 1 or probes.shape[1:] != x.shape or not len(probes):
            raise InputError(f"probes must have the shape {('P', *x.shape)}, not {tuple(probes.shape)}.")
        return _in_passes(probes.to(x), x), 1 / len(probes)
    dimensions = x[0].numel()
    if dimensions > EXACT_DIMENSIONS:
        raise InputError(f"the exact trace takes at most {EXACT_DIMENSIONS} dimensions, not {dimensions}: give probes.")
    return _in_passes(torch.eye(dimensions).to(x).reshape(dimensions, 1, *x.shape[1:]), x), 1.0


def _in_passes(vectors: Tensor, x: Tensor) -> Tensor:
    """Deal vectors (N, ...) out to as few backward passes as VALUES_AT_ONCE allows: (P, K, ...)."""
    most = VALUES_AT_ONCE.get(x.device.type, VALUES_AT_ONCE["cpu"]) // x.numel()
    passes = math.ceil(len(vectors) / max(1, most))
    copies = math.ceil(len(vectors) / passes)
    filling = vectors.new_zeros(passes * copies - len(vectors), *vectors.shape[1:])
    return torch.cat([vectors, filling]).reshape(passes, copies, *vectors.shape[1:])


def _slope(denoiser: Denoiser, y: Tensor, log_sigma: float, labels: Tensor | None) -> Tensor:
    sigma = math.exp(log_sigma)
    level = denoiser.process.schedule.level_at(-2 * log_sigma)
    return sigma * denoiser.eps_at(y / math.hypot(1, sigma), level, labels)


def _rate(
    denoiser: Denoiser, y: Tensor, log_sigma: float, labels: Tensor | None, directions: Tensor, share: float
) -> _Rate:
    copies, images = directions.shape[1], len(y)
    with torch.enable_grad():
        # Autograd's own backward pass over copies of the batch, and not torch.func.vmap over directions: vmap takes
        # group norms apart, loops over fused attention, and knows no custom or compiled function.
        at = y.detach().repeat(copies, *[1] * (y.ndim - 1)).requires_grad_()
        rate = _slope(denoiser, at, log_sigma, None if labels is None else labels.repeat(copies))
        divergence = y.new_zeros(images)
        if rate.requires_grad:  # a network that ignores the image has no divergence
            for vectors in directions:
                v = vectors.expand(copies, *y.shape).reshape(at.shape)
                gradient = torch.autograd.grad(rate, at, v, retain_graph=True)[0]
                divergence += share * (v * gradient).reshape(copies, images, -1).sum((0, 2))
    return _Rate(rate[:images].detach(), divergence)


def _integrate(
    slope: Callable[[Tensor, float], Tensor], rate: Callable[[Tensor, float], _Rate], y: Tensor, times: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Over times that alternate between ends and middles of steps; a rate costs far more than a slope, which is its y.

    returns  y at the last time, and the integral of the divergence (B,)
    """
    step = times[2] - times[0]
    gain = y.new_zeros(len(y))
    first = rate(y, times[0])
    for middle, end in zip(times[1::2], times[2::2], strict=True):
        second = slope(y + step / 2 * first.y, middle)
        third = slope(y + step / 2 * second, middle)
        fourth = slope(y + step * third, end)
        start, y = y, y + step / 6 * (first.y + 2 * (second + third) + fourth)
        # The method's own stages lie beside the path, so their divergences would all four be needed for its order.
        # On the path Simpson's rule has the same order from three, of which neighbouring steps share the ends; between
        # them Hermite's cubic through both ends and their slopes meets the path to the fourth power of the step.
        last = rate(y, end)
        halfway = rate((start + y) / 2 + step / 8 * (first.y - last.y), middle)
        gain = gain + step / 6 * (first.divergence + 4 * halfway.divergence + last.divergence)
        first = last
    return y, gain
