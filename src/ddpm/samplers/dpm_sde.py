"""SDE-DPM-Solver++(2M): the reverse SDE, to second order in the clean image (Lu et al. 2022b, eq. 19).

The clean image is taken as linear in l and integrated exactly: a step weights it by e^(z u), u from 0 to 1 along the
step, so what counts is the image at the centre of that weight, which lies past the middle the more the longer the step.
(The published formula takes the middle, which is the limit of short steps; diffusers calls the two solver_type
"midpoint" and "heun".)
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.schedule import Schedule
from ddpm.samplers.base import Noise, State
from ddpm.samplers.dpm import dpm_solver


def dpm_solver_sde(
    denoiser: Denoiser,
    x: Tensor,
    *,
    chain: Schedule,
    noise: Noise,
    labels: Tensor | None = None,
    eta: float = 1.0,
) -> Iterator[State]:
    """DPM-Solver++(2M) with noise: one network call and one noise a step, none at the last. See dpm.dpm_solver."""
    return dpm_solver(denoiser, x, chain=chain, noise=noise, labels=labels, eta=eta, at=weighted_centre)


def weighted_centre(z: float) -> float:
    """The centre of the weight e^(z u) over u in [0, 1]: 1 / (1 - e^-z) - 1 / z, from 1/2 at z = 0 towards 1."""
    return 0.5 + z / 12 if z < SMALL else -1 / math.expm1(-z) - 1 / z


SMALL = 1e-4  # below it, the next term of the series is under 1e-14
