"""A model away from the CPU: nothing it computes there may be float64, which Apple's GPUs lack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm.base.units import images_to_x
from ddpm.data import Batch
from ddpm.diffusion.objectives import simple_loss
from ddpm.model.model import build_denoiser, build_network
from ddpm.model.recipe import load_recipe, resolve


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
