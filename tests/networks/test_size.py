"""A network's size is known before it is built."""

from __future__ import annotations

import random

import pytest
import torch

from ddpm.base.geometry import Geometry
from ddpm.model.model import build_network
from ddpm.model.recipe import Recipe, load_recipe, make_recipe, network_size, recipe_names, resolve
from ddpm.model.recipe_tables import LINEAR
from ddpm.training.step_memory import peak_memory


def built(recipe: Recipe) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in build_network(recipe).parameters())


@pytest.mark.parametrize("name", recipe_names())
def test_the_size_of_every_recipes_network_is_that_of_the_network_built(name: str):
    recipe = load_recipe(name)
    recipe = resolve(recipe, recipe.geometry if recipe.image.height else Geometry(3, 32, 32), 0)
    assert network_size(recipe).parameters == built(recipe)


def test_activations_are_about_those_that_a_backward_pass_keeps():
    recipe = resolve(load_recipe("small"), Geometry(3, 32, 32), 0)
    kept = peak_memory(recipe) / 4 - 5 * network_size(recipe).parameters
    assert 0.5 < kept / recipe.batch_size / network_size(recipe).activations < 2


def test_every_setting_counts():
    draw = random.Random(0)
    for _ in range(40):
        levels = draw.randint(1, 3)
        network = {
            "channels": 8,
            "groups": 4,
            "multipliers": [draw.randint(1, 3) for _ in range(levels)],
            "blocks": draw.randint(1, 3),
            "attention_levels": [level for level in range(levels) if draw.random() < 0.5],
            "classes": draw.choice([0, 5]),
            "space_to_depth": draw.choice([1, 2]),
            "linear": draw.choice(LINEAR),
        }
        variance = draw.choice(["large", "range"])
        dropout = draw.choice([0.0, 0.1]) if network["classes"] else 0.0
        recipe = make_recipe(
            {
                "image": {"channels": draw.choice([1, 3]), "height": 16, "width": 32},
                "network": network,
                "training": {"label_dropout": dropout},
                "process": {"variance": variance},
                "objective": {"loss": "bound"},
            }
        )
        assert network_size(recipe).parameters == built(recipe), network
