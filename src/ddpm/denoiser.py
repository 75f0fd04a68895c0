"""The only translator of network output: from what the network says to x0, eps and the reverse Gaussian.

Levels count from 0 (clean) here as everywhere; published networks count their times from 0 = one diffusion step. The
shift by one happens in `Denoiser.output` and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ddpm.gaussians import Gaussian
from ddpm.process import Process
from ddpm.schedule import Schedule
from ddpm.tensors import gather


class Network(Protocol):
    """Any module that maps images, times and perhaps classes to images."""

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), time (B,) from 0 on the CPU, labels (B,) integers -> (B, C, H, W)."""
        ...


class ReverseStep(NamedTuple):
    """p(x_{i-1} | x_i) and the clean image it was made from."""

    gaussian: Gaussian
    x0: Tensor


@dataclass(frozen=True)
class Denoiser:
    """A network together with what its output means.

    network     see Network; its own dtype is used inside, results come back in the dtype of xt
    process     the full forward process it was trained on, levels 0..T
    prediction  what the output stands for, one of process.PREDICTIONS
    variance    of the reverse steps, one of schedule.VARIANCES
    clip        whether predicted clean images are clipped to [-1, 1] before the posterior mean is formed
    dtype       of the network's inputs
    """

    network: Network
    process: Process
    prediction: str = "eps"
    variance: str = "large"
    clip: bool = True
    dtype: torch.dtype = torch.float32

    def output(self, xt: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The network's raw output at levels t (B,) in 1..T, in the dtype of xt."""
        return self.network(xt.to(self.dtype), t - 1, labels).to(xt.dtype)

    def x0(self, xt: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The clean image predicted from xt at levels t (B,) in 1..T."""
        return self._x0(self.output(xt, t, labels), xt, t)

    def reverse(self, xt: Tensor, step: int, *, chain: Schedule, labels: Tensor | None = None) -> ReverseStep:
        """One step of the reverse process along a chain (eqs. 7 and 11, with x0 clipped first).

        xt     (B, C, H, W) at level chain.levels[step]
        step   1..chain.steps; the result lies at chain.levels[step - 1]
        chain  the full process or a subset of its levels
        """
        index = torch.full((len(xt),), step)
        t = torch.full((len(xt),), int(chain.levels[step]))
        output = self.output(xt, t, labels)
        x0 = self._x0(output, xt, t)
        neighbours = chain.levels[step] - chain.levels[step - 1] == 1
        mean = output if self.prediction == "mean" and neighbours else Process(chain).posterior_mean(x0, xt, index)
        return ReverseStep(Gaussian(mean, gather(chain.log_variance(self.variance), index, xt)), x0)

    def _x0(self, output: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        x0 = self.process.x0_from(self.prediction, output, xt, t)
        return x0.clamp(-1, 1) if self.clip else x0
