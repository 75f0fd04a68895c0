"""When a run compiles its network, and that it learns the same then."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.training.test_learner import batch, small, speaking

from ddpm.model.recipe import load_recipe, make_recipe, resolve
from ddpm.training import cost
from ddpm.training.compiling import compile_learner
from ddpm.training.cost import worth_compiling
from ddpm.training.learner import Learner
from ddpm.training.loop import train
from scorings import RECIPE, Watching, image_set, merged, pixels

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("settings", "device", "seen", "wanted"),
    [
        ({}, CUDA, 0, True),
        ({}, CUDA, 102_000_000, False),  # 400,000 images of 37 GFLOP are left
        ({}, CPU, 0, False),
        ({"compile": "off"}, CUDA, 0, False),
        ({"compile": "on"}, CPU, 102_000_000, True),
        ({"compile": "on"}, CPU, 102_400_000, False),  # nothing is left
        ({"train_images": 500_000, "batch_size": 1}, CUDA, 0, True),
    ],
)
def test_auto_compiles_on_nvidia_gpus_where_the_rest_is_long(
    settings, device: torch.device, seen: int, wanted: bool, monkeypatch
):
    monkeypatch.setattr(cost, "multiply_adds", lambda recipe: 6_222_000_000)
    recipe = load_recipe("cifar10", settings)
    assert worth_compiling(resolve(recipe, recipe.geometry, 0), device, seen) is wanted


def test_trying_the_compiled_network_changes_nothing_of_what_is_learned(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda body, **options: body)
    losses = []
    for compiled in (False, True):
        learner = speaking(Learner(small(network={"dropout": 0.1, "classes": 3}), CPU))
        if compiled:
            assert compile_learner(learner) == "The network is compiled, which took 0 s."
            assert all(parameter.grad is None for parameter in learner.network.parameters())
        for number in range(2):
            learner.step(batch(number, classes=3))
        losses.append(learner.losses)
    assert losses[0] == losses[1]


def test_a_run_says_that_its_network_is_compiled_and_goes_on_where_it_cannot_be(tmp_path: Path, monkeypatch):
    for compiler, said in ((lambda body, **options: body, "is compiled, which took"), (None, "runs in eager mode: ")):
        monkeypatch.setattr(torch, "compile", compiler)
        heard = Watching()
        recipe = make_recipe(merged(RECIPE, {"train_images": 8, "compile": "on"}))
        train(recipe, image_set(pixels(20, (1, 4, 4))), tmp_path / said[:3], progress=heard)
        assert sum(said in sentence for sentence in heard.sentences) == 1
        assert heard.sentences[-1].endswith("at 8 images.")
