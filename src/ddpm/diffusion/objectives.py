"""Training objectives: L_simple, the variational bound, their hybrid; and which levels they are taken at.

Ho et al. 2020, eqs. 5, 12 and 14; Nichol & Dhariwal 2021, sec. 3.1 (hybrid) and 3.3 (importance-sampled levels).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ddpm.base.noise import halves, uniforms
from ddpm.base.tensors import float64_on, mean_over_image
from ddpm.diffusion.bound import term_nats
from ddpm.diffusion.denoiser import Denoiser, Output

HYBRID_WEIGHT = 1e-3  # of the whole bound beside L_simple (Nichol & Dhariwal 2021, sec. 3.1)
REMEMBERED = 10  # losses kept of each level
UNIFORM_SHARE = 1e-3  # of the importance-sampled levels, so that none is ever left out


def simple_loss(denoiser: Denoiser, x0: Tensor, t: Tensor, *, noise: Tensor, labels: Tensor | None = None) -> Tensor:
    """Squared error of the network against its target, averaged over each image (eq. 14).

    x0       (B, C, H, W) in [-1, 1]
    t        (B,) levels in 1..T, on the device of x0
    noise    (B, C, H, W) standard normal
    labels   (B,) or None
    returns  (B,) float32 or better; the paper's sum over pixels becomes a mean, as in its official code
    """
    xt = denoiser.process.q_sample(x0, t, noise=noise)
    return _squared_error(denoiser, denoiser.output(xt, t, labels), x0, t, noise)


def bound_loss(denoiser: Denoiser, x0: Tensor, t: Tensor, *, noise: Tensor, labels: Tensor | None = None) -> Tensor:
    """One term of the bound (eq. 5), in bits per dimension: L_{t-1}, or L_0 at t = 1; its mean over t is L / T.

    Arguments as in simple_loss; the gradient reaches the mean and, if it is learned, the variance. L_T has no weights.
    """
    xt = denoiser.process.q_sample(x0, t, noise=noise)
    return _bits(denoiser, denoiser.output(xt, t, labels), x0, xt, t)


def hybrid_loss(denoiser: Denoiser, x0: Tensor, t: Tensor, *, noise: Tensor, labels: Tensor | None = None) -> Tensor:
    """L_simple for the mean, and a thousandth of the bound for the learned variance alone. Arguments as above."""
    xt = denoiser.process.q_sample(x0, t, noise=noise)
    output = denoiser.output(xt, t, labels)
    fixed = Output(output.prediction.detach(), output.spread)
    weight = HYBRID_WEIGHT * denoiser.process.schedule.steps
    return _squared_error(denoiser, output, x0, t, noise) + weight * _bits(denoiser, fixed, x0, xt, t)


def _squared_error(denoiser: Denoiser, output: Output, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    target = denoiser.process.target(denoiser.prediction, x0, t, noise=noise)
    return mean_over_image((target - output.prediction) ** 2)


def _bits(denoiser: Denoiser, output: Output, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    chain = denoiser.process.schedule
    gaussian = replace(denoiser, threshold="none").read(output, xt, t, chain=chain).gaussian
    return term_nats(gaussian, x0, xt, t, chain=chain) / (x0[0].numel() * math.log(2))


Objective = Callable[..., Tensor]
LOSSES: dict[str, Objective] = {"simple": simple_loss, "bound": bound_loss, "hybrid": hybrid_loss}
LEVEL_SAMPLING = ("uniform", "importance")


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
