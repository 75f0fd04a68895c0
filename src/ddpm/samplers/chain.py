"""From seeds to the states of their chains: one seed an image, the same picture in any batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddpm.denoiser import REVERSE_VARIANCES, Denoiser
from ddpm.errors import InputError
from ddpm.geometry import Geometry
from ddpm.samplers.ancestral import ancestral
from ddpm.samplers.state import Sampler, State
from ddpm.seeding import normal

SAMPLERS: dict[str, Sampler] = {"ancestral": ancestral}


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn.

    sampler     one of SAMPLERS
    steps       levels to visit, evenly spread from 1 to T; None visits all
    variance    of the reverse steps, one of REVERSE_VARIANCES; None is the model's own
    class_name  the class of all pictures; None draws one from each seed (if the model takes classes)
    """

    sampler: str = "ancestral"
    steps: int | None = None
    variance: str | None = None
    class_name: str | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise InputError(f"there is no sampler '{self.sampler}'; there are {', '.join(SAMPLERS)}.")
        if self.variance not in (None, *REVERSE_VARIANCES):
            raise InputError(f"there is no variance '{self.variance}'; there are {', '.join(REVERSE_VARIANCES)}.")


PAPER = Sampling()


def run_chain(
    denoiser: Denoiser,
    geometry: Geometry,
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    labels: Tensor | None = None,
    device: torch.device,
) -> Iterator[State]:
    """The states of one batch of chains; the noise is a function of (seed, level) alone.

    seeds   B integers, one an image
    labels  (B,) integers or None
    """
    if sampling.variance is not None:
        denoiser = replace(denoiser, variance=sampling.variance)
    schedule = denoiser.process.schedule
    chain = schedule if sampling.steps is None else schedule.strided(sampling.steps)

    def noise(level: int) -> Tensor:
        return normal("sample", seeds, level, geometry.shape).to(device)

    return SAMPLERS[sampling.sampler](denoiser, noise(int(chain.levels[-1])), chain=chain, noise=noise, labels=labels)
