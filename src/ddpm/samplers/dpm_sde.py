"""SDE-DPM-Solver++(2M): the reverse SDE, to second order in the clean image (Lu et al. 2022b, eq. 19)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ddpm.denoiser import Denoiser
from ddpm.samplers.dpm import dpm_solver
from ddpm.samplers.state import Noise, State
from ddpm.schedule import Schedule


def dpm_solver_sde(
    denoiser: Denoiser,
    x: Tensor,
    *,
    chain: Schedule,
    noise: Noise,
    labels: Tensor | None = None,
    eta: float = 1.0,
    reach: float = 1.0,
) -> Iterator[State]:
    """DPM-Solver++(2M) with noise: one network call and one noise a step, none at the last. See dpm.dpm_solver."""
    return dpm_solver(denoiser, x, chain=chain, noise=noise, labels=labels, eta=eta, reach=reach)
