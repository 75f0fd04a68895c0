"""Compiling a run's network before its first step."""

from __future__ import annotations

from ddpm.networks.compiled import compile_network
from ddpm.training.learner import Learner
from ddpm.training.step_memory import blank_batch


def compile_learner(learner: Learner) -> str:
    """Compile a learner's network, tried on the gradient of blank images; a sentence says how that went."""
    batch = blank_batch(learner.recipe)
    with learner.step_conditions(batch):
        sentence = compile_network(learner.network, lambda: learner.gradient(batch))
    learner.optimiser.zero_grad()
    return sentence
