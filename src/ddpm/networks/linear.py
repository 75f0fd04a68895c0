"""The best linear prediction of the noise, and perhaps a network that corrects it.

Images are modelled as a Gaussian: an average image, three (or C) axes of colour, and along each of them a variance for
every frequency of the cosine transform. The posterior mean of such a Gaussian is linear (Wiener's filter), known in
closed form at every noise level, and already removes most of the noise. A network that only corrects it starts from
there: on small sets and small budgets that is worth more than any width.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ddpm.base.precision import STRICT, computing
from ddpm.base.tensors import float64_on, on_device

LEAST_VARIANCE = 1e-9


def cosines(size: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) of so many points, a row a frequency: (size, size) float64."""
    frequency, place = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * place + 1) * frequency / (2 * size)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


class LinearDenoiser(nn.Module):
    """The noise in x as predicted by a Gaussian of images, plus a correction by another network.

    shape       (C, H, W) of the images
    log_snr     (T,) of the levels 1..T, read at time 0..T - 1 and linear between them
    correction  a network with the same arguments, or None; its output is scaled by the linear prediction's own root
                mean squared error, so that its task has unit size at every level
    scalar      one average and one variance for everything, and the correction's input scaled to unit size as well:
                the preconditioning of EDM (Karras et al. 2022, eq. 7 and Table 1), whose F is minus the correction
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        log_snr: NDArray[np.float64],
        correction: nn.Module | None,
        *,
        scalar: bool = False,
    ) -> None:
        super().__init__()
        self.scalar = scalar
        self.mean: Tensor
        self.colours: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("colours", torch.eye(shape[0]))
        self.register_buffer("variance", torch.ones(shape))
        self.correction = correction
        self.log_snr = log_snr
        with torch.device("cpu"):
            self.rows, self.columns = cosines(shape[1]).numpy(), cosines(shape[2]).numpy()

    @torch.no_grad()
    def measure(self, x: Tensor) -> None:
        """Take average, colours and variances from images (N, C, H, W) in [-1, 1]."""
        x = x.cpu().double()
        if self.scalar:
            self.mean.copy_(x.mean())
            self.variance.copy_((x - x.mean()).square().mean().clamp(min=LEAST_VARIANCE))
            return
        mean = x.mean(0)
        rest = x - mean
        flat = rest.transpose(0, 1).flatten(1)
        _, axes = torch.linalg.eigh(flat @ flat.T / flat.shape[1])
        largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
        colours = (axes * largest.sign()).T  # a row an axis; its sign is no accident of the library
        spectrum = self._forth(rest, colours, *self._transforms(rest))
        for name, value in (("mean", mean), ("colours", colours), ("variance", (spectrum**2).mean(0))):
            getattr(self, name).copy_(value.clamp(min=LEAST_VARIANCE) if name == "variance" else value)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None, *, drops: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), time (B,) from 0, integer or real -> the noise, (B, C, H, W), or what `correction` has
        channels for: the first C are the noise. All else is for the correction, and only it computes in the precision
        around it."""
        with computing(STRICT, x.device):
            noise, rest, given = self._predicted(x, time)
        if self.correction is None:
            return noise
        added, channels = self.correction(given, time, labels, drops=drops).to(noise.dtype), x.shape[1]
        return torch.cat([noise + rest * added[:, :channels], added[:, channels:]], dim=1)

    def squared_error(self, time: Tensor) -> Tensor:
        """The mean squared error of the Gaussian's own guess at times (B,): (B,), with the dtype of its variances."""
        log_snr = self._log_snr(time.to(self.variance.device), self.variance)[:, None, None, None]
        return self._share(log_snr).mean((1, 2, 3))

    def _predicted(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The noise of the Gaussian, (B, C, H, W), its root mean squared error, (B, 1, 1, 1), and what the
        correction is given, (B, C, H, W)."""
        log_snr = self._log_snr(time.to(x.device), x)[:, None, None, None]
        signal, sigma = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
        share = self._share(log_snr)
        rows, columns = self._transforms(x)
        centred = x - signal * self.mean
        spectrum = self._forth(centred, self.colours, rows, columns)
        noise = self._back(spectrum * (1 - share) / sigma, rows, columns)
        given = centred / (signal**2 * self.variance + sigma**2).sqrt() if self.scalar else x
        return noise, share.mean((1, 2, 3), keepdim=True).sqrt(), given

    def _transforms(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The cosines of rows and of columns."""
        return on_device(self.rows, like.device, like.dtype), on_device(self.columns, like.device, like.dtype)

    def _share(self, log_snr: Tensor) -> Tensor:
        """The part of each coefficient's variance that is image: also the mean squared error of the guessed noise."""
        power = torch.exp(log_snr) * self.variance
        return power / (power + 1)

    def _log_snr(self, time: Tensor, like: Tensor) -> Tensor:
        """(B,) with the dtype of `like`, rounded once from float64."""
        last = len(self.log_snr) - 1
        if not time.is_floating_point():
            return on_device(self.log_snr, like.device, like.dtype)[time.clamp(0, last)]
        place = time.to(float64_on(like.device)).clamp(0, last)
        table, below = on_device(self.log_snr, like.device, place.dtype), place.long()
        return torch.lerp(table[below], table[(below + 1).clamp(max=last)], place - below).to(like.dtype)

    @staticmethod
    def _forth(x: Tensor, colours: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        mixed = torch.einsum("kc,bchw->bkhw", colours, x)
        return rows @ mixed @ columns.T

    def _back(self, spectrum: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        mixed = rows.T @ spectrum @ columns
        return torch.einsum("kc,bkhw->bchw", self.colours, mixed)
