"""A network's error at every level, measured once, and the reverse variances that follow from it.

For a network that predicts x_0 with mean squared error MSE_t at level t, the isotropic variance that makes the bound
least is the posterior's plus what the error adds to the mean, beta~_t + c_t^2 MSE_t, with c_t the weight of x_0 in the
posterior mean: each term of the bound is then 1/2 ln(1 + (SNR_{t-1} - SNR_t) MSE_t) nats a pixel. (The same optimum
in terms of the score is theorem 1 of Bao et al. 2022, Analytic-DPM.) The last step, which reads grey levels, has no
such formula; its variance is fitted to the discretised likelihood itself.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from ddpm.base.tensors import Floats
from ddpm.diffusion.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Measured:
    """Tables over the levels 0..T of the full process; index 0 is unused.

    squared_error         (T + 1,) mean of (x0 - predicted x0)^2 over images and pixels, on the scale of [-1, 1]
    decoder_log_variance  (T + 1,) best log-variance of p(x_0 | x_t) from each level, NaN where it was not fitted
    decoder_nats          (T + 1,) its cost in nats a pixel; NaN likewise
    second_moment         mean of x0^2 over images and pixels, on the scale of [-1, 1]
    source                the file it was read from
    """

    squared_error: Floats
    decoder_log_variance: Floats
    decoder_nats: Floats
    second_moment: float
    source: str = ""

    def log_variance(self, chain: Schedule) -> Floats:
        """Log-variances of a chain's reverse steps (S + 1,), index 0 unused (0); errors between levels are linear.

        Where the last step starts from a level without a fitted decoder, the squared error there takes its place.
        """
        return _log_variance(self, chain)


@functools.lru_cache(maxsize=16)  # the same table at every step, so that it is copied to a device only once
def _log_variance(measured: Measured, chain: Schedule) -> Floats:
    error = np.interp(chain.levels, np.arange(len(measured.squared_error)), measured.squared_error)
    variance = chain.posterior_variance + chain.posterior_x0**2 * error
    fitted = measured.decoder_log_variance[round(float(chain.levels[1]))]
    first = np.log(error[1]) if np.isnan(fitted) else fitted
    return np.concatenate([[0.0, first], np.log(variance[2:])])
