"""The linear denoiser is the posterior mean of its Gaussian, and a correction adds to it what it says, to scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.devices import OnCpu
from tests.networks.test_blocks import tiny
from torch import Tensor, nn

from ddpm.base.precision import computing
from ddpm.networks import linear as module
from ddpm.networks.linear import LEAST_VARIANCE, LinearDenoiser, cosines

SHAPE = (3, 4, 5)
SIZE = 60
LOG_SNR = np.array([9.0, 4.0, 1.5, -0.5, -3.0, -8.0])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned(size: int, seed: int = 0) -> Tensor:
    """Some orthogonal matrix."""
    return torch.linalg.qr(drawn(size, size, seed=seed))[0]


def denoiser(correction: nn.Module | None = None, shape: tuple[int, int, int] = SHAPE) -> LinearDenoiser:
    """A Gaussian made by hand: turned colours, variances over four orders."""
    network = LinearDenoiser(shape, LOG_SNR, correction).double()
    network.mean.copy_(0.5 * drawn(*shape, seed=1))
    network.colours.copy_(turned(shape[0], seed=2))
    network.variance.copy_(torch.exp(2 * drawn(*shape, seed=3) - 2))
    return network


def plain_cosines(n: int) -> np.ndarray:
    """Frequency f at point p, from the definition of the DCT-II."""
    matrix = np.array([[np.cos(np.pi * (p + 0.5) * f / n) for p in range(n)] for f in range(n)])
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def covariance(network: LinearDenoiser) -> np.ndarray:
    """Of all pixels, (D, D): the Gaussian's axes are colours x rows x columns."""
    channels, height, width = network.variance.shape
    axes = np.kron(network.colours.double().numpy(), np.kron(plain_cosines(height), plain_cosines(width)))
    assert axes.shape[0] == channels * height * width
    return axes.T @ np.diag(network.variance.double().numpy().ravel()) @ axes


def dense_noise(network: LinearDenoiser, x: Tensor, log_snr: float) -> np.ndarray:
    """E[noise | x] of x = signal x0 + sigma noise by solving with the whole covariance of x, (B, D)."""
    abar = 1 / (1 + np.exp(-log_snr))
    signal, sigma = np.sqrt(abar), np.sqrt(1 - abar)
    whole = abar * covariance(network) + (1 - abar) * np.eye(x[0].numel())
    rest = x.flatten(1).numpy() - signal * network.mean.double().numpy().ravel()
    return sigma * np.linalg.solve(whole, rest.T).T


def times(value: float, count: int) -> Tensor:
    return torch.full((count,), value, dtype=torch.float64)


# ---- the posterior mean ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1), (1, 6, 3), (2, 1, 8)])
@pytest.mark.parametrize("time", range(len(LOG_SNR)))
def test_guess_is_the_dense_posterior_mean(time: int, shape: tuple[int, int, int]):
    network, x = denoiser(shape=shape), drawn(7, *shape, seed=4)
    found = network(x, torch.full((7,), time))
    assert found.shape == x.shape
    assert np.abs(found.flatten(1).numpy() - dense_noise(network, x, LOG_SNR[time])).max() < 1e-9


def test_times_of_a_batch_are_its_images_own():
    network, x = denoiser(), drawn(6, *SHAPE, seed=4)
    found = network(x, torch.arange(6))
    for time in range(6):
        expected = dense_noise(network, x[time : time + 1], LOG_SNR[time])
        assert np.abs(found[time].numpy().ravel() - expected[0]).max() < 1e-9


@pytest.mark.parametrize("time", [0.0, 0.25, 2.5, 4.999, 5.0])
def test_real_times_read_log_snr_in_a_straight_line(time: float):
    network, x = denoiser(), drawn(4, *SHAPE, seed=5)
    below, share = min(int(time), 4), time - min(int(time), 4)
    log_snr = (1 - share) * LOG_SNR[below] + share * LOG_SNR[below + 1]
    found = network(x, times(time, 4))
    assert np.abs(found.flatten(1).numpy() - dense_noise(network, x, log_snr)).max() < 1e-9


@pytest.mark.parametrize("time", range(len(LOG_SNR)))
def test_mean_squared_error_is_the_closed_form(time: int):
    """Without draws: the error of a linear guess G (x - signal mean) of noise is a trace. Its dense covariance
    I - sigma^2 (covariance of x)^-1 has the closed form's eigenvalues, snr v / (snr v + 1)."""
    network = denoiser()
    abar = 1 / (1 + np.exp(-LOG_SNR[time]))
    whole = abar * covariance(network) + (1 - abar) * np.eye(SIZE)
    with torch.no_grad():  # G, a column a unit vector
        guess = network(torch.eye(SIZE).double().reshape(SIZE, *SHAPE) + abar**0.5 * network.mean, times(time, SIZE))
    gain = guess.flatten(1).numpy().T
    error = np.eye(SIZE) - 2 * (1 - abar) ** 0.5 * gain + gain @ whole @ gain.T
    power = np.exp(LOG_SNR[time]) * network.variance.numpy()
    closed = (power / (power + 1)).mean()
    assert np.trace(error) / SIZE == pytest.approx(closed, abs=1e-9)
    said = network._share(torch.tensor(LOG_SNR[time]))
    assert float(said.mean()) == pytest.approx(closed, abs=1e-12)


def test_mean_squared_error_of_drawn_noise_is_the_closed_form():
    """Of 4000 images of 60 pixels each: the standard error is below sqrt(2 / 4000 / 5), a twentieth of these errors."""
    network, count = denoiser(), 4000
    root = torch.from_numpy(np.linalg.cholesky(covariance(network)))
    x0 = network.mean + (drawn(count, SIZE, seed=6) @ root.T).reshape(count, *SHAPE)
    noise = drawn(count, *SHAPE, seed=7)
    for time in (1, 3, 4):
        abar = 1 / (1 + np.exp(-LOG_SNR[time]))
        found = network(abar**0.5 * x0 + (1 - abar) ** 0.5 * noise, times(time, count))
        closed = float(network._share(torch.tensor(LOG_SNR[time])).mean())
        assert float(((found - noise) ** 2).mean()) == pytest.approx(closed, rel=0.05)


def test_float32_is_float64_to_its_own_precision():
    network, x = denoiser(), drawn(6, *SHAPE, seed=8)
    exact = network(x, torch.arange(6))
    found = network.float()(x.float(), torch.arange(6))
    assert found.dtype == torch.float32
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-5  # some hundred sums of 6e-8 each


def test_cosines_are_orthonormal_and_those_of_the_definition():
    for size in (1, 2, 5, 32):
        matrix = cosines(size)
        assert matrix.dtype == torch.float64
        assert torch.allclose(matrix @ matrix.T, torch.eye(size).double(), atol=1e-13)
        assert np.abs(matrix.numpy() - plain_cosines(size)).max() < 1e-13


# ---- the correction -------------------------------------------------------------------------------------------------


class Says(nn.Module):
    """A correction that says one number in so many channels, and remembers what it was asked."""

    def __init__(self, value: float, channels: int) -> None:
        super().__init__()
        self.value, self.channels, self.asked = value, channels, ()

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None, *, drops: Tensor | None = None) -> Tensor:
        self.asked = (x, time, labels, drops)
        return x.new_full((len(x), self.channels, *x.shape[2:]), self.value)


def test_correction_that_says_nothing_changes_nothing():
    x, time = drawn(6, *SHAPE), torch.arange(6)
    assert torch.equal(denoiser(Says(0.0, 3))(x, time), denoiser()(x, time))


def test_correction_is_scaled_by_the_root_mean_squared_error_of_the_guess():
    x, time = drawn(6, *SHAPE), torch.arange(6)
    added = denoiser(Says(2.0, 3))(x, time) - denoiser()(x, time)
    for k in range(6):
        power = np.exp(LOG_SNR[k]) * denoiser().variance.numpy()
        scale = (power / (power + 1)).mean() ** 0.5
        assert torch.allclose(added[k], torch.full(SHAPE, 2 * scale, dtype=torch.float64), atol=1e-12)


def test_channels_beyond_the_noise_pass_as_they_are():
    x, time = drawn(6, *SHAPE), torch.arange(6)
    found = denoiser(Says(0.7, 6))(x, time)
    assert found.shape == (6, 6, 4, 5)
    assert (found[:, 3:] == 0.7).all()
    assert torch.equal(found[:, :3], denoiser(Says(0.7, 3))(x, time))


def test_correction_is_asked_what_the_denoiser_is_asked():
    correction, x, time, labels = Says(0.0, 3), drawn(2, *SHAPE), torch.tensor([1, 4]), torch.tensor([5, 0])
    drops = torch.tensor([3, 7])
    denoiser(correction)(x, time, labels, drops=drops)
    assert all(given is asked for given, asked in zip((x, time, labels, drops), correction.asked, strict=True))


def test_rounding_is_for_the_correction_alone():
    class Rounded(nn.Module):
        def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
            return torch.eye(x.shape[2]) @ x

    x, time = drawn(6, *SHAPE).float(), torch.arange(6)
    for correction in (None, Says(0.7, 6), Rounded()):
        network = denoiser(correction).float()
        plain = network(x, time)
        with computing("bfloat16", torch.device("cpu")):
            found = network(x, time)
        assert found.dtype == torch.float32
        assert torch.equal(found, plain) == (not isinstance(correction, Rounded))
        assert torch.allclose(found, plain, atol=0.1)


def test_gaussian_is_no_parameter_and_is_written_down():
    network = denoiser(Says(0.0, 3))
    assert list(network.parameters()) == []
    assert set(network.state_dict()) == {"mean", "colours", "variance"}


# ---- EDM's scalar preconditioning -----------------------------------------------------------------------------------


class Curved(nn.Module):
    """Some network that is not linear, hears its time, and notes what it was given."""

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None, *, drops: Tensor | None = None) -> Tensor:
        self.given = x
        return torch.tanh(x + 0.1 * time[:, None, None, None]) + 0.3 * x.flip(3)


class Negative(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *given: Tensor | None, drops: Tensor | None = None) -> Tensor:
        return -self.network(*given)


def scalar(x: Tensor, correction: nn.Module) -> LinearDenoiser:
    """Measured on images x."""
    network = LinearDenoiser(SHAPE, LOG_SNR, correction, scalar=True).double()
    network.measure(x)
    return network


def some_images() -> Tensor:
    return 0.4 + torch.exp(drawn(50, *SHAPE, seed=3)) / 3


def test_scalar_is_edms_preconditioning():
    """Karras et al. 2022, eq. 7 and Table 1, on images without their average: D = c_skip y + c_out F(c_in y, time)."""
    images, function = some_images(), Curved()
    found = scalar(images, Negative(function))
    mean, power = images.mean(), images.var(correction=0)
    for level, log_snr in enumerate(LOG_SNR):
        a, time = 1 / (1 + np.exp(-log_snr)), torch.full((7,), level)
        sigma = ((1 - a) / a) ** 0.5
        noisy = images[:7] + sigma * drawn(7, *SHAPE, seed=level)
        c_in, c_skip = 1 / (sigma**2 + power) ** 0.5, power / (sigma**2 + power)
        c_out = sigma * power**0.5 / (sigma**2 + power) ** 0.5
        expected = mean + c_skip * (noisy - mean) + c_out * function(c_in * (noisy - mean), time)
        eps = found(a**0.5 * noisy, time)
        assert (noisy - sigma * eps - expected).abs().max() < 1e-12


def test_scalar_measures_one_average_and_one_variance():
    images = some_images()
    found = scalar(images.float(), Curved())
    assert torch.equal(found.colours, torch.eye(3).double())
    for name, value in (("mean", images.mean()), ("variance", images.var(correction=0))):
        assert torch.allclose(getattr(found, name), value.expand(SHAPE), rtol=1e-6, atol=0)


def test_what_a_scalar_correction_is_given_has_unit_size():
    images, correction = some_images().repeat(200, 1, 1, 1), Curved()
    network = scalar(images, correction)
    for level, log_snr in enumerate(LOG_SNR):
        a = 1 / (1 + np.exp(-log_snr))
        network(a**0.5 * images + (1 - a) ** 0.5 * drawn(*images.shape, seed=level), times(level, len(images)))
        assert float(correction.given.square().mean()) == pytest.approx(1, abs=0.01)


# ---- measuring ------------------------------------------------------------------------------------------------------


def measured(x: Tensor, shape: tuple[int, int, int] = SHAPE) -> LinearDenoiser:
    network = LinearDenoiser(shape, LOG_SNR, None).double()
    network.measure(x)
    return network


def known(count: int = 20_000) -> tuple[LinearDenoiser, Tensor]:
    """A Gaussian whose colours differ in power, and images drawn from it."""
    truth = denoiser()
    truth.variance.mul_(torch.tensor([25.0, 4.0, 1.0])[:, None, None] / truth.variance.mean((1, 2), keepdim=True))
    root = torch.from_numpy(np.linalg.cholesky(covariance(truth)))
    return truth, truth.mean + (drawn(count, SIZE, seed=9) @ root.T).reshape(count, *SHAPE)


def test_measuring_recovers_the_gaussian_that_images_were_drawn_from():
    truth, x = known()
    found = measured(x)
    assert ((found.mean - truth.mean).abs() < 5 * x.std(0) / len(x) ** 0.5).all()  # five standard errors
    likeness = (found.colours @ truth.colours.T).abs()  # axes in the order of rising power: the other way around
    assert torch.allclose(likeness, torch.eye(3).double().flip(0), atol=0.02)
    ratio = found.variance.flip(0) / truth.variance
    mild = truth.variance > 0.01 * truth.variance.amax((1, 2), keepdim=True)
    assert (ratio[mild] - 1).abs().max() < 0.1  # six standard errors of sqrt(2 / 20000), and colours that lean a little


def test_measured_numbers_are_the_moments_of_the_very_images():
    _, x = known(200)
    found = measured(x)
    rest = x - x.mean(0)
    assert torch.allclose(found.mean, x.mean(0), atol=1e-13)
    assert torch.allclose(found.colours @ found.colours.T, torch.eye(3).double(), atol=1e-12)
    colour = found.colours @ torch.einsum("nchw,ndhw->cd", rest, rest) @ found.colours.T
    assert (colour - colour.diag().diag()).abs().max() < 1e-9 * colour.abs().max()
    axes = np.kron(found.colours.numpy(), np.kron(plain_cosines(4), plain_cosines(5)))
    power = ((rest.flatten(1).numpy() @ axes.T) ** 2).mean(0)
    assert np.abs(found.variance.numpy().ravel() / power - 1).max() < 1e-9
    assert float(found.variance.sum()) == pytest.approx(float((rest**2).mean(0).sum()), rel=1e-12)


def test_sign_of_colours_is_not_that_of_the_library(monkeypatch: pytest.MonkeyPatch):
    _, x = known(200)
    plain, solve = measured(x), torch.linalg.eigh
    for signs in ([-1, -1, -1], [1, -1, 1], [-1, 1, 1]):

        def other(matrix: Tensor, signs: list[int] = signs) -> tuple[Tensor, Tensor]:
            values, axes = solve(matrix)
            return values, axes * torch.tensor(signs, dtype=axes.dtype)

        monkeypatch.setattr(module.torch.linalg, "eigh", other)
        assert torch.equal(measured(x).colours, plain.colours)
        assert torch.equal(measured(x).variance, plain.variance)
    largest = plain.colours.gather(1, plain.colours.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_images_that_do_not_vary_have_the_least_variance_and_still_a_guess():
    picture = drawn(1, *SHAPE)
    found = measured(picture.repeat(5, 1, 1, 1))
    assert torch.allclose(found.variance, torch.full(SHAPE, LEAST_VARIANCE, dtype=torch.float64))
    assert torch.allclose(found.mean, picture[0])
    noise = drawn(1, *SHAPE, seed=1)
    abar = 1 / (1 + np.exp(-LOG_SNR[3]))
    guess = found(abar**0.5 * picture + (1 - abar) ** 0.5 * noise, torch.tensor([3]))
    assert torch.allclose(guess, noise, atol=1e-6)


def test_measuring_float32_images_is_measuring_them_in_float64():
    _, x = known(100)
    assert torch.equal(measured(x.float()).variance, measured(x.float().double()).variance)


def test_a_call_touches_no_tensor_on_the_cpu():
    """On "meta", after tables went there once; for whole and for real times."""
    network = denoiser(tiny(3, 3).to("meta"), (3, 4, 6)).to("meta")
    x = torch.empty(2, 3, 4, 6, dtype=torch.float64, device="meta")
    for time in (torch.empty(2, dtype=torch.int64, device="meta"), torch.empty(2, dtype=torch.float64, device="meta")):
        network(x, time)
        with OnCpu() as operations:
            assert network(x, time).shape == x.shape
        assert operations.seen == []


def test_whole_times_read_log_snr_and_those_beyond_it_its_ends():
    network, x = denoiser(), drawn(4, *SHAPE)
    found, ends = network(x, torch.tensor([-3, 0, 5, 17])), network(x, torch.tensor([0, 0, 5, 5]))
    assert torch.equal(found, ends)
    assert (found - network(x, torch.tensor([-0.5, 0, 5, 9.5]))).abs().max() < 1e-12
