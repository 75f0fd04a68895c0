"""The progressive layer: a diffusion chain walked down from shared noise, each step's noise chosen by index bits.

At step k both sides hold the state x at level t_k and ask the same denoiser for the clean image x0 (Ho et al. 2020,
eq. 15). The decoder's next state is N(A x + B x0, v + B^2 w): A, B and v are the posterior's (eq. 7) along the levels
of the codec, w the mean squared error of x0 that was measured at t_k. The encoder knows the image, wants the posterior
N(A x + B image, v), and picks index bits whose noise is nearest to that (trellis.py). So every whole step of the file
is a state of the chain, every state is an image, and nothing but the bits has to be exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ddpm.base.progress import Advance, unheard
from ddpm.base.tensors import Floats, Integers, to_device
from ddpm.codec.randomness import START, UNIT, normals
from ddpm.codec.trellis import Bits, noise, simulate
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.model.model import some_weight

View = Callable[[Tensor, int, Tensor | None], Tensor]
"""Of states after a number of steps, with their labels: clean images."""


@dataclass(frozen=True)
class Step:
    """From level t_k to the next: x_next = keep * x + pull * x0 + spread * noise.

    share  of the posterior in the variance
    bits   that the step costs
    """

    number: int
    keep: float
    pull: float
    spread: float
    share: float
    bits: int

    def nats(self, wanted: Tensor) -> Tensor:
        """KL(posterior || model) of each image (B,), for the means (B, D) that the encoder wanted."""
        of_variances = 0.5 * (self.share - 1 - math.log(self.share))  # a dimension
        return wanted.shape[1] * of_variances + 0.5 * (wanted**2).sum(1)


@dataclass(frozen=True, eq=False)
class Walk:
    """How an encoder came down.

    bits       of each step, (B, n)
    x          (B, C, H, W) where it ended, on the network's device
    nats       (K, B) the divergence that each step was asked for, KL(posterior || model)
    delivered  (K, B) the divergence that its noise delivered: that of a shift as long as the noise's projection
    """

    bits: list[Bits]
    x: Tensor
    nats: Floats
    delivered: Floats


@dataclass(frozen=True, eq=False)
class Chain:
    """A denoiser and the levels of a codec.

    denoiser  in float64, clean images clipped to [-1, 1]
    levels    (K + 1,) falling, from T to the stop
    errors    (K + 1,) mean squared error of x0 at each of them, on the scale of [-1, 1]
    bits      (K,) index bits of each step
    """

    denoiser: Denoiser
    levels: tuple[int, ...]
    errors: tuple[float, ...]
    bits: tuple[int, ...]

    @cached_property
    def schedule(self) -> Schedule:
        """Over the codec's levels; index K + 1 - k is where step k starts."""
        return self.denoiser.process.schedule.subset(self.levels)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps, from T down."""
        chain, found = self.schedule, []
        for number, (error, bits) in enumerate(zip(self.errors[:-1], self.bits, strict=True)):
            index = len(self.levels) - number
            pull, variance = float(chain.posterior_x0[index]), float(chain.posterior_variance[index])
            model = variance + pull**2 * error
            keep = float(chain.posterior_xt[index])
            found.append(Step(number, keep, pull, model**0.5, variance / model, bits))
        return tuple(found)

    def start(self, seeds: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> Tensor:
        """The states at level T, (B, C, H, W) float64 on the device, of tiles by (seed, number of the tile)."""
        size = int(np.prod(shape))
        rows = np.array([normals(START, seed, tile, count=size) for seed, tile in seeds], np.float64).reshape(-1, size)
        return to_device(torch.from_numpy(rows * UNIT), self.device).reshape(len(seeds), *shape)

    def x0(self, x: Tensor, number: int, labels: Tensor | None = None) -> Tensor:
        """The clean image seen from states (B, C, H, W) on the device at levels[number], float64, there."""
        with torch.no_grad():
            return self.denoiser.x0(x, len(self.levels) - number, labels, chain=self.schedule)

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        assert isinstance(self.denoiser.network, torch.nn.Module)
        return some_weight(self.denoiser.network).device

    def encode(
        self,
        images: Tensor,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        steps: int | None = None,
        advance: Advance = unheard,
    ) -> Walk:
        """Walk down beside known images (B, C, H, W), from the states x at level T, for some or all steps.

        All of it is on the network's device, which nothing waits for before the end.
        """
        bits, nats, delivered = [], [], []
        for step in self.steps[:steps]:
            x0 = self.x0(x, step.number, labels)
            wanted = ((images - x0) * (step.pull / step.spread)).flatten(1)
            bits.append(simulate(wanted, step.share, step.bits, step.number))
            given = noise(bits[-1], step.number, wanted.shape[1])
            length = (wanted**2).sum(1).sqrt().clamp(min=1e-300)
            nats.append(step.nats(wanted))
            delivered.append(0.5 * ((given * wanted).sum(1) / length) ** 2)
            x = self._advance(x, x0, step, given)
            advance(len(x))
        table = (torch.stack(one).cpu().numpy() if one else np.empty((0, len(x))) for one in (nats, delivered))
        return Walk([one.cpu().numpy() for one in bits], x, *table)

    def decode(
        self,
        bits: Sequence[Bits],
        x: Tensor,
        counts: Integers,
        labels: Tensor | None = None,
        *,
        advance: Advance = unheard,
        on_x0: Callable[[Tensor], None] = lambda x0: None,
    ) -> Tensor:
        """The states that index bits lead to from the states x at level T.

        bits    for each step, those of the tiles that have it (.., n), in the order of the tiles
        counts  (B,) how many steps each tile has
        on_x0   called with the clean images seen after 0, 1, ... steps, before the last
        """
        x = x.clone()
        for step, here in zip(self.steps, bits, strict=False):
            active = np.flatnonzero(counts > step.number)
            if not len(active):
                break
            rows, sent = (to_device(torch.from_numpy(one), x.device) for one in (active, here))
            x0 = self.x0(x[rows], step.number, None if labels is None else labels[rows])
            on_x0(x0)
            x[rows] = self._advance(x[rows], x0, step, noise(sent, step.number, x[0].numel()))
            advance(len(active))
        return x

    def clean(
        self, x: Tensor, counts: Integers, labels: Tensor | None = None, *, batch_size: int, view: View | None = None
    ) -> Tensor:
        """The clean images seen from states (B, C, H, W) after so many steps each (B,).

        x       on the CPU, as the result is
        labels  on the device
        view    None is x0
        """
        out = torch.empty_like(x)
        for count in np.unique(counts):
            for rows in torch.split(torch.from_numpy(np.flatnonzero(counts == count)), batch_size):
                here = to_device(x[rows], self.device)
                out[rows] = (view or self.x0)(here, int(count), None if labels is None else labels[rows]).cpu()
        return out

    def _advance(self, x: Tensor, x0: Tensor, step: Step, given: Tensor) -> Tensor:
        """The next states, from the noise (B, D) that index bits stand for: the same arithmetic on both sides."""
        return step.keep * x + step.pull * x0 + step.spread * given.reshape(x.shape)
