"""Whether a run's network is compiled before its first step, and compiling it."""

from __future__ import annotations

import torch

from ddpm.model.recipe import Recipe
from ddpm.networks.compiled import compile_network
from ddpm.training.cost import multiply_adds
from ddpm.training.learner import Learner
from ddpm.training.step_memory import blank_batch

EAGER_SPEED = 1e14  # FLOP a second in eager mode, more than an H100 reaches
EAGER_STEP = 5e-3  # seconds that launching the kernels of a step takes, at least
WORTH_SECONDS = 300.0  # of eager steps: five times what compiling takes


def worth_compiling(recipe: Recipe, device: torch.device, images_seen: int) -> bool:
    """Whether `compile` wants the rest of a run compiled: "auto" does on NVIDIA GPUs, where the rest is long enough."""
    if recipe.compile != "auto" or device.type != "cuda":
        return bool(recipe.compile == "on")
    images = recipe.train_images - images_seen
    flop = 2 * 3 * multiply_adds(recipe)  # backward is twice forward
    return images * (flop / EAGER_SPEED + EAGER_STEP / recipe.batch_size) > WORTH_SECONDS


def compile_learner(learner: Learner) -> str:
    """Compile a learner's network, tried on the gradient of blank images; a sentence says how that went."""
    batch = blank_batch(learner.recipe)
    with learner.step_conditions(batch):
        sentence = compile_network(learner.network, lambda: learner.gradient(batch))
    learner.optimiser.zero_grad()
    return sentence
