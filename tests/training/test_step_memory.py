"""The memory of a training step: traced without computing, it is what the allocator gives out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from ddpm.diffusion.objectives import LEVEL_SAMPLING, WEIGHTINGS
from ddpm.errors import InputError
from ddpm.model.recipe import Recipe, changed, load_recipe, resolve
from ddpm.training.compiling import compile_learner
from ddpm.training.learner import Learner
from ddpm.training.step_memory import LiveBytes, blank_batch, peak_memory

TINY = {
    "batch_size": 64,
    "precision": "tf32",
    "image": {"channels": 3, "height": 16, "width": 16},
    "network": {"channels": 8, "groups": 4, "multipliers": [1, 2], "blocks": 1, "attention_levels": [1], "classes": 0},
}


def tiny(**changes: Any) -> Recipe:
    recipe = changed(load_recipe("standard", TINY), changes)
    return resolve(recipe, recipe.geometry, 0)


def allocated(work: Callable[[], object]) -> int:
    """The peak of what PyTorch's allocator gave out on the CPU, from its own record."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    return int(np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]).max())


def train(recipe: Recipe) -> None:
    learner, batch = Learner(recipe, torch.device("cpu")), blank_batch(recipe)
    for _ in range(2):
        learner.step(batch)


def test_the_estimate_is_the_peak_of_the_allocator():
    recipe = tiny()
    assert peak_memory(recipe) == pytest.approx(allocated(lambda: train(recipe)), rel=0.02)


def test_a_batch_costs_its_activations_and_some_of_them_can_be_saved():
    whole, half = peak_memory(tiny()), peak_memory(tiny(batch_size=32))
    assert 1.8 < whole / half < 2
    assert peak_memory(tiny(precision="bfloat16")) < 0.95 * whole
    assert peak_memory(tiny(checkpointing=True)) < 0.7 * whole
    assert peak_memory(tiny(), compiled=True) < 0.9 * whole


@pytest.mark.parametrize(("weighting", "levels"), list(zip(WEIGHTINGS[1:], LEVEL_SAMPLING, strict=True)))
def test_weights_of_levels_cost_next_to_nothing(weighting: str, levels: str):
    weighted = tiny(objective={"weighting": weighting, "levels": levels}, network={"linear": "scalar"})
    plain = tiny(network={"linear": "scalar"})
    assert peak_memory(weighted) == pytest.approx(peak_memory(plain), rel=0.02)


def test_convolutions_in_strict_float32_want_workspaces():
    """A GPU's, four times what they read and write: here the first of the last block, its gradient among it."""
    images, pixels, channels = 64, 16 * 16, (16 + 8, 8)
    touched = 4 * images * pixels * (2 * channels[0] + channels[1])
    extra = peak_memory(tiny(precision="float32")) - peak_memory(tiny())
    assert 0.5 < extra / (4 * touched) <= 1.05


@pytest.mark.parametrize("settings", [{}, {"precision": "bfloat16"}, {"network": {"dropout": 0.1}}])
@pytest.mark.slow
def test_the_estimate_of_a_compiled_network_is_the_peak_of_the_allocator(settings: dict[str, Any]):
    recipe = tiny(**settings)
    learner, batch = Learner(recipe, torch.device("cpu")), blank_batch(recipe)
    assert "is compiled" in compile_learner(learner)
    learner.step(batch)
    weights = sum(weight.numel() for weight in learner.network.parameters())
    kept = 4 * 4 * weights  # weights, their EMA and the optimiser's moments were there before
    found = kept + allocated(lambda: learner.step(batch))
    assert peak_memory(recipe, compiled=True) == pytest.approx(found, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lsun-bedroom-256", "lsun-bedroom-256-large"])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_large_recipes_train_on_a_gpu_of_80_gigabytes(name: str, compiled: bool):
    recipe = load_recipe(name)
    assert peak_memory(resolve(recipe, recipe.geometry, 0), compiled=compiled) < 75e9


def test_bytes_count_while_their_tensor_lives():
    with LiveBytes(torch.device("cpu")) as live:
        x = torch.zeros(256)  # 1,024 bytes
        y = x[:128] * 2  # a view has none of its own
        assert live.now == 1024 + 512
        del x, y
        assert live.now == 0
        torch.zeros(1)  # a whole block all the same
    assert (live.now, live.peak) == (0, 1024 + 512)


EVERY = 'set micro_batch = 32 or checkpointing = true or precision = "bfloat16" or a smaller batch_size'
LAST = "1 images .*: choose a narrower network or smaller images"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, f"64 images .* memory of cpu: {EVERY}"),
        ({"batch_size": 96, "micro_batch": 32, "precision": "bfloat16"}, "32 images .*: set micro_batch = 16 or check"),
        ({"batch_size": 8, "micro_batch": 16, "precision": "bfloat16"}, "8 images .*: set micro_batch = 4 or check"),
        ({"batch_size": 1, "precision": "bfloat16", "checkpointing": True}, LAST),
    ],
)
def test_a_step_that_memory_does_not_hold_is_refused_with_the_keys_that_help(settings: dict[str, Any], sentence: str):
    learner = Learner(tiny(**settings), torch.device("cpu"))

    def full(*given: object) -> None:
        raise torch.OutOfMemoryError

    learner.network.register_forward_pre_hook(full)
    with pytest.raises(InputError, match=sentence):
        learner.step(blank_batch(learner.recipe))
