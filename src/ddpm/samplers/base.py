"""The signature that all samplers share: what they are given, and the states they yield."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule

Noise = Callable[[float], Tensor]
"""Standard normal noise (B, C, H, W) for the arrival at a level."""


@dataclass(frozen=True)
class State:
    """A point of the reverse chain.

    level  of x, 0 when the chain is done
    x      (B, C, H, W)
    start  the level the step began at
    x0     (B, C, H, W) the clean image predicted there
    """

    level: float
    x: Tensor
    start: float
    x0: Tensor


class Sampler(Protocol):
    """A generator of states from the chain's last level down to 0, one a step.

    The last step always arrives at alpha_bar = 1, without noise: its state is the last predicted clean image.
    """

    def __call__(
        self, denoiser: Denoiser, x: Tensor, *, chain: Schedule, noise: Noise, labels: Tensor | None = None
    ) -> Iterator[State]:
        """x (B, C, H, W) at the chain's last level; labels (B,) or None."""
        ...


def steps(chain: Schedule) -> Iterator[tuple[int, float, float]]:
    """A chain's steps from the noisiest down: index, the level it starts from, the level it arrives at."""
    for step in range(chain.steps, 0, -1):
        yield step, chain.levels[step].item(), chain.levels[step - 1].item()
