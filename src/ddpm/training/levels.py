"""Which levels a step learns at, and what their losses count.

Nichol & Dhariwal 2021, sec. 3.3 (levels by importance); Karras et al. 2022, sec. 5 (log-normal levels, errors in
units); Hang et al. 2023 (min-SNR); Karras et al. 2024, eqs. 14-15 (learned uncertainty).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddpm.base.noise import halves, uniforms
from ddpm.base.tensors import float64_on, on_device
from ddpm.diffusion.objectives import log_normal, min_snr
from ddpm.diffusion.process import Process
from ddpm.model.recipe import Recipe
from ddpm.networks.linear import LinearDenoiser

REMEMBERED = 10  # losses kept of each level
UNIFORM_SHARE = 1e-3  # of the importance-sampled levels, so that none is ever left out
KNOTS = 64  # of the learned uncertainty, or as many as there are levels
MEMORY = 50  # images at a knot over which its uncertainty forgets


def draw_levels(keys: Tensor, steps: int, probabilities: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Draw one level per image: t int64 (B,) in 1..T, and the weights 1 / (T p_t) that keep the loss unbiased, (B,).

    keys           (B,) streams of random words (base/noise.py), one an image; all is done on their device
    steps          T
    probabilities  (T,) of the levels 1..T; None is uniform
    """
    if probabilities is None:
        return 1 + (halves(keys, 1)[0][:, 0] * steps >> 32), torch.ones(len(keys), device=keys.device)
    edges = probabilities.cumsum(0)
    index = torch.searchsorted(edges[:-1], uniforms(keys).to(edges) * edges[-1], right=True)
    return index + 1, (1 / (steps * probabilities[index])).float()


class LossHistory:
    """The last losses met at each level, on a device, and the probabilities that follow from them.

    losses  (T * REMEMBERED + 1,) rings of the levels 1..T, NaN where there were no losses yet; the last takes what is
            not remembered
    counts  (T,) how many losses each ring has had
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        self.losses = torch.full((steps * REMEMBERED + 1,), math.nan, dtype=float64_on(device), device=device)
        self.counts = torch.zeros(steps, dtype=torch.int64, device=device)

    def remember(self, t: Tensor, losses: Tensor, sound: Tensor) -> None:
        """Add the losses (B,) met at levels t (B,), in their order; nothing where the flag `sound` () is not set."""
        level, place = t - 1, torch.arange(len(t), device=t.device)
        same = level[:, None] == level
        before, after = (same & (place < place[:, None])).sum(1), (same & (place > place[:, None])).sum(1)
        # Of more losses than a ring holds only the last are written: two for one place would come in any order.
        ring = level * REMEMBERED + (self.counts[level] + before) % REMEMBERED
        where = torch.where(sound & (after < REMEMBERED), ring, len(self.losses) - 1)
        self.losses[where] = losses.to(self.losses.dtype)
        self.counts.index_add_(0, level, sound.expand(len(t)).long())

    def probabilities(self) -> Tensor:
        """Of the levels 1..T, (T,): uniform until every level has a full ring, then as sqrt(E loss^2).

        That makes the variance of the weighted loss least (Nichol & Dhariwal 2021, eq. 18). Losses that are no numbers,
        or all zero, also leave it uniform.
        """
        rings = self._newest_last()
        size = rings.square().mean(1).sqrt()
        known = torch.isfinite(rings).all() & (rings != 0).any()
        share = torch.where(known, size / size.sum(), 1 / len(size))
        return UNIFORM_SHARE / len(size) + (1 - UNIFORM_SHARE) * share

    def table(self) -> Tensor:
        """The losses as they are stored: (T, REMEMBERED) float64 on the CPU, newest last."""
        return self._newest_last().cpu().double()

    def restore(self, table: Tensor) -> None:
        """Become the history whose table this was."""
        self.losses[:-1] = table.to(self.losses).flatten()
        self.counts.zero_()

    def _newest_last(self) -> Tensor:
        """(T, REMEMBERED), so that its sums are the same whether or not a run was interrupted."""
        turned = (self.counts[:, None] + torch.arange(REMEMBERED, device=self.counts.device)) % REMEMBERED
        return self.losses[:-1].reshape(-1, REMEMBERED).gather(1, turned)


class Uncertainty:
    """u of each level, whose losses count exp(-u): learned with the network (Karras et al. 2024, eqs. 14-15).

    What is minimised is exp(-u) loss + u, over u as well: exp(u) becomes the mean of the level's losses, and all levels
    come to count 1. Where the derivative 1 - exp(-u) loss vanishes on average is found as a running mean finds it.

    u  at knots from level 1 to T, linear between them; 0 at first, as errors of unit size want it
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        self.u = torch.zeros(min(KNOTS, steps), dtype=float64_on(device), device=device)
        self._places = np.linspace(0, len(self.u) - 1, steps)

    def weights(self, t: Tensor) -> Tensor:
        """exp(-u) at levels t (B,): (B,)"""
        return torch.exp(-(self._hats(t) * self.u).sum(1))

    def learn(self, t: Tensor, losses: Tensor, sound: Tensor) -> None:
        """Take up the losses (B,) met at levels t (B,); nothing where the flag `sound` () is not set."""
        hats = self._hats(t)
        met = hats.sum(0)
        ratios = (hats * (self.weights(t) * losses)[:, None]).sum(0) / met.clamp(min=1e-30)
        gain = 1 - (1 - 1 / MEMORY) ** met
        # exp(u) <- (1 - gain) exp(u) + gain * losses, in logarithms: any number of images at once stays between them.
        self.u = torch.where(sound, self.u + torch.log1p(gain * (ratios - 1)), self.u)

    def table(self) -> Tensor:
        """u as it is stored: float64 on the CPU."""
        return self.u.cpu().double()

    def restore(self, table: Tensor) -> None:
        """Become what this was the table of."""
        self.u = table.to(self.u)

    def _hats(self, t: Tensor) -> Tensor:
        """The share of each knot in each of the levels t (B,): (B, knots), rows of sum 1."""
        places = on_device(self._places, t.device, self.u.dtype)[t - 1]
        return (1 - (places[:, None] - torch.arange(len(self.u), device=t.device)).abs()).clamp(min=0)


class LevelRule:
    """The levels of each step and what their losses count, by a recipe, with what is learned of them on the way.

    network      that learns
    history      of losses, where levels are drawn by importance
    uncertainty  where it weighs
    """

    def __init__(self, recipe: Recipe, network: nn.Module, device: torch.device) -> None:
        objective, schedule = recipe.objective, recipe.process.make_schedule()
        self.steps = schedule.steps
        self.history = LossHistory(self.steps, device) if objective.levels == "importance" else None
        self.uncertainty = Uncertainty(self.steps, device) if objective.weighting == "uncertainty" else None
        fixed = objective.levels == "log-normal"
        self._probabilities = log_normal(schedule, objective.level_mean, objective.level_std) if fixed else None
        clean = objective.weighting == "min-snr"
        self._min_snr = min_snr(Process(schedule), objective.prediction) if clean else None
        in_units = objective.weighting in ("unit", "uncertainty")
        self._unit = network if in_units and isinstance(network, LinearDenoiser) else None

    def draw(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Levels and weights, each (B,), see draw_levels; log-normal levels are the objective's own: weights of 1."""
        if self._probabilities is None:
            return draw_levels(keys, self.steps, self.history.probabilities() if self.history else None)
        t, _ = draw_levels(keys, self.steps, on_device(self._probabilities, keys.device, float64_on(keys.device)))
        return t, torch.ones(len(t), device=t.device)

    def error_weights(self, t: Tensor) -> Tensor | None:
        """Of squared errors at levels t (B,), before what is learned: (B,), or None where all count 1."""
        if self._min_snr is not None:
            return on_device(self._min_snr, t.device, torch.float32)[t]
        return 1 / self._unit.squared_error(t - 1) if self._unit is not None else None

    def counted(self, t: Tensor, values: Tensor) -> Tensor:
        """Losses, or weights of losses, (B,) at levels t (B,) times what learned uncertainty has them count."""
        return values * self.uncertainty.weights(t).to(values.dtype) if self.uncertainty else values

    def learn(self, t: Tensor, losses: Tensor, sound: Tensor) -> None:
        """Take up a step's losses (B,) at levels t (B,); nothing where the flag `sound` () is not set."""
        if self.history:  # what counts has the least variance, not what was met
            self.history.remember(t, self.counted(t, losses), sound)
        if self.uncertainty:
            self.uncertainty.learn(t, losses, sound)

    def state(self) -> dict[str, Tensor | None]:
        """What was learned, by the names of a training state."""
        parts = {"history": self.history, "uncertainty": self.uncertainty}
        return {name: part.table() if part else None for name, part in parts.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what a state holds; a part that did not learn before begins afresh."""
        for name, part in (("history", self.history), ("uncertainty", self.uncertainty)):
            table = state.get(name)
            if part and table is not None and len(table):
                part.restore(table)
