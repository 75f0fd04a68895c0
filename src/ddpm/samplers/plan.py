"""How images are drawn: what a user chooses, checked, and the sampler and levels that follow from it."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, TypedDict

from ddpm.base.precision import PRECISIONS, STRICT
from ddpm.diffusion.denoiser import REVERSE_VARIANCES, THRESHOLDS
from ddpm.diffusion.schedule import Schedule
from ddpm.errors import InputError, known
from ddpm.samplers.ancestral import ancestral
from ddpm.samplers.base import Sampler
from ddpm.samplers.ddim import ddim
from ddpm.samplers.dpm import dpm_solver, dpm_solver_sde
from ddpm.samplers.heun import heun
from ddpm.samplers.spacing import SPACINGS, spaced
from ddpm.samplers.unipc import unipc

SAMPLERS: dict[str, Sampler] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "heun": heun,
    "dpm++": dpm_solver,
    "dpm++sde": dpm_solver_sde,
    "unipc": unipc,
}
ETA = {"ddim": (0.0, 1.0), "dpm++sde": (0.0, 2.0)}
"""The samplers whose noise has a strength, and the range of it."""
DEFAULT_ETA = {"ddim": 0.0, "dpm++sde": 1.0}
FAST = "dpm++sde"  # the sampler of short chains, if none is named
TUNED = "tuned"


@dataclass(frozen=True)
class Tuned:
    """Levels that `ddpm tune timesteps` found for one sampler and number of steps.

    levels  (N,) reals, rising
    eta     the noise that goes with them, None for samplers without
    """

    levels: tuple[float, ...]
    eta: float | None = None


@dataclass(frozen=True)
class Sampling:
    """How images are drawn.

    sampler     one of SAMPLERS; None is the paper's ancestral one on all levels or if a variance is chosen, else FAST
    steps       N, levels to visit; None visits all
    spacing     of N levels: one of SPACINGS, or "tuned" as `ddpm tune timesteps` found them; None is tuned where it can
                be, else uniform
    variance    of the ancestral sampler's steps, one of REVERSE_VARIANCES; None is the model's own
    eta         strength of the noise, see ETA; None is the sampler's own, or what was tuned
    threshold   of predicted clean images, one of denoiser.THRESHOLDS
    class_name  the class of all images; None draws one from each seed (if the model takes classes)
    guidance    weight of classifier-free guidance (Ho & Salimans 2022): 1 is the class as it was learned, more
                exaggerates it, 0 ignores it; for models trained with label drop-out
    precision   that the network computes in, one of precision.PRECISIONS
    """

    sampler: str | None = None
    steps: int | None = None
    spacing: str | None = None
    variance: str | None = None
    eta: float | None = None
    threshold: str = "static"
    class_name: str | None = None
    guidance: float = 1.0
    precision: str = STRICT

    def __post_init__(self) -> None:
        known("sampler", self.sampler, SAMPLERS)
        known("spacing", self.spacing, (*SPACINGS, TUNED))
        known("variance", self.variance, REVERSE_VARIANCES)
        known("threshold", self.threshold, THRESHOLDS)
        known("precision", self.precision, PRECISIONS)
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps must be at least 1, not {self.steps}.")
        if self.spacing is not None and self.steps is None:
            raise InputError(f"spacing '{self.spacing}' needs a number of steps: give --steps.")
        if self.variance is not None and self.method != "ancestral":
            raise InputError(f"sampler '{self.method}' takes no variance; choose --sampler ancestral, or leave it out.")
        if not math.isfinite(self.guidance):
            raise InputError(f"guidance must be a finite number, such as 1 or 2, not {self.guidance}.")
        if self.eta is not None:
            low, high = ETA.get(self.method, (0.0, 0.0))
            if self.method not in ETA:
                raise InputError(f"sampler '{self.method}' takes no eta; {' and '.join(ETA)} take one.")
            if not low <= self.eta <= high:
                raise InputError(f"eta of sampler '{self.method}' must be {low:g} to {high:g}, not {self.eta}.")

    @property
    def method(self) -> str:
        """The sampler's name, chosen if none was."""
        return self.sampler or ("ancestral" if self.steps is None or self.variance is not None else FAST)

    @property
    def may_be_tuned(self) -> bool:
        """Whether levels that `ddpm tune timesteps` found are used, if there are any."""
        return self.steps is not None and self.spacing in (None, TUNED)


class SamplingOptions(TypedDict, total=False):
    """The fields of Sampling, as keyword arguments."""

    sampler: str | None
    steps: int | None
    spacing: str | None
    variance: str | None
    eta: float | None
    threshold: str
    class_name: str | None
    guidance: float
    precision: str


@dataclass(frozen=True, eq=False)
class Plan:
    """A Sampling on one process.

    sampling  what was asked for
    sampler   with its eta
    chain     of the levels it visits
    spacing   their name: one of SPACINGS, "tuned" or "all"
    eta       None for samplers without
    """

    sampling: Sampling
    sampler: Sampler
    chain: Schedule
    spacing: str
    eta: float | None

    @property
    def calls(self) -> int:
        """Network calls (NFE) an image."""
        calls = 2 * self.chain.steps - 1 if self.sampling.method == "heun" else self.chain.steps
        return calls if self.sampling.guidance == 1 else 2 * calls


def plan(sampling: Sampling, schedule: Schedule, tuned: Tuned | None = None) -> Plan:
    """Choose the chain over the full process that a Sampling means.

    tuned  levels found for its sampler and number of steps, used if it allows
    """
    tuned = tuned if sampling.may_be_tuned else None
    if sampling.steps is None:
        chain, spacing = schedule, "all"
    elif tuned is not None:
        chain, spacing = schedule.at(tuned.levels), TUNED
    else:
        spacing = sampling.spacing or "uniform"
        chain = spaced(schedule, spacing, sampling.steps)
    name = sampling.method
    chosen = (sampling.eta, tuned.eta if tuned is not None else None, DEFAULT_ETA.get(name))
    eta = next((value for value in chosen if value is not None), None)
    given: dict[str, Any] = {} if eta is None else {"eta": eta}
    return Plan(sampling, functools.partial(SAMPLERS[name], **given), chain, spacing, eta)
