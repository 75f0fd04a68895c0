"""A step made in parts, or with less memory, is the plain step up to rounding; and it stays on its device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.devices import OnCpu
from tests.training.test_learner import batch, small, speaking

from ddpm.errors import InputError
from ddpm.model.recipe import Recipe
from ddpm.training.learner import Learner

CPU = torch.device("cpu")


def recipe_for(objective: tuple[str, ...], **changes: object) -> Recipe:
    """Classes, dropout and label drop-out, and a rate of 0."""
    loss, variance, levels, weighting = objective
    return small(
        network={"classes": 3},
        process={"steps": 3, "beta_start": 0.02, "beta_end": 0.5, "variance": variance},
        objective={"loss": loss, "levels": levels, "weighting": weighting},
        training={"warmup_images": 10**9, "label_dropout": 0.2},
        **changes,
    )


def after_a_step(dtype: torch.dtype, objective: tuple[str, ...], **changes: object) -> dict[str, torch.Tensor]:
    """Loss and gradients of a step of 4 images, after one before it."""
    learner = speaking(Learner(recipe_for(objective, **changes), CPU), 0.1)
    for network in (learner.network, learner.ema):
        network.to(dtype)
    learner.denoiser = replace(learner.denoiser, dtype=dtype)
    for number in range(2):
        learner.step(batch(number, classes=3))
    gradients = [parameter.grad.flatten() for parameter in learner.network.parameters()]
    found = {"losses": torch.stack(learner.losses), "gradient": torch.cat(gradients)}
    return found | ({"uncertainty": u.table()} if (u := learner.levels.uncertainty) else {})


@pytest.mark.parametrize(
    "objective", [("simple", "large", "log-normal", "uncertainty"), ("hybrid", "range", "importance", "min-snr")]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize(
    "changes", [{"micro_batch": 1}, {"micro_batch": 2}, {"checkpointing": True, "micro_batch": 2}], ids=str
)
def test_less_memory_learns_the_same(dtype, tolerance, objective, changes) -> None:
    plain, found = (after_a_step(dtype, objective, **some) for some in ({}, changes))
    for name, value in plain.items():
        assert (found[name] - value).abs().max() < tolerance * value.norm(), name
    assert plain["gradient"].norm() > 0.1


@pytest.mark.parametrize(
    "objective", [("hybrid", "range", "log-normal", "uncertainty"), ("bound", "learned", "importance", "none")]
)
@pytest.mark.parametrize("changes", [{}, {"micro_batch": 2, "checkpointing": True}], ids=str)
def test_a_step_takes_images_and_labels_from_the_cpu_and_nothing_else(objective, changes, monkeypatch) -> None:
    """On "meta", where a value that the CPU waited for would be an error; all but Adam's own arithmetic."""
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)
    learner = Learner(recipe_for(objective, **changes), torch.device("meta"))
    learner.fused = True
    learner.step(batch(0, classes=3))  # tables go to the device once
    images = batch(1, classes=3)
    with OnCpu() as operations:
        learner.step(images)
    assert {name for name, _ in operations.seen} == {"aten._to_copy.default"}
    assert sorted(shapes for _, shapes in operations.seen) == [[(4,)], [(4, 1, 4, 6)]]


def test_parts_divide_the_batch_or_are_larger() -> None:
    with pytest.raises(InputError, match="micro_batch = 3 does not divide batch_size = 4: choose"):
        small(micro_batch=3)
    assert small(micro_batch=16).micro_batch == 16
