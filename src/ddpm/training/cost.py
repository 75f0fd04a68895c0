"""What a recipe will cost before it is run: parameters, arithmetic, memory, time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ddpm.model.model import build_network, resolve_device
from ddpm.model.recipe import Recipe, changed
from ddpm.training.learner import Learner
from ddpm.training.step_memory import blank_batch, peak_memory

PROBE_MACS = 2e10
PROBE_SECONDS = 1.0
EAGER_SPEED = 1e14  # FLOP a second in eager mode, more than an H100 reaches
EAGER_STEP = 5e-3  # seconds that launching the kernels of a step takes, at least
WORTH_SECONDS = 300.0  # of eager steps: five times what compiling takes


@dataclass(frozen=True)
class Cost:
    """The cost of a run.

    parameters         of the network
    macs               multiply-adds of one network call on one image
    memory             bytes at the peak of a training step on a GPU, see training.step_memory
    images_per_second  while training on this machine, measured on a few images (smaller ones if they are large)
    seconds            for the whole run at that speed
    """

    parameters: int
    macs: int
    memory: int
    images_per_second: float
    seconds: float


def estimate_cost(recipe: Recipe) -> Cost:
    """Estimate the cost of a resolved recipe; no data is needed."""
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_network(recipe).parameters())
    macs = multiply_adds(recipe)
    memory = peak_memory(recipe, compiled=worth_compiling(recipe, resolve_device(recipe.device), 0))
    speed = _images_per_second(recipe, macs)
    return Cost(parameters, macs, memory, speed, recipe.train_images / speed)


def multiply_adds(recipe: Recipe) -> int:
    """Multiply-adds of one call on one image, without computing anything."""
    with torch.device("meta"):
        network = build_network(recipe)
        x = torch.empty(1, *recipe.geometry.shape)
        labels = torch.empty(1, dtype=torch.long) if recipe.network.classes else None
    with FlopCounterMode(display=False) as counter:
        network(x, torch.zeros(1), labels)
    return int(counter.get_total_flops()) // 2


def worth_compiling(recipe: Recipe, device: torch.device, images_seen: int) -> bool:
    """Whether `compile` wants the rest of a run compiled: "auto" does on NVIDIA GPUs, where the rest is long enough."""
    images = recipe.train_images - images_seen
    if recipe.compile != "auto" or device.type != "cuda":
        return recipe.compile == "on" and images > 0
    flop = 2 * 3 * multiply_adds(recipe)  # backward is twice forward
    return images * (flop / EAGER_SPEED + EAGER_STEP / recipe.batch_size) > WORTH_SECONDS


def _images_per_second(recipe: Recipe, macs: int) -> float:
    """Time real training steps: the recipe's own on an accelerator, of few or smaller images on the CPU."""
    device, share = resolve_device(recipe.device), 1.0
    factor = 2 * recipe.network.space_to_depth * 2 ** (len(recipe.network.multipliers) - 1)
    batch_size = recipe.batch_size
    if device.type == "cpu":
        while macs * share > PROBE_MACS and not any(side % factor for side in recipe.geometry.size):
            height, width = recipe.geometry.size
            recipe, share = changed(recipe, {"size": f"{height // 2}x{width // 2}"}), share / 4
        batch_size = max(1, min(batch_size, int(PROBE_MACS / (macs * share))))
    parts = recipe.micro_batch if batch_size == recipe.batch_size else None
    recipe = changed(recipe, {"batch_size": batch_size, "micro_batch": parts})
    learner, batch = Learner(recipe, device), blank_batch(recipe)
    start, steps = 0.0, -1  # the first step sets things up and is not timed
    while steps < 1 or time.perf_counter() - start < PROBE_SECONDS:
        learner.step(batch)
        learner.take_loss()  # waits for an accelerator
        steps += 1
        start = start or time.perf_counter()
    return share * batch_size * steps / (time.perf_counter() - start)
