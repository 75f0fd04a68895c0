"""Noise schedules: how much of the image is left at each level of the forward process (Ho et al. 2020, sec. 2).

A *level* is the timestep t of a process that starts at 0: level 0 is the clean image, levels 1..T are the paper's
timesteps, level T is almost pure noise. Samplers and the ODE also visit real levels between the whole ones. (Published
networks count their time input from 0 at level 1; only `Denoiser.output` translates.)

Everything follows from one float64 table, alpha_bar[0..T] = prod(1 - beta), with alpha_bar[0] = 1. A *chain* over some
of the levels is a schedule too, with a posterior of its own; its *steps* 1..S are indices into its levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ddpm.base.tensors import Floats
from ddpm.errors import InputError, known

VARIANCES = ("large", "small")


@dataclass(frozen=True, eq=False)
class Schedule:
    """The float64 tables of a chain of S steps, each indexed by step 0..S (index 0 is the clean image).

    alpha_bar  (S + 1,) squared signal scale, 1 at index 0, strictly decreasing, above 0
    levels     (S + 1,) the level of the full process each index stands for: integers, or reals for a chain from `at`
    """

    alpha_bar: Floats
    levels: NDArray[Any]

    def __post_init__(self) -> None:
        a = self.alpha_bar
        if len(a) < 2 or len(a) != len(self.levels) or a[0] != 1 or not (np.diff(a) < 0).all() or not a[-1] > 0:
            raise InputError("a schedule's alpha_bar must fall strictly from 1 and stay above 0.")
        object.__setattr__(self, "alpha_bar", _read_only(a.astype(np.float64)))
        kind = np.float64 if self.levels.dtype.kind == "f" else np.int64
        object.__setattr__(self, "levels", _read_only(self.levels.astype(kind)))

    @property
    def steps(self) -> int:
        """S, the number of steps of the chain; T for the full process."""
        return len(self.alpha_bar) - 1

    @cached_property
    def beta(self) -> Floats:
        """Variance that one forward step adds, 1 - alpha_bar[i] / alpha_bar[i - 1]; 0 at index 0."""
        return _read_only(np.concatenate([[0.0], 1 - self.alpha_bar[1:] / self.alpha_bar[:-1]]))

    @cached_property
    def log_beta(self) -> Floats:
        """ln beta; very negative at index 0."""
        return _read_only(np.log(np.maximum(self.beta, 1e-300)))

    @cached_property
    def stride(self) -> Floats:
        """Levels of the full process that each step goes down; 0 at index 0."""
        return _read_only(np.diff(self.levels, prepend=self.levels[:1]).astype(np.float64))

    @cached_property
    def signal(self) -> Floats:
        """What is left of the clean image, sqrt(alpha_bar)."""
        return _read_only(np.sqrt(self.alpha_bar))

    @cached_property
    def sigma(self) -> Floats:
        """Standard deviation of the noise beside it, sqrt(1 - alpha_bar); 0 at index 0."""
        return _read_only(np.sqrt(1 - self.alpha_bar))

    @cached_property
    def snr(self) -> Floats:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar); infinite at index 0."""
        with np.errstate(divide="ignore"):
            return _read_only(self.alpha_bar / (1 - self.alpha_bar))

    @cached_property
    def log_snr(self) -> Floats:
        """ln(alpha_bar / (1 - alpha_bar)), strictly decreasing; infinite at index 0."""
        return _read_only(np.log(self.snr))

    def log_snr_at(self, level: float) -> float:
        """log_snr at a real level in [1, T] of the full process: linear between whole levels."""
        assert self.steps == self.levels[-1], "a chain that leaves out levels has no levels between them"
        assert 1 <= level <= self.steps, level
        return float(np.interp(level, self.levels[1:], self.log_snr[1:]))

    def alpha_bar_at(self, level: float) -> float:
        """alpha_bar at a real level in [1, T] of the full process, see log_snr_at."""
        return float(1 / (1 + np.exp(-self.log_snr_at(level))))

    def level_at(self, log_snr: float) -> float:
        """The real level in [1, T] of the full process whose log-SNR is log_snr; outside its range, 1 or T."""
        assert self.steps == self.levels[-1], "a chain that leaves out levels has no levels between them"
        level = np.interp(-log_snr, -self.log_snr[1:], self.levels[1:])
        return min(float(level), float(self.steps))  # rounding may lead an ulp beyond T

    @cached_property
    def posterior_x0(self) -> Floats:
        """Weight of x_0 in the mean of q(x_{i-1} | x_i, x_0) (eq. 7); index 0 unused (0)."""
        a = self.alpha_bar
        return _read_only(np.concatenate([[0.0], np.sqrt(a[:-1]) * self.beta[1:] / (1 - a[1:])]))

    @cached_property
    def posterior_xt(self) -> Floats:
        """Weight of x_i in the mean of q(x_{i-1} | x_i, x_0) (eq. 7); index 0 unused (0)."""
        a = self.alpha_bar
        return _read_only(np.concatenate([[0.0], (1 - a[:-1]) * np.sqrt(1 - self.beta[1:]) / (1 - a[1:])]))

    @cached_property
    def posterior_variance(self) -> Floats:
        """Variance of q(x_{i-1} | x_i, x_0) (eq. 7); 0 at indices 0 and 1."""
        a = self.alpha_bar
        return _read_only(np.concatenate([[0.0], self.beta[1:] * (1 - a[:-1]) / (1 - a[1:])]))

    def log_variance(self, kind: str) -> Floats:
        """Log-variance of the reverse steps: "large" is beta, "small" the posterior variance (sec. 3.2).

        The last reverse step (index 1) takes the posterior variance of index 2 under both, as the official code does;
        a chain of one step has no index 2 and takes beta. Index 0 is unused (0).
        """
        known("variance", kind, VARIANCES)
        return self._log_variances[VARIANCES.index(kind)]

    @cached_property
    def _log_variances(self) -> tuple[Floats, ...]:
        first = self.posterior_variance[2] if self.steps > 1 else self.beta[1]
        tables = (self.beta, self.posterior_variance)
        return tuple(_read_only(np.concatenate([[0.0], np.log([first, *table[2:]])])) for table in tables)

    def subset(self, levels: Iterable[int]) -> Schedule:
        """The chain over some of the levels (any order, level 0 implied), a process in its own right."""
        chosen = np.unique([0, *levels])
        if len(chosen) < 2 or chosen[0] < 0 or not np.isin(chosen, self.levels).all():
            raise InputError(f"a chain needs at least one level, all of them between 1 and {self.levels[-1]}.")
        index = np.searchsorted(self.levels, chosen)
        return Schedule(self.alpha_bar[index], self.levels[index])

    def at(self, levels: Iterable[float]) -> Schedule:
        """The chain over real levels in [1, T] of the full process (any order, level 0 implied); see alpha_bar_at.

        Whole levels alone make the very chain that `subset` makes.
        """
        chosen = np.unique(np.asarray([*levels], np.float64))
        if not len(chosen) or not (chosen >= 1).all() or not (chosen <= self.steps).all():
            raise InputError(f"a chain needs at least one level, all of them between 1 and {self.levels[-1]}.")
        if (chosen == np.rint(chosen)).all():
            return self.subset(chosen.astype(np.int64).tolist())
        alpha_bar = [self.alpha_bar_at(level) for level in chosen.tolist()]
        return Schedule(np.concatenate([[1.0], alpha_bar]), np.concatenate([[0.0], chosen]))


Array = TypeVar("Array", bound=NDArray[Any])


def _read_only(array: Array) -> Array:
    """Make NumPy refuse writes: a schedule is a value."""
    array.setflags(write=False)
    return array


def _warmup(fraction: float) -> Callable[[int, float, float], Floats]:
    def betas(steps: int, start: float, end: float) -> Floats:
        beta = np.full(steps, end)
        ramp = int(steps * fraction)
        beta[:ramp] = np.linspace(start, end, ramp)
        return beta

    return betas


def _cosine(steps: int, start: float, end: float) -> Floats:
    """Nichol & Dhariwal 2021, eq. 17, with beta capped at 0.999; start and end are not used."""
    angle = (np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2
    beta: Floats = np.minimum(1 - np.cos(angle[1:]) ** 2 / np.cos(angle[:-1]) ** 2, 0.999)
    return beta


BETAS: dict[str, Callable[[int, float, float], Floats]] = {
    "linear": lambda steps, start, end: np.linspace(start, end, steps),
    "quad": lambda steps, start, end: np.linspace(start**0.5, end**0.5, steps) ** 2,
    "const": lambda steps, start, end: np.full(steps, end),
    "warmup10": _warmup(0.1),
    "warmup50": _warmup(0.5),
    "cosine": _cosine,
}


def make_schedule(
    name: str = "linear", *, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
) -> Schedule:
    """Build the full process from the variances beta_1..beta_T of its forward steps.

    name      one of BETAS; "linear" with the defaults is the paper's
    steps     T, at least 1
    beta_...  in (0, 1), start <= end; cosine uses neither, const only the end
    """
    known("schedule", name, BETAS)
    if steps < 1 or not 0 < beta_start <= beta_end < 1:
        raise InputError("a schedule needs at least one step and 0 < beta_start <= beta_end < 1.")
    beta = BETAS[name](steps, beta_start, beta_end)
    return Schedule(np.concatenate([[1.0], np.cumprod(1 - beta)]), np.arange(steps + 1))
