"""Which levels a step learns at.

Nichol & Dhariwal 2021, sec. 3.3 (importance-sampled levels).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddpm.base.noise import halves, uniforms
from ddpm.base.tensors import float64_on

REMEMBERED = 10  # losses kept of each level
UNIFORM_SHARE = 1e-3  # of the importance-sampled levels, so that none is ever left out


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
