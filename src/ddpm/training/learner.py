"""What changes while training: weights, their running average, the optimiser, and how many images were seen.

Every random number is a function of the recipe's seed and the images seen, so a learner restored from its state goes
on exactly as one that never stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from ddpm.data import Batch
from ddpm.model import Model, build_denoiser, build_network
from ddpm.networks import UNet
from ddpm.objectives import draw_levels, simple_loss
from ddpm.recipe import Recipe
from ddpm.seeding import generator, torch_seeded
from ddpm.units import images_to_x

Tensors = tuple[Tensor, ...] | list[Tensor]


def moving_average(decay: float, *, ramp: bool) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """The update of averaged weights after each step but the first, which copies them.

    average <- d * average + (1 - d) * weights, where d is `decay`, or min(decay, (1 + n) / (10 + n)) with the ramp,
    n counting the updates so far. The paper's decay is 0.9999 without a ramp (App. B).
    """

    def update(averages: Tensors, weights: Tensors, updates: Tensor | int) -> None:
        n = int(updates)
        d = min(decay, (1 + n) / (10 + n)) if ramp else decay
        torch._foreach_lerp_(averages, weights, 1 - d)

    return update


def learning_rate(recipe: Recipe, images_seen: int) -> float:
    """Linear warm-up from 0, then constant (App. B)."""
    warmup = recipe.training.warmup_images
    return recipe.learning_rate * (min(1.0, images_seen / warmup) if warmup else 1.0)


class Learner:
    """The mutable heart of a run, on one device."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe = recipe
        self.device = device
        self.network = build_network(recipe).to(device).train()
        self.denoiser = build_denoiser(recipe, self.network)
        update = moving_average(recipe.training.average_decay, ramp=recipe.training.average_ramp)
        self.averages = AveragedModel(self.network, multi_avg_fn=update)
        self.averages.eval()
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=recipe.learning_rate)
        self.images_seen = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.loss_images = 0

    def step(self, batch: Batch) -> None:
        """Learn from one batch."""
        x0 = images_to_x(batch.images.to(self.device))
        labels = None if batch.labels is None or not self.recipe.network.classes else batch.labels.to(self.device)
        seed, position = self.recipe.seed, self.images_seen
        t = draw_levels(generator("level", seed, position), len(x0), self.recipe.process.steps)
        noise = torch.from_numpy(generator("noise", seed, position).standard_normal(tuple(x0.shape), "float32"))
        with self._dropout(), torch.autocast(self.device.type, torch.bfloat16, self.recipe.precision == "bfloat16"):
            losses = simple_loss(self.denoiser, x0, t, noise=noise.to(self.device), labels=labels)
        self._descend(losses.mean())
        self.images_seen += len(x0)
        self.loss_sum += losses.detach().sum()
        self.loss_images += len(x0)

    def take_loss(self) -> float:
        """The mean loss since the last call."""
        mean = float(self.loss_sum) / max(self.loss_images, 1)
        self.loss_sum.zero_()
        self.loss_images = 0
        return mean

    def finite(self, *, weights: bool) -> bool:
        """Whether all losses since take_loss were numbers, and perhaps whether all weights are."""
        values = [self.loss_sum, *(self.network.parameters() if weights else ())]
        return all(bool(torch.isfinite(value).all()) for value in values)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """State dicts by name, as checkpoints hold them."""
        return {"averaged": self.averages.module.state_dict(), "raw": self.network.state_dict()}

    def averaged_model(self) -> Model:
        """The averaged weights as a model to sample from, sharing their memory."""
        return Model(self.recipe, cast(UNet, self.averages.module), (), self.images_seen, "averaged", "this run")

    def state(self) -> dict[str, Any]:
        """All that is needed beyond the weights to go on exactly."""
        return {
            "images_seen": self.images_seen,
            "updates": int(self.averages.n_averaged),
            "loss_sum": float(self.loss_sum),
            "loss_images": self.loss_images,
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, weights: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Become the learner whose weights() and state() these were."""
        self.averages.module.load_state_dict(weights["averaged"])
        self.network.load_state_dict(weights["raw"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.averages.n_averaged.fill_(state["updates"])
        self.images_seen = state["images_seen"]
        self.loss_sum.fill_(state["loss_sum"])
        self.loss_images = state["loss_images"]

    def _descend(self, loss: Tensor) -> None:
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.training.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, self.images_seen)
        self.optimiser.step()
        self.averages.update_parameters(self.network)

    def _dropout(self) -> contextlib.AbstractContextManager[None]:
        if not self.recipe.network.dropout:
            return contextlib.nullcontext()
        return torch_seeded("dropout", self.recipe.seed, self.images_seen, self.device)
