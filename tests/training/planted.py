"""Faults planted in a learner: what goes wrong, and at which steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm.diffusion.objectives import LOSSES
from ddpm.training.learner import Learner

Fault = Callable[[Learner, Tensor], Tensor]


def infinite_gradient(learner: Learner, losses: Tensor) -> Tensor:
    """A loss that is a number, and whose gradient is not: the root's slope at 0 is infinite."""
    return losses + sum((0 * p).sum() for p in learner.network.parameters()).sqrt()


def nan_weight(learner: Learner, losses: Tensor) -> Tensor:
    """As an update would leave it that overflowed; the loss of this step was measured before."""
    next(learner.network.parameters()).data.view(-1)[0] = math.nan
    return losses


FAULTS: dict[str, Fault] = {
    "a loss that is NaN": lambda learner, losses: losses * math.nan,
    "a loss that is infinite": lambda learner, losses: losses * math.inf,
    "one image's loss": lambda learner, losses: torch.where(torch.arange(len(losses)) == 1, math.nan, 1.0) * losses,
    "a gradient": infinite_gradient,
    "a norm that overflows": lambda learner, losses: 1e38 * losses,
}


def first_of(names: Iterable[str], fast: Container[str]) -> list[Any]:
    """Parameters of a test: all of these names, those that are not in `fast` among the slow ones."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names]


def plant(monkeypatch: pytest.MonkeyPatch, fault: Fault, when: Callable[[Learner], bool]) -> None:
    """Have every learner meet a fault in the steps that `when` chooses."""
    stepping: list[Learner] = []
    step, simple = Learner.step, LOSSES["simple"]

    def stepped(learner, batch):
        stepping[:] = [learner]
        step(learner, batch)

    def faulty(*args, **options):
        losses = simple(*args, **options)
        return fault(stepping[0], losses) if stepping and when(stepping[0]) else losses

    monkeypatch.setattr(Learner, "step", stepped)
    monkeypatch.setitem(LOSSES, "simple", faulty)
