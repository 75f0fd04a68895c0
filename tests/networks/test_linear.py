"""The linear denoiser is the posterior mean of a Gaussian: checked against dense matrices and its own errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddpm.networks.linear import LinearDenoiser, cosines
from ddpm.schedule import make_schedule

SHAPE = (3, 4, 5)
SCHEDULE = make_schedule("cosine", steps=50)
LOG_SNR = SCHEDULE.log_snr[1:]


def made(correction: nn.Module | None = None, *, seed: int = 0) -> LinearDenoiser:
    """In float64, with statistics drawn at random."""
    draw = np.random.default_rng(seed)
    network = LinearDenoiser(SHAPE, LOG_SNR, correction).double()
    axes, _ = np.linalg.qr(draw.standard_normal((3, 3)))
    network.mean.copy_(torch.from_numpy(draw.standard_normal(SHAPE) * 0.2))
    network.colours.copy_(torch.from_numpy(axes))
    network.variance.copy_(torch.from_numpy(draw.gamma(0.5, 0.5, SHAPE)))
    return network


def dense(network: LinearDenoiser) -> np.ndarray:
    """The covariance of its Gaussian, as one matrix: rows of the transform are products of the three small ones."""
    transform = np.kron(network.colours.numpy(), np.kron(cosines(4).numpy(), cosines(5).numpy()))
    return transform.T @ np.diag(network.variance.numpy().ravel()) @ transform


@pytest.mark.parametrize("time", [0, 7, 31, 49])
def test_guess_is_the_posterior_mean_of_the_dense_gaussian(time: int):
    network = made()
    signal, sigma = SCHEDULE.signal[time + 1], SCHEDULE.sigma[time + 1]
    covariance, mean = dense(network), network.mean.numpy().ravel()
    x = np.random.default_rng(time).standard_normal((6, 60))
    gain = sigma * np.linalg.inv(signal**2 * covariance + sigma**2 * np.eye(60))
    wanted = (x - signal * mean) @ gain.T
    found = network(torch.from_numpy(x).reshape(6, *SHAPE), torch.full((6,), time)).reshape(6, 60).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_error_of_the_guess_is_the_scale_of_the_correction():
    class Ones(nn.Module):
        def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
            return torch.ones_like(x)

    alone, helped = made(), made(Ones())
    draw = np.random.default_rng(1)
    root = np.linalg.cholesky(dense(alone))
    images = draw.standard_normal((20_000, 60)) @ root.T + alone.mean.numpy().ravel()
    for time in (3, 20, 44):
        noise = draw.standard_normal(images.shape)
        x = torch.from_numpy(SCHEDULE.signal[time + 1] * images + SCHEDULE.sigma[time + 1] * noise).reshape(-1, *SHAPE)
        times = torch.full((len(x),), time)
        error = float(((alone(x, times).reshape(noise.shape).numpy() - noise) ** 2).mean())
        scale = (helped(x[:1], times[:1]) - alone(x[:1], times[:1])).unique()
        assert float(scale.max() - scale.min()) < 1e-9
        assert error == pytest.approx(float(scale.mean()) ** 2, rel=0.02)


def test_correction_that_says_nothing_changes_nothing_and_its_other_channels_pass():
    class Nothing(nn.Module):
        def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
            return torch.cat([torch.zeros_like(x), torch.full_like(x, 7.0)], dim=1)

    x, time = (
        torch.randn(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        torch.tensor([3, 9]),
    )
    found = made(Nothing())(x, time)
    assert torch.allclose(found[:, :3], made()(x, time))
    assert (found[:, 3:] == 7).all()


def test_time_between_levels_is_linear_in_log_snr():
    network = made()
    x = torch.randn(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    between = LinearDenoiser(SHAPE, np.array([0.25 * LOG_SNR[8] + 0.75 * LOG_SNR[9]]), None).double()
    between.load_state_dict(network.state_dict())
    assert torch.allclose(network(x, torch.tensor([8.75])), between(x, torch.tensor([0])), atol=1e-12)


def test_float32_agrees_with_float64():
    network = made()
    x = torch.randn(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = network(x, torch.tensor([0, 30]))
    assert torch.allclose(made().float()(x.float(), torch.tensor([0, 30])).double(), exact, atol=1e-5)


def test_measured_statistics_are_those_of_the_images():
    truth = made(seed=3)
    draw = np.random.default_rng(4)
    flat = draw.standard_normal((60_000, 60)) @ np.linalg.cholesky(dense(truth)).T + truth.mean.numpy().ravel()
    images = torch.from_numpy(flat).reshape(-1, *SHAPE)
    found = LinearDenoiser(SHAPE, LOG_SNR, None).double()
    found.measure(images)
    assert torch.allclose(found.mean, images.mean(0))
    assert torch.allclose(found.colours @ found.colours.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert float(found.variance.sum()) == pytest.approx(float(images.var(0, correction=0).sum()), rel=1e-6)
    places = found.colours.abs().argmax(1)
    assert (found.colours[torch.arange(3), places] > 0).all()  # an axis's sign is no accident of the library
    again = LinearDenoiser(SHAPE, LOG_SNR, None).double()
    again.measure(images.flip(0))
    assert torch.allclose(again.variance, found.variance, rtol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 5, 32])
def test_cosines_are_orthonormal(size: int):
    assert torch.allclose(cosines(size) @ cosines(size).T, torch.eye(size, dtype=torch.float64), atol=1e-12)
