"""The variational bound's terms, L = L_T + sum L_{t-1} + L_0 (Ho et al. 2020, eq. 5), one at a time.

Everything is per image and in nats: sums over pixels, not means. In float64 (pass x0 so) the terms are exact to about
1e-12; the float32 network inside keeps its own precision. All of it can be differentiated: training for the bound
uses these very functions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm.base.gaussians import Gaussian
from ddpm.base.tensors import gather, mean_over_image
from ddpm.diffusion.decoder import log_probability
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.process import Process
from ddpm.diffusion.schedule import Schedule


class StepTerm(NamedTuple):
    """One term of the bound for each of B images.

    nats           (B,) L_{i-1} for steps i > 1, L_0 for step 1, summed over pixels
    squared_error  (B,) mean over pixels of (x0 - predicted x0)^2, on the scale of [-1, 1]
    """

    nats: Tensor
    squared_error: Tensor


def prior_nats(x0: Tensor, chain: Schedule) -> Tensor:
    """L_T = KL(q(x_T | x_0) || N(0, I)) at a chain's last level: x0 (B, C, H, W) -> (B,) nats."""
    alpha_bar = float(chain.alpha_bar[-1])
    constant = -math.log1p(-alpha_bar) - alpha_bar
    return 0.5 * (constant + alpha_bar * x0**2).flatten(1).sum(1)


def term_nats(gaussian: Gaussian, x0: Tensor, xt: Tensor, step: Tensor, *, chain: Schedule) -> Tensor:
    """L_{i-1} (i > 1) or L_0 (i = 1) of reverse Gaussians p(x_{i-1} | x_i) along a chain.

    gaussian  made at xt by Denoiser.reverse or Denoiser.read
    step      (B,) 1..chain.steps, one an image, on the device of x0
    returns   (B,) nats
    """
    log_variance = gather(chain.log_variance("small"), step, xt)  # index 1 is finite there, and not used
    posterior = Gaussian(Process(chain).posterior_mean(x0, xt, step), log_variance)
    nats = posterior.kl(gaussian).flatten(1).sum(1)
    last = step == 1
    # To find the rows of step 1, the CPU would have to wait for another device: there every row is decoded, those of
    # other steps from a harmless Gaussian, so that no gradient of theirs is other than 0.
    rows = last.nonzero()[:, 0] if last.device.type == "cpu" else torch.arange(len(x0), device=x0.device)
    if len(rows):
        here = last[rows][:, None, None, None]
        mean = torch.where(here, gaussian.mean[rows], x0[rows])
        spread = torch.where(here, gaussian.log_variance.expand_as(x0)[rows], 0)
        decoded = -log_probability(Gaussian(mean, spread), x0[rows]).flatten(1).sum(1)
        nats = nats.index_copy(0, rows, torch.where(last[rows], decoded, nats[rows]))
    return nats


def step_term(
    denoiser: Denoiser, x0: Tensor, step: Tensor, *, noise: Tensor, chain: Schedule, labels: Tensor | None = None
) -> StepTerm:
    """One random term of the bound for each image, by one network call.

    x0     (B, C, H, W) in [-1, 1], float64 for exact sums
    step   (B,) 1..chain.steps
    noise  (B, C, H, W) standard normal
    """
    xt = Process(chain).q_sample(x0, step, noise=noise)
    reverse = denoiser.reverse(xt, step, chain=chain, labels=labels)
    nats = term_nats(reverse.gaussian, x0, xt, step, chain=chain)
    return StepTerm(nats, mean_over_image((reverse.x0 - x0) ** 2))
