"""Images predicted along a trajectory: which predictions the slots hold (Ho et al. 2020, Fig. 6)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.base.geometry import Geometry
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.process import PREDICTIONS, Process
from ddpm.diffusion.schedule import make_schedule
from ddpm.samplers.base import State
from ddpm.samplers.plan import SAMPLERS, Sampling, plan
from ddpm.samplers.trajectory import predicted_images, trajectory


def restless(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
    """Some smooth function of state and time, with values beyond [-1, 1]."""
    return torch.sin(3 * x + time[:, None, None, None] / 100) + 0.5 * x


def chain_of(sampler: str, prediction: str = "eps", steps: int = 1000, levels: int = 1000) -> list[State]:
    denoiser = Denoiser(restless, Process(make_schedule(steps=levels)), prediction)
    found = plan(Sampling(sampler, steps), denoiser.process.schedule)
    return list(trajectory(denoiser, Geometry(2, 4, 3), [1, 2], found, device=torch.device("cpu")))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_twenty_slots_lie_in_range_and_the_first_is_the_finished_image(sampler: str, prediction: str):
    """Bit for bit. A network that predicts the mean is never clipped but its image is: there the slot is what the
    finished state becomes when clipped (paper sheet, sec. 0, row 11)."""
    walk = chain_of(sampler, prediction, steps=100, levels=100)
    slots = predicted_images(walk, every=5)
    assert len(slots) == 20
    assert all(slot.abs().max() <= 1 for slot in slots)
    assert torch.equal(slots[0], walk[-1].x.clamp(-1, 1))
    if prediction != "mean":
        assert torch.equal(slots[0], walk[-1].x)


def test_slot_k_is_the_prediction_made_at_level_50_k_plus_1():
    """The official code keeps, for its index i from 999 down, the last with i // 50 == k: i = 50 k, level 50 k + 1."""
    walk = chain_of("ancestral")
    at = {state.start: state.x0 for state in walk}
    for k, slot in enumerate(predicted_images(walk, every=50)):
        assert torch.equal(slot, at[50 * k + 1])


def test_a_strided_chain_fills_the_stretches_it_visits():
    walk = chain_of("ancestral", steps=10)  # levels 100, 200, ..., 1000: each in a stretch of its own
    slots = predicted_images(walk, every=50)
    assert len(slots) == 10
    assert torch.equal(slots[0], walk[-1].x0)
    assert torch.equal(slots[-1], walk[0].x0)


def test_later_predictions_of_a_stretch_replace_earlier_ones():
    def state(level: int) -> State:
        x = torch.full((1, 1, 1, 1), float(level))
        return State(level - 1, x, level, x)

    slots = predicted_images([state(level) for level in (7, 6, 5, 4, 3, 2, 1)], every=3)
    assert [slot.item() for slot in slots] == [1, 4, 7]
    assert np.diff([slot.item() for slot in slots]).tolist() == [3, 3]
