"""What a sampler hands out after each step, and what it is given: the signature all samplers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ddpm.denoiser import Denoiser
from ddpm.schedule import Schedule

Noise = Callable[[int], Tensor]
"""Standard normal noise (B, C, H, W) for the arrival at a level."""


@dataclass(frozen=True)
class State:
    """A point of the reverse chain.

    level  the level x lies at, 0 when the chain is done
    x      (B, C, H, W)
    start  the level the step began at
    x0     (B, C, H, W) the clean image predicted there
    """

    level: int
    x: Tensor
    start: int
    x0: Tensor


class Sampler(Protocol):
    """A generator of states from the first level down to 0."""

    def __call__(
        self, denoiser: Denoiser, x: Tensor, *, chain: Schedule, noise: Noise, labels: Tensor | None = None
    ) -> Iterator[State]:
        """x (B, C, H, W) at the chain's last level; labels (B,) or None."""
        ...
