"""DPM-Solver++(2M) fitted to a model: levels, noise and extrapolation as `ddpm tune --steps` measured them.

A solver's own coefficients are right when steps are short. With a handful of long ones, what serves best depends on the
network: how late its predictions settle, and how much noise they forgive. (Tables measured once of a model are the idea
of DPM-Solver-v3, Zheng et al. 2023; what is measured here are pictures, not derivatives.)
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ddpm.denoiser import Denoiser
from ddpm.samplers.dpm import dpm_solver
from ddpm.samplers.state import Noise, State
from ddpm.schedule import Schedule


def fitted(
    denoiser: Denoiser,
    x: Tensor,
    *,
    chain: Schedule,
    noise: Noise,
    labels: Tensor | None = None,
    eta: float = 1.0,
    reach: float = 1.0,
) -> Iterator[State]:
    """One network call a step, and one noise unless eta is 0; of first order unless reach is 1. See dpm.dpm_solver."""
    return dpm_solver(denoiser, x, chain=chain, noise=noise, labels=labels, eta=eta, reach=reach)
