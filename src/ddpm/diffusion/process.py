"""The forward process q, exact and unlearned: jumps, posteriors, and the identities among x0, eps, v and mu.

Ho et al. 2020, eqs. 2, 4, 6, 7, 11; v is Salimans & Ho 2022, sec. 4. Every function takes indices into the
process's schedule; formulas are evaluated from float64 tables in the dtype of the images.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ddpm.base.tensors import gather
from ddpm.diffusion.schedule import Schedule
from ddpm.errors import known

PREDICTIONS = ("eps", "x0", "v", "mean")
Level = int | Tensor
"""An index into a schedule: one for all images, or one for each, (B,) on their device."""


@dataclass(frozen=True)
class Process:
    """q over the levels of one schedule.

    In all methods x0, xt, eps, v, mean and noise are (B, C, H, W), t is in 1..steps unless noted: one integer for all
    images, or (B,) integers on their device.
    """

    schedule: Schedule

    def q_sample(self, x0: Tensor, t: Level, *, noise: Tensor) -> Tensor:
        """Jump from clean images straight to level t (eq. 4); t = 0 returns x0 unchanged."""
        signal, sigma = self._scales(t, x0)
        return signal * x0 + sigma * noise

    def posterior_mean(self, x0: Tensor, xt: Tensor, t: Level) -> Tensor:
        """The mean of q(x_{t-1} | x_t, x_0) (eq. 7); its variance is schedule.posterior_variance."""
        schedule = self.schedule
        return gather(schedule.posterior_x0, t, x0) * x0 + gather(schedule.posterior_xt, t, xt) * xt

    def target(self, prediction: str, x0: Tensor, t: Level, *, noise: Tensor) -> Tensor:
        """The output of a perfect network for q_sample(x0, t, noise): eps, x0, v or the posterior mean."""
        known("prediction", prediction, PREDICTIONS)
        if prediction == "eps":
            return noise
        if prediction == "x0":
            return x0
        if prediction == "v":
            signal, sigma = self._scales(t, x0)
            return signal * noise - sigma * x0
        return self.posterior_mean(x0, self.q_sample(x0, t, noise=noise), t)

    def x0_from(self, prediction: str, output: Tensor, xt: Tensor, t: Level) -> Tensor:
        """Solve for the clean image from a prediction of eps, x0, v or the posterior mean."""
        known("prediction", prediction, PREDICTIONS)
        if prediction == "x0":
            return output
        if prediction == "mean":
            rest = output - gather(self.schedule.posterior_xt, t, xt) * xt
            return rest / gather(self.schedule.posterior_x0, t, xt)
        signal, sigma = self._scales(t, xt)
        return (xt - sigma * output) / signal if prediction == "eps" else signal * xt - sigma * output

    def _scales(self, t: Level, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar), each () or (B, 1, 1, 1)."""
        return gather(self.schedule.signal, t, like), gather(self.schedule.sigma, t, like)
