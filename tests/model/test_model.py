"""A model: its network by recipe, its device, and that nothing away from the CPU is float64 (Apple's GPUs lack it)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm.base.units import images_to_x
from ddpm.data.stream import Batch
from ddpm.diffusion.objectives import simple_loss
from ddpm.errors import InputError
from ddpm.model.model import build_denoiser, build_network, resolve_device, some_weight
from ddpm.model.recipe import load_recipe, make_recipe, resolve
from ddpm.model.recipe_tables import LINEAR
from ddpm.networks.linear import LinearDenoiser
from ddpm.networks.unet import UNet
from scorings import RECIPE, merged, stored_model


class NoFloat64(TorchDispatchMode):
    """Fails on the first operation whose result is float64 and not on the CPU."""

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "cpu":
                assert tensor.dtype != torch.float64, f"{func} is float64 on {tensor.device}"
        return result


def test_no_float64_leaves_the_cpu_in_a_training_step_and_a_reverse_step() -> None:
    recipe = load_recipe("digits")
    recipe = resolve(recipe, recipe.geometry, 0)
    with torch.device("meta"):
        network = build_network(recipe)
    denoiser = build_denoiser(recipe, network)
    batch = Batch(torch.zeros(2, 1, 8, 8, dtype=torch.uint8, device="meta"), None, 0, None)  # type: ignore[arg-type]
    with NoFloat64():
        x0 = images_to_x(batch.images)
        loss = simple_loss(denoiser, x0, torch.tensor([1, 1000]), noise=torch.empty_like(x0)).mean()
        loss.backward()
        step = denoiser.reverse(x0, 500, chain=denoiser.process.schedule)
        assert step.gaussian.sample(torch.empty_like(x0)).dtype == torch.float32


# ---- networks by recipe ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linear", LINEAR)
def test_a_network_is_a_unet_or_the_linear_denoiser_with_or_without_one(linear: str):
    recipe = make_recipe(merged(RECIPE, {"network": {"linear": linear}}))
    network = build_network(recipe)
    if linear == "none":
        assert isinstance(network, UNet)
        return
    assert isinstance(network, LinearDenoiser)
    assert isinstance(network.correction, UNet) == (linear != "alone")
    assert network.scalar == (linear == "scalar")
    schedule = recipe.process.make_schedule()
    assert network.log_snr.tolist() == schedule.log_snr[1:].tolist()
    assert network(torch.zeros(2, 1, 4, 4), torch.tensor([0, 11])).shape == (2, 1, 4, 4)


def test_weights_at_the_start_depend_on_the_recipes_seed_alone():
    def weight(seed: int) -> torch.Tensor:
        return some_weight(build_network(make_recipe(merged(RECIPE, {"seed": seed}))))

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = weight(5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(weight(5), first)
    assert not torch.equal(weight(6), first)


def test_a_denoiser_has_the_recipes_process_prediction_and_variance():
    recipe = make_recipe(merged(RECIPE, {"objective": {"prediction": "v"}, "process": {"variance": "large"}}))
    denoiser = build_denoiser(recipe, build_network(recipe).double())
    assert (denoiser.prediction, denoiser.variance, denoiser.dtype) == ("v", "large", torch.float64)
    assert denoiser.process.schedule.steps == 12
    assert denoiser.threshold == "static"


# ---- a model --------------------------------------------------------------------------------------------------------


def test_a_model_knows_its_geometry_and_its_device(tmp_path: Path):
    model = stored_model(tmp_path / "model")
    assert model.geometry.shape == (1, 4, 4)
    assert model.device == torch.device("cpu")
    assert model.denoiser.network is model.network


def test_a_device_is_one_that_is_there():
    assert resolve_device("cpu") == torch.device("cpu")
    assert isinstance(resolve_device("auto"), torch.device)
    for name in ("abacus", "cuda:99", ""):
        with pytest.raises(InputError, match=f"'{name}'.*auto or cpu"):
            resolve_device(name)
