"""What changes while training: weights, their EMA, the optimiser, and how many images were seen.

Every random number is a function of the recipe's seed and the image's number in the stream, so a learner restored from
its state goes on exactly as one that never stopped. A step's arithmetic is all on the device: between log lines the CPU
never waits for it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddpm.base.device_memory import within_memory
from ddpm.base.noise import NOISE_VERSION, normals, stream_keys, uniforms
from ddpm.base.precision import computing
from ddpm.base.tensors import to_device
from ddpm.base.units import images_to_x
from ddpm.data.sources import ImageSet
from ddpm.data.stream import Batch
from ddpm.diffusion.objectives import LOSSES
from ddpm.errors import InputError
from ddpm.model.model import Model, build_denoiser, build_network
from ddpm.model.rates import learning_rate
from ddpm.model.recipe import Recipe
from ddpm.networks.linear import LinearDenoiser
from ddpm.training.averages import ema_decay, follow, follow_masked
from ddpm.training.levels import LevelRule
from ddpm.training.linear_model import measure

MASKED = ("cuda",)  # devices whose own Adam takes the flag that masks a step, so that the host never waits for it
KEPT_STEPS = 1000  # steps on such a device after which the host looks, so that what is kept of them stays small
FEW_LEVELS = 8  # of a step, in what is told of it


class _Step(NamedTuple):
    """What is needed to tell what was not finite in a step: images seen after it, levels, each image's loss, their mean
    and the gradient's norm."""

    images: int
    t: Tensor
    losses: Tensor
    loss: Tensor
    norm: Tensor

    def fault(self) -> dict[str, Any]:
        """As a line of JSON holds it."""
        levels = sorted(set(self.t[~torch.isfinite(self.losses).cpu()].tolist()))
        told = {name: _plain(float(value)) for name, value in (("loss", self.loss), ("gradient_norm", self.norm))}
        return {"images": self.images, "levels": levels[:FEW_LEVELS], **told}


def _plain(number: float) -> float | str:
    """What JSON has no number for, by its name: nan, inf, -inf."""
    return number if math.isfinite(number) else str(number)


def lighter(recipe: Recipe) -> str:
    """What makes a training step take less memory: first what changes no step beyond rounding."""
    size, part = recipe.batch_size, min(recipe.micro_batch or recipe.batch_size, recipe.batch_size)
    smaller = next((n for n in range(part // 2, 0, -1) if size % n == 0), 0)
    ways = [f"micro_batch = {smaller}"] if smaller else []
    ways += [] if recipe.checkpointing else ["checkpointing = true"]
    ways += ['precision = "bfloat16"'] if recipe.precision != "bfloat16" else []
    ways += ["a smaller batch_size"] if size > 1 else []
    return f"set {' or '.join(ways)}" if ways else "choose a narrower network or smaller images"


class Learner:
    """What changes in a run, on one device.

    rate_share  of the recipe's learning rate that is used: less than 1 after a run went back
    """

    def __init__(
        self, recipe: Recipe, device: torch.device, class_names: tuple[str, ...] = (), *, rate_share: float = 1.0
    ) -> None:
        if recipe.network.linear == "alone":
            raise InputError(
                'network.linear = "alone" has nothing to train: `ddpm tune codec linear --data SRC --out DIR` measures '
                'such a model, and "corrected" adds a network to it.'
            )
        self.recipe = recipe
        self.rate_share = rate_share
        self.class_names = class_names if recipe.network.classes else ()
        self.device = device
        self.network = build_network(recipe).to(device).train()
        self.denoiser = build_denoiser(recipe, self.network)
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.updates = 0
        self.fused = True if device.type in MASKED else None
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=recipe.learning_rate, fused=self.fused)
        self.images_seen = 0
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.variation = torch.ones(())
        self._steps: list[_Step] = []
        self._faults: list[dict[str, Any]] = []
        self.network.register_forward_hook(self._see)
        self.levels = LevelRule(recipe, self.network, device)

    def begin(self, images: ImageSet) -> None:
        """Measure, before the first step, what a linear denoiser knows of the images."""
        if isinstance(self.network, LinearDenoiser):
            measure(self.network, images)
            self.ema.load_state_dict(self.network.state_dict())

    def step(self, batch: Batch) -> None:
        """Learn from one batch."""
        with self.step_conditions(batch):
            self.optimiser.zero_grad()
            self._finish(*self.gradient(batch))

    @contextlib.contextmanager
    def step_conditions(self, batch: Batch) -> Iterator[None]:
        """Work on a batch in the recipe's precision; an InputError names the keys that help where memory ends."""
        at_a_time = min(self.recipe.micro_batch or len(batch.images), len(batch.images))
        with computing(self.recipe.precision, self.device), within_memory(at_a_time, self.device, lighter(self.recipe)):
            yield

    def gradient(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Add a batch's gradient to that of the weights; levels (B,), losses (B,) and the loss () come back.

        Losses are told as they are before learned uncertainty weighs them, so that their course can be followed.
        """
        count, size = len(batch.images), self.recipe.micro_batch or len(batch.images)
        numbers = torch.arange(self.images_seen, self.images_seen + count, device=self.device)
        pixels = to_device(batch.images, self.device)
        labels = None
        if batch.labels is not None and self.recipe.network.classes:
            labels = self._dropped(to_device(batch.labels, self.device), numbers)
        t, weights = self.levels.draw(self._keys("level", numbers))
        counted = self.levels.counted(t, weights)
        self.variation = torch.zeros((), device=self.device)
        parts = []
        for start in range(0, count, size):
            rows = slice(start, start + size)
            part = self._losses(pixels[rows], t[rows], numbers[rows], None if labels is None else labels[rows])
            ((part * counted[rows]).sum() / count).backward()  # type: ignore[no-untyped-call]
            parts.append(part.detach())
        losses = torch.cat(parts)
        return t, losses, (losses * weights).mean()

    def _losses(self, pixels: Tensor, t: Tensor, numbers: Tensor, labels: Tensor | None) -> Tensor:
        """Losses (B,) of images (B, C, H, W) uint8 at levels t (B,), with noise and dropout of their numbers."""
        x0 = images_to_x(pixels)
        noise = normals(self._keys("noise", numbers), x0.shape[1:])
        denoiser = self.denoiser
        if self.recipe.network.dropout:
            network = functools.partial(self.network, drops=self._keys("dropout", numbers))
            denoiser = replace(denoiser, network=network)
        weight = self.levels.error_weights(t)
        weighted = {} if weight is None else {"weight": weight}  # the bound takes none
        return LOSSES[self.recipe.objective.loss](denoiser, x0, t, noise=noise, labels=labels, **weighted)

    def _keys(self, purpose: str, numbers: Tensor) -> Tensor:
        return stream_keys(purpose, self.recipe.seed, numbers)

    def _finish(self, t: Tensor, losses: Tensor, loss: Tensor) -> None:
        """Use the gradient, and note what the step was."""
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.training.clip_norm)
        sound = torch.isfinite(loss) & torch.isfinite(norm)
        self._update(sound)
        self.updates += 1
        self.levels.learn(t, losses, sound)
        self.images_seen += len(t)
        self.losses.append(loss)
        self.norms.append(norm)
        if self.fused or not sound:
            self._steps.append(_Step(self.images_seen, t, losses, loss, norm))
        if len(self._steps) >= KEPT_STEPS:
            self.faults()

    def _update(self, sound: Tensor) -> None:
        """A step of Adam and of the EMA; exactly nothing where loss or gradient are not finite.

        sound  that they are: a flag on the device. A masked step is done by the device itself; on the CPU the flag can
               be read without waiting.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate
        decay = ema_decay(self.recipe, self.updates)
        if self.fused:
            self.optimiser.found_inf = (~sound).float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler does
            self.optimiser.step()
            follow_masked(self.ema, self.network, decay, sound)
        elif sound:
            self.optimiser.step()
            follow(self.ema, self.network, decay)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.rate_share * learning_rate(self.recipe, self.images_seen)

    def _see(self, network: nn.Module, given: object, output: Tensor) -> None:
        """Note how much the prediction varies over images and pixels: the largest standard deviation of a channel."""
        prediction = output.detach()[:, : self.recipe.geometry.channels].float()
        deviation = prediction.std(dim=(0, 2, 3), correction=0).amax()
        self.variation = torch.maximum(self.variation, deviation)  # of the parts of a batch

    def _dropped(self, labels: Tensor, numbers: Tensor) -> Tensor:
        """Classes, some of them replaced by no class, so that the network learns to do without (Ho & Salimans 2022)."""
        share = self.recipe.training.label_dropout
        if not share:
            return labels
        drop = uniforms(self._keys("label dropout", numbers)) < share
        return labels.masked_fill(drop, self.recipe.network.classes or 0)

    def mean_loss(self) -> float:
        """The mean of the finite losses since take_loss, summed in float64; NaN if there was none."""
        return _finite_mean(self.losses)

    def mean_norm(self) -> float:
        """The mean of the finite norms of the gradient, before it was clipped, likewise."""
        return _finite_mean(self.norms)

    def faults(self) -> list[dict[str, Any]]:
        """The steps since take_loss that were left out: images seen after each, the levels of images whose loss is not
        finite, the loss, and the norm of the gradient."""
        if self._steps:  # the device is waited for once
            values = torch.stack([torch.stack([step.loss, step.norm]) for step in self._steps])
            sound = torch.isfinite(values).all(1).tolist()
            self._faults += [step.fault() for step, fine in zip(self._steps, sound, strict=True) if not fine]
        self._steps.clear()
        return self._faults

    def take_loss(self) -> float:
        """The mean loss since the last call; norms and faults are forgotten with it."""
        mean = self.mean_loss()
        self.losses.clear()
        self.norms.clear()
        self._steps.clear()
        self._faults = []
        return mean

    def finite(self) -> bool:
        """Whether all weights, and their EMA, are numbers."""
        weights: list[Tensor] = [*self.network.parameters(), *self.ema.parameters()]
        largest = torch.stack(torch._foreach_norm(weights, math.inf))  # NaN where one is NaN
        return bool(torch.isfinite(largest).all())

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
            "losses": _numbers(self.losses),
            "norms": _numbers(self.norms),
            "faults": list(self.faults()),
            "optimiser": self.optimiser.state_dict(),
            **self.levels.state(),
            "noise": NOISE_VERSION,
        }

    def restore(self, weights: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Become the learner whose weights() and state() these were."""
        self.ema.load_state_dict(weights["ema"])
        self.network.load_state_dict(weights["raw"])
        moments = {"state": state["optimiser"]["state"]}  # the settings beside them are the recipe's
        self.optimiser.load_state_dict(self.optimiser.state_dict() | moments)
        self.updates = state["updates"]
        self.images_seen = state["images_seen"]
        self.losses = [torch.tensor(loss, device=self.device) for loss in state["losses"]]
        self.norms = [torch.tensor(norm, device=self.device) for norm in state.get("norms", [])]
        self._faults = list(state.get("faults", []))
        self.levels.restore(state)


def _numbers(values: list[Tensor]) -> list[float]:
    return list(torch.stack(values).tolist()) if values else []


def _finite_mean(values: list[Tensor]) -> float:
    found = torch.stack(values).cpu().double() if values else torch.full((1,), math.nan)
    return float(found[torch.isfinite(found)].mean())
