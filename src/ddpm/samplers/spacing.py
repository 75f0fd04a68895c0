"""Which N of the levels a short chain visits; from the last of them the final step leads to the clean image.

All spacings start at T. The levels are whole for "uniform", real for the others: networks take both, except those
that predict the mean.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ddpm.base.tensors import Floats
from ddpm.diffusion.schedule import Schedule
from ddpm.errors import InputError

RHO = 7.0  # Karras et al. 2022, sec. 3
DIGITS = 9  # of a level: those that are whole but for rounding become whole


def spaced(schedule: Schedule, name: str, steps: int) -> Schedule:
    """The chain over N = steps levels of the full process, spread by one of SPACINGS."""
    most = schedule.steps
    if not 1 <= steps <= most:
        raise InputError(f"a process of {most} steps has no chain of {steps}; choose 1 to {most}.")
    return schedule.at(SPACINGS[name](schedule, steps).clip(1, schedule.steps).round(DIGITS))


def uniform(schedule: Schedule, steps: int) -> Floats:
    """Uniform in t, T / N, 2 T / N, ..., T, rounded: all steps are equally long, the last one too."""
    levels: Floats = np.rint(np.arange(1, steps + 1) * (schedule.steps / steps))
    return levels


def quadratic(schedule: Schedule, steps: int) -> Floats:
    """Uniform in sqrt(t), from T down to T / N^2 or 1: denser near the clean image (Song et al. 2021, App. D.2)."""
    root = np.sqrt(schedule.steps)
    return np.linspace(root, max(root / steps, 1), steps) ** 2


def log_snr(schedule: Schedule, steps: int) -> Floats:
    """Uniform in the log-SNR, from level T down to level 1 (Lu et al. 2022a, sec. 3.4)."""
    return _levels(schedule, np.linspace(schedule.log_snr[-1], schedule.log_snr[1], steps))


def karras(schedule: Schedule, steps: int) -> Floats:
    """sigma^(1/7) uniform from level T to level 1, sigma = SNR^(-1/2) (Karras et al. 2022, eq. 5)."""
    first, last = schedule.snr[-1] ** (-0.5 / RHO), schedule.snr[1] ** (-0.5 / RHO)
    return _levels(schedule, -2 * RHO * np.log(np.linspace(first, last, steps)))


def _levels(schedule: Schedule, log_snrs: Floats) -> Floats:
    return np.array([schedule.level_at(value) for value in log_snrs.tolist()])


SPACINGS: dict[str, Callable[[Schedule, int], Floats]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "log-snr": log_snr,
    "karras": karras,
}
