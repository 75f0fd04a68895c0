"""What changes while training: weights, their EMA, the optimiser, and how many images were seen.

Every random number is a function of the recipe's seed and the images seen, so a learner restored from its state goes
on exactly as one that never stopped.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddpm.base.seeding import generator, torch_seeded
from ddpm.base.tensors import to_device
from ddpm.base.units import images_to_x
from ddpm.data.sources import ImageSet
from ddpm.data.stream import Batch
from ddpm.diffusion.objectives import LOSSES, draw_levels, level_probabilities, no_history, remember
from ddpm.errors import InputError
from ddpm.model.model import Model, build_denoiser, build_network
from ddpm.model.recipe import Recipe
from ddpm.networks.linear import LinearDenoiser

MEASURED = 8192  # images that a linear denoiser is measured on


def ema_decay(recipe: Recipe, updates: int) -> float:
    """The decay of the weights' exponential moving average (EMA; App. B).

    updates  so far; the first copies the weights (decay 0), as the official code's does
    returns  `ema_decay`, with the ramp at most (1 + n) / (10 + n) after n updates
    """
    if not updates:
        return 0.0
    decay = recipe.training.ema_decay
    return min(decay, (1 + updates) / (10 + updates)) if recipe.training.ema_ramp else decay


@torch.no_grad()
def follow(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * network, weight by weight."""
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)


def learning_rate(recipe: Recipe, images_seen: int) -> float:
    """Linear warm-up from 0, then constant (App. B)."""
    warmup = recipe.training.warmup_images
    return recipe.learning_rate * (min(1.0, images_seen / warmup) if warmup else 1.0)


class Learner:
    """What changes in a run, on one device."""

    def __init__(self, recipe: Recipe, device: torch.device, class_names: tuple[str, ...] = ()) -> None:
        if recipe.network.linear == "alone":
            raise InputError(
                'network.linear = "alone" has nothing to train: `ddpm tune codec linear --data SRC --out DIR` measures '
                'such a model, and "corrected" adds a network to it.'
            )
        self.recipe = recipe
        self.class_names = class_names if recipe.network.classes else ()
        self.device = device
        self.network = build_network(recipe).to(device).train()
        self.denoiser = build_denoiser(recipe, self.network)
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.updates = 0
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=recipe.learning_rate)
        self.images_seen = 0
        self.losses: list[Tensor] = []
        self.history = no_history(recipe.process.steps if recipe.objective.levels == "importance" else 0)

    def begin(self, images: ImageSet) -> None:
        """Measure, before the first step, what a linear denoiser knows of the images."""
        if isinstance(self.network, LinearDenoiser):
            rows = np.unique(np.linspace(0, len(images) - 1, MEASURED).astype(np.int64))
            self.network.measure(images_to_x(torch.from_numpy(images.array(rows.tolist()))).to(self.device))
            self.ema.load_state_dict(self.network.state_dict())

    def step(self, batch: Batch) -> None:
        """Learn from one batch."""
        try:
            self._learn(batch)
        except torch.OutOfMemoryError:
            raise InputError(
                f"a batch of {len(batch.images)} is too large for the memory of {self.device}: choose a smaller "
                "batch_size."
            ) from None

    def _learn(self, batch: Batch) -> None:
        x0 = images_to_x(to_device(batch.images, self.device))
        classes = self.recipe.network.classes
        seed, position = self.recipe.seed, self.images_seen
        labels = None if batch.labels is None or not classes else to_device(self._dropped(batch.labels), self.device)
        steps = self.recipe.process.steps
        probabilities = level_probabilities(self.history) if len(self.history) else np.full(steps, 1 / steps)
        t, weights = draw_levels(generator("level", seed, position), len(x0), probabilities)
        noise = torch.from_numpy(generator("noise", seed, position).standard_normal(tuple(x0.shape), "float32"))
        with self._dropout(), torch.autocast(self.device.type, torch.bfloat16, self.recipe.precision == "bfloat16"):
            losses = LOSSES[self.recipe.objective.loss](
                self.denoiser, x0, t, noise=to_device(noise, self.device), labels=labels
            )
        loss = (losses * to_device(weights, self.device)).mean()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.training.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, position)
        self.optimiser.step()
        follow(self.ema, self.network, ema_decay(self.recipe, self.updates))
        self.updates += 1
        if len(self.history):
            remember(self.history, t.numpy(), losses.detach().cpu().double().numpy())
        self.images_seen += len(x0)
        self.losses.append(loss.detach())

    def _dropped(self, labels: Tensor) -> Tensor:
        """Classes, some of them replaced by no class, so that the network learns to do without (Ho & Salimans 2022)."""
        share = self.recipe.training.label_dropout
        if not share:
            return labels
        drop = generator("label dropout", self.recipe.seed, self.images_seen).random(len(labels)) < share
        return labels.masked_fill(torch.from_numpy(drop), self.recipe.network.classes or 0)

    def mean_loss(self) -> float:
        """The mean loss since take_loss, summed in float64."""
        return float(torch.stack(self.losses).cpu().double().mean())

    def take_loss(self) -> float:
        """The mean loss since the last call."""
        mean = self.mean_loss()
        self.losses.clear()
        return mean

    def finite(self, *, weights: bool) -> bool:
        """Whether all losses since take_loss were numbers, and perhaps whether all weights are."""
        values = [*self.losses, *(self.network.parameters() if weights else ())]
        return all(bool(torch.isfinite(value).all()) for value in values)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """State dicts by name, as checkpoints hold them."""
        return {"ema": self.ema.state_dict(), "raw": self.network.state_dict()}

    def ema_model(self) -> Model:
        """The EMA weights as a model to sample from, sharing their memory."""
        return Model(self.recipe, self.ema, self.class_names, self.images_seen, "ema", "this run")

    def state(self) -> dict[str, Any]:
        """All that is needed beyond the weights to go on exactly."""
        return {
            "images_seen": self.images_seen,
            "updates": self.updates,
            "losses": [float(loss) for loss in self.losses],
            "optimiser": self.optimiser.state_dict(),
            "history": torch.from_numpy(self.history),
        }

    def restore(self, weights: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Become the learner whose weights() and state() these were."""
        self.ema.load_state_dict(weights["ema"])
        self.network.load_state_dict(weights["raw"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.updates = state["updates"]
        self.images_seen = state["images_seen"]
        self.losses = [torch.tensor(loss, device=self.device) for loss in state["losses"]]
        self.history = state["history"].numpy() if "history" in state else self.history

    def _dropout(self) -> contextlib.AbstractContextManager[None]:
        if not self.recipe.network.dropout:
            return contextlib.nullcontext()
        return torch_seeded("dropout", self.recipe.seed, self.images_seen, self.device)
