"""A step made in parts, or with less memory, is the plain step up to rounding; and it stays on its device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.training.test_learner import batch, small, speaking

from ddpm.training.learner import Learner

CPU = torch.device("cpu")


def after_a_step(dtype: torch.dtype, objective: tuple[str, str, str], **changes: object) -> dict[str, torch.Tensor]:
    """Loss and gradients of a step of 4 images with classes, dropout and label drop-out, after one before it."""
    loss, variance, levels = objective
    recipe = small(
        network={"classes": 3},
        process={"steps": 3, "beta_start": 0.02, "beta_end": 0.5, "variance": variance},
        objective={"loss": loss, "levels": levels},
        training={"warmup_images": 10**9, "label_dropout": 0.2},
        **changes,
    )
    learner = speaking(Learner(recipe, CPU), 0.1)
    for network in (learner.network, learner.ema):
        network.to(dtype)
    learner.denoiser = replace(learner.denoiser, dtype=dtype)
    for number in range(2):
        learner.step(batch(number, classes=3))
    gradients = [parameter.grad.flatten() for parameter in learner.network.parameters()]
    return {"losses": torch.stack(learner.losses), "gradient": torch.cat(gradients)}


@pytest.mark.parametrize("objective", [("simple", "large", "uniform"), ("hybrid", "range", "importance")])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("changes", [{"micro_batch": 1}, {"micro_batch": 2}], ids=str)
def test_less_memory_learns_the_same(dtype, tolerance, objective, changes) -> None:
    plain, found = (after_a_step(dtype, objective, **some) for some in ({}, changes))
    for name, value in plain.items():
        assert (found[name] - value).abs().max() < tolerance * value.norm(), name
    assert plain["gradient"].norm() > 0.1
