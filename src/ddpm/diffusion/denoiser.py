"""The only translator of network output: from a prediction to x0, eps and the reverse Gaussian.

A network's time 0 is level 1: the shift by one happens in `Denoiser.output` and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ddpm.base.gaussians import Gaussian
from ddpm.base.tensors import float64_on, gather, on_device
from ddpm.diffusion.optimal_variance import Measured
from ddpm.diffusion.process import Level, Process
from ddpm.diffusion.schedule import VARIANCES, Schedule
from ddpm.errors import InputError

LEARNED = ("learned", "range")
OPTIMAL = "optimal"
REVERSE_VARIANCES = (*VARIANCES, *LEARNED, OPTIMAL)
THRESHOLDS = ("static", "dynamic", "none")
DYNAMIC_SHARE = 0.995  # of an image's pixels that dynamic thresholding leaves alone (Saharia et al. 2022, App. E)


class Network(Protocol):
    """Any module that maps images, times and perhaps classes to images."""

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), time (B,) from 0, labels (B,) integers, all on one device -> (B, C or 2C, H, W)."""
        ...


class Output(NamedTuple):
    """A network's output, taken apart.

    prediction  (B, C, H, W) of what Denoiser.prediction names
    spread      (B, C, H, W) its channels for the variance, None if it has none
    """

    prediction: Tensor
    spread: Tensor | None


class ReverseStep(NamedTuple):
    """p(x_{i-1} | x_i), and the predicted clean image it follows from."""

    gaussian: Gaussian
    x0: Tensor


@dataclass(frozen=True)
class Denoiser:
    """A network together with the meaning of its output.

    network     see Network; its own dtype is used inside, results come back in the dtype of xt
    process     the full forward process it was trained on, levels 0..T
    prediction  of what, one of process.PREDICTIONS
    variance    of the reverse steps, one of REVERSE_VARIANCES: "large" and "small" are the schedule's; "learned" takes
                the network's second half of channels as log-variances, pixel by pixel (Ho et al. 2020, sec. 3.2),
                "range" as places between small (-1) and large (1) (Nichol & Dhariwal 2021, eq. 15); "optimal"
                takes those of `measured`
    threshold   of predicted clean images, before they are used: "static" clips them to [-1, 1], "dynamic" clips each at
                a quantile of its own and scales it back (Saharia et al. 2022, sec. 2.3)
    dtype       of the network's inputs
    measured    needed for "optimal" only
    """

    network: Network
    process: Process
    prediction: str = "eps"
    variance: str = "large"
    threshold: str = "static"
    dtype: torch.dtype = torch.float32
    measured: Measured | None = None

    def output(self, xt: Tensor, t: Tensor, labels: Tensor | None = None) -> Output:
        """The network's output at levels t (B,) in [1, T], integer or real, on the device of xt and in its dtype."""
        output = self.network(xt.to(self.dtype), t - 1, labels).to(xt.dtype)
        channels = xt.shape[1]
        return Output(output[:, :channels], output[:, channels:] if output.shape[1] > channels else None)

    def x0(self, xt: Tensor, step: Level, labels: Tensor | None = None, *, chain: Schedule | None = None) -> Tensor:
        """The clean image predicted from xt, thresholded; arguments as in `reverse`, None is the full process."""
        chain = self.process.schedule if chain is None else chain
        return self._x0(self.output(xt, levels(chain, step, xt), labels).prediction, xt, step, chain)

    def eps_at(self, xt: Tensor, level: float, labels: Tensor | None = None) -> Tensor:
        """The noise predicted at one real level for all images, as an ODE's right-hand side needs it.

        xt       (B, C, H, W)
        level    in [1, T]; alpha_bar there is Schedule.alpha_bar_at
        returns  (B, C, H, W); never thresholded, because clipping makes a smooth function kink
        """
        if self.prediction == "mean":
            raise InputError("a network of the mean has no ODE, being defined at whole levels only; take eps, x0 or v.")
        alpha_bar = self.process.schedule.alpha_bar_at(level)
        predicted = self.output(xt, _everywhere(level, xt), labels).prediction
        if self.prediction == "eps":
            return predicted
        signal, sigma = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        return (xt - signal * predicted) / sigma if self.prediction == "x0" else signal * predicted + sigma * xt

    def reverse(self, xt: Tensor, step: Level, *, chain: Schedule, labels: Tensor | None = None) -> ReverseStep:
        """One step of the reverse process along a chain (eqs. 7 and 11, with x0 clipped first).

        xt     (B, C, H, W) at level chain.levels[step]
        step   1..chain.steps, one for all or (B,); the result lies at chain.levels[step - 1]
        chain  the full process or a subset of its levels
        """
        return self.read(self.output(xt, levels(chain, step, xt), labels), xt, step, chain=chain)

    def read(self, output: Output, xt: Tensor, step: Level, *, chain: Schedule) -> ReverseStep:
        """The reverse step that an output at xt means; arguments as in `reverse`."""
        x0 = self._x0(output.prediction, xt, step, chain)
        mean = Process(chain).posterior_mean(x0, xt, step)
        if self.prediction == "mean":  # taken as it is where the chain leaves out no level, and then never clipped
            mean = torch.where(gather(chain.stride, step, xt) == 1, output.prediction, mean)
        return ReverseStep(Gaussian(mean, self._log_variance(output.spread, xt, step, chain)), x0)

    def _log_variance(self, spread: Tensor | None, xt: Tensor, step: Level, chain: Schedule) -> Tensor:
        if self.variance == OPTIMAL:
            if self.measured is None:
                raise InputError("variance 'optimal' was not measured for this network: run `ddpm tune variance`.")
            return gather(self.measured.log_variance(chain), step, xt)
        if self.variance not in LEARNED:
            return gather(chain.log_variance(self.variance), step, xt)
        if spread is None:
            raise InputError(f"this network has no channels for variance '{self.variance}'; choose large or small.")
        if self.variance == "range":
            low = gather(chain.log_variance("small"), step, xt)
            high = gather(chain.log_beta, step, xt)
            return low + (spread + 1) / 2 * (high - low)
        if not np.array_equal(chain.levels, self.process.schedule.levels):
            raise InputError(
                "variances learned pixel by pixel belong to the full chain; on fewer levels choose large, small or "
                "optimal."
            )
        return spread

    def _x0(self, prediction: Tensor, xt: Tensor, step: Level, chain: Schedule) -> Tensor:
        if self.prediction == "mean":  # of the full process, whatever the chain
            t = levels(chain, step, xt)
            if t.is_floating_point():
                raise InputError("prediction 'mean' is defined at whole levels only; choose the spacing uniform.")
            x0 = self.process.x0_from(self.prediction, prediction, xt, t)
        else:
            x0 = Process(chain).x0_from(self.prediction, prediction, xt, step)
        return thresholded(x0, self.threshold)


@dataclass(frozen=True)
class Guided:
    """A network with classifier-free guidance (Ho & Salimans 2022, eq. 6), as a network: two calls in one batch.

    network   trained with label drop-out
    weight    1 is the network itself, 0 its output without a class; in the paper's letters 1 + w
    no_label  the number that stands for no class

    All predictions are affine in eps, so any of them may be mixed; a learned spread is the class's.
    """

    network: Network
    weight: float
    no_label: int

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """See Network; labels are needed."""
        assert labels is not None, "guidance needs labels"
        both = torch.cat([labels, torch.full_like(labels, self.no_label)])
        with_class, without = self.network(torch.cat([x, x]), torch.cat([time, time]), both).chunk(2)
        channels = x.shape[1]
        mixed = without[:, :channels] + self.weight * (with_class - without)[:, :channels]
        return torch.cat([mixed, with_class[:, channels:]], dim=1)


def thresholded(x0: Tensor, threshold: str) -> Tensor:
    """Bring predicted clean images (B, C, H, W) into [-1, 1] by one of THRESHOLDS; "none" leaves them."""
    if threshold == "none":
        return x0
    if threshold == "static":
        return x0.clamp(-1, 1)
    assert threshold == "dynamic", threshold
    rank = math.ceil(DYNAMIC_SHARE * x0[0].numel())
    largest = x0.flatten(1).abs().kthvalue(rank, dim=1).values.clamp(min=1).reshape(-1, *[1] * (x0.ndim - 1))
    return x0.clamp(-largest, largest) / largest


def levels(chain: Schedule, step: Level, like: Tensor) -> Tensor:
    """The levels (B,) of the full process that a chain's steps start from, one for each of the images (B, C, H, W)."""
    if isinstance(step, int):
        return _everywhere(chain.levels[step].item(), like)
    real = chain.levels.dtype.kind == "f"
    return on_device(chain.levels, like.device, float64_on(like.device) if real else torch.int64)[step]


def _everywhere(level: float, like: Tensor) -> Tensor:
    """One level for all of the images (B, C, H, W): (B,) int64 or float64."""
    kind = torch.int64 if isinstance(level, int) else float64_on(like.device)
    return torch.full((len(like),), level, dtype=kind, device=like.device)
