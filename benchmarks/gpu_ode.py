"""Part `ode` of gpu.py: the exact trace of the ODE on images of 8 x 8, beside one backward pass a direction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from on_device import Bench, Figures, table
from torch import Tensor

from ddpm.base.precision import STRICT, computing
from ddpm.base.units import images_to_x
from ddpm.diffusion.denoiser import Denoiser
from ddpm.likelihood import ode as flow
from ddpm.model.model import build_denoiser, build_network
from ddpm.model.recipe import load_recipe, resolve

IMAGES = 16
STEPS = 40  # of the solver, as in `ddpm evaluate likelihood --ode`
PLAIN_STEPS = 1  # that the plain way and the CPU are timed on


def ode(bench: Bench) -> Iterator[Figures]:
    """Seconds of the densities of random images under an untrained network, and how far the CPU's are."""
    pixels = np.random.default_rng(0).integers(0, 256, (2 if bench.tiny else IMAGES, 1, 8, 8), np.uint8)
    x = images_to_x(torch.from_numpy(pixels), torch.float64)
    steps, there = 1 if bench.tiny else STEPS, x.to(bench.device)
    here, on_cpu = _denoiser(bench.device), _denoiser(torch.device("cpu"))
    compared, expected = _densities(here, there, PLAIN_STEPS), _densities(on_cpu, x, PLAIN_STEPS)  # also the warm-up
    seconds = bench.seconds(lambda: _densities(here, there, steps))
    longer = (2 * steps + 1) / (2 * PLAIN_STEPS + 1)  # in traces: two a step, and one at the start
    of_cpu = bench.seconds(lambda: _densities(on_cpu, x, PLAIN_STEPS)) * longer
    with mock.patch.object(flow, "_rate", _plain_rate):
        plain = _densities(here, there, PLAIN_STEPS)
        of_plain = bench.seconds(lambda: _densities(here, there, PLAIN_STEPS)) * longer
    figures: Figures = {
        "images": len(x),
        "steps": steps,
        "seconds": round(seconds, 3),
        "seconds_plain": round(of_plain, 1),
        "seconds_of_the_cpu": round(of_cpu, 1),
        "times_as_fast_as_plain": round(of_plain / seconds, 1),
        "relative_difference": {
            name: float(((compared - other.to(compared)) / compared).abs().max())
            for name, other in (("plain", plain), ("cpu", expected))
        },
    }
    print(figures, flush=True)
    yield figures


def _denoiser(device: torch.device) -> Denoiser:
    recipe = load_recipe("digits")
    network = build_network(resolve(recipe, recipe.geometry, 0)).to(device).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():  # away from the near-zero start, whose trace is none
        weight.add_(0.05 * torch.randn(weight.shape, generator=generator).to(device))
    return build_denoiser(recipe, network)


def _densities(denoiser: Denoiser, x: Tensor, steps: int) -> Tensor:
    with computing(STRICT, x.device):
        return flow.log_density(denoiser, x, steps=steps)


def _plain_rate(
    denoiser: Denoiser, y: Tensor, log_sigma: float, labels: Tensor | None, directions: Tensor, share: float
) -> Any:
    """The right-hand side and its divergence by a backward pass for each of the directions (P, K, 1, C, H, W)."""
    sigma = math.exp(log_sigma)
    level = denoiser.process.schedule.level_at(-2 * log_sigma)
    with torch.enable_grad():
        at = y.detach().requires_grad_()
        rate = sigma * denoiser.eps_at(at / math.hypot(1, sigma), level, labels)
        divergence = y.new_zeros(len(y))
        for v in directions.flatten(0, 1):
            gradient = torch.autograd.grad(rate, at, v.expand_as(rate), retain_graph=True)[0]
            divergence += share * (v * gradient).flatten(1).sum(1)
    return flow._Rate(rate.detach(), divergence)


def printed(figures: Figures) -> str:
    """One row."""
    apart = figures["relative_difference"]
    row = [
        f"exact trace of {figures['images']} images of 8 x 8, {figures['steps']} steps",
        *(figures[key] for key in ("seconds", "seconds_plain", "seconds_of_the_cpu", "times_as_fast_as_plain")),
    ]
    header = ["seconds", "here", "here, a backward pass a direction", "on the CPU", "times as fast"]
    told = f"Densities differ from the plain ones by {apart['plain']:.1e}, from the CPU's by {apart['cpu']:.1e}."
    return f"{table(header, [row])}\n\n{told}"
