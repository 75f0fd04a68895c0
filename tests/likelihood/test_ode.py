"""The probability-flow ODE's likelihood, against densities known in closed form.

For Gaussian data and mixtures of Gaussians the optimal network is known at every real level, and the ODE that it
drives carries the exact density of every level into that of any other. Whatever then differs is the integrator's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.diffusion.denoiser import Denoiser, Guided
from ddpm.diffusion.process import PREDICTIONS, Process
from ddpm.diffusion.schedule import make_schedule
from ddpm.errors import InputError
from ddpm.likelihood.ode import (
    EXACT_DIMENSIONS,
    VALUES_AT_ONCE,
    draw_probes,
    log_density,
    ode_term,
    standard_normal_log_density,
)
from ddpm.networks.linear import LinearDenoiser
from ddpm.networks.unet import UNet

T = 1000
SCHEDULE = make_schedule()
PROCESS = Process(SCHEDULE)
LOG_SNR = np.log(SCHEDULE.alpha_bar[1:] / (1 - SCHEDULE.alpha_bar[1:]))
LEVEL_1, LEVEL_T = SCHEDULE.alpha_bar[1], SCHEDULE.alpha_bar[T]
SPREAD = 1 - LEVEL_1  # the variance of q(x_1 | x_0)


def numbers(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def signal_left(level: float) -> float:
    """alpha_bar at a real level: the log-SNR is linear between whole ones."""
    return 1 / (1 + math.exp(-np.interp(level, np.arange(1, T + 1), LOG_SNR)))


class Mixture:
    """Data from a mixture of Gaussians that share one covariance; exact densities and scores at any alpha_bar."""

    def __init__(self, weights: list[float], means: list[list[float]], covariance: list[list[float]]) -> None:
        self.weights, self.means, self.covariance = numbers(weights), numbers(means), numbers(covariance)

    def _parts(self, x: Tensor, alpha_bar: float) -> tuple[Tensor, Tensor]:
        """Each component's share of the density at x, in logarithms (B, K), and its score (B, K, D)."""
        dimensions = self.means.shape[1]
        covariance = alpha_bar * self.covariance + (1 - alpha_bar) * torch.eye(dimensions).double()
        apart = x.flatten(1)[:, None] - math.sqrt(alpha_bar) * self.means
        score = -apart @ torch.linalg.inv(covariance)
        volume = dimensions * math.log(2 * math.pi) + torch.logdet(covariance)
        return self.weights.log() + 0.5 * ((apart * score).sum(-1) - volume), score

    def log_density(self, x: Tensor, alpha_bar: float) -> Tensor:
        return self._parts(x, alpha_bar)[0].logsumexp(1)

    def eps(self, x: Tensor, alpha_bar: float) -> Tensor:
        """The optimal prediction of noise, -sqrt(1 - alpha_bar) grad ln p(x)."""
        logs, score = self._parts(x, alpha_bar)
        mean = (logs.softmax(1)[..., None] * score).sum(1)
        return -math.sqrt(1 - alpha_bar) * mean.reshape(x.shape)


Reading = Callable[[Tensor, float, Tensor | None], Tensor]


class Network:
    """A function of (x, alpha_bar, labels) as a network of any kind of prediction; counts its calls."""

    def __init__(self, eps: Reading, prediction: str = "eps", dtype: torch.dtype = torch.float64) -> None:
        self.eps, self.prediction, self.dtype, self.calls = eps, prediction, dtype, 0

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        assert x.dtype == self.dtype
        assert time.shape == x.shape[:1]
        assert (time == time[0]).all()
        self.calls += 1
        a = signal_left(float(time[0]) + 1)
        eps = self.eps(x.double(), a, labels)
        x0 = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
        said = {"eps": eps, "x0": x0, "v": math.sqrt(a) * eps - math.sqrt(1 - a) * x0}[self.prediction]
        return said.to(self.dtype)


def optimal(data: Mixture, prediction: str = "eps", dtype: torch.dtype = torch.float64) -> Denoiser:
    network = Network(lambda x, a, _: data.eps(x, a), prediction, dtype)
    return Denoiser(network, PROCESS, prediction, dtype=dtype)


GAUSSIAN = Mixture(
    [1.0],
    [[0.3, -0.5, 0.1, 0.7]],
    [[0.5, 0.3, -0.1, 0.02], [0.3, 0.4, 0.05, 0.0], [-0.1, 0.05, 0.2, 0.1], [0.02, 0.0, 0.1, 0.3]],
)
LUMPS = Mixture([0.2, 0.5, 0.3], [[-0.8, 0.1], [0.4, 0.6], [0.5, -0.7]], [[0.04, 0.01], [0.01, 0.02]])

X4 = numbers([[0.3, -0.5, 0.1, 0.7], [0.9, 0.2, -0.4, 0.5], [-1.0, 1.0, 1.0, -1.0], [4.0, -6.0, 3.0, 8.0]])[
    :, None, None
]  # (4, 1, 1, 4): the mode, a usual one, an unlikely one, an absurd one
X2 = numbers([[0.4, 0.6], [-0.7, 0.0], [0.0, 0.1], [1.0, 1.0], [-3.0, 2.0]])[:, :, None, None]
CASES = {"gaussian": (GAUSSIAN, X4), "mixture": (LUMPS, X2)}
EVERY_CASE = pytest.mark.parametrize("case", CASES)


def density(denoiser: Denoiser, data: Mixture, x: Tensor, **arguments) -> Tensor:
    """log_density with the data's own terminal density."""
    return log_density(denoiser, x, terminal=lambda x: data.log_density(x, LEVEL_T), **arguments)


# ---- the network ---------------------------------------------------------------------------------------------------


def test_the_network_hears_real_levels_less_one_in_float64():
    heard = []

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        heard.append(time)
        return x

    Denoiser(network, PROCESS).eps_at(torch.zeros(3, 1, 2, 2), 17.1)
    assert heard[0].dtype == torch.float64
    assert heard[0].tolist() == [17.1 - 1] * 3


@pytest.mark.parametrize("prediction", sorted({*PREDICTIONS} - {"mean"}))
@pytest.mark.parametrize("level", [1, 1.5, 433.3, T])
def test_every_prediction_is_read_as_the_noise_it_means_and_never_clipped(prediction: str, level: float):
    """Tolerance: x0 = 157 (xt - ...) at level T, and eps = 100 (xt - x0) at level 1, lose three digits of sixteen."""
    denoiser = optimal(GAUSSIAN, prediction)
    assert denoiser.threshold == "static"
    assert (denoiser.eps_at(X4, level) - GAUSSIAN.eps(X4, signal_left(level))).abs().max() < 1e-10


def test_a_prediction_of_the_mean_has_no_ode_and_a_sentence_says_so():
    denoiser = Denoiser(lambda x, time, labels=None: x, PROCESS, "mean", dtype=torch.float64)
    with pytest.raises(InputError, match="eps, x0 or v"):
        denoiser.eps_at(X4, 7.0)
    with pytest.raises(InputError, match="whole levels"):
        ode_term(denoiser, X4, noise=X4, steps=1)


# ---- the density ----------------------------------------------------------------------------------------------------


@EVERY_CASE
@pytest.mark.parametrize(("level", "steps"), [(1, 210), (100, 150), (T - 1, 2), (T, 1)])
def test_the_density_of_optimal_networks_is_the_datas_own(case: str, level: int, steps: int):
    """1e-6 absolutely where the density is above exp(-1), of the logarithm elsewhere: what 210 steps leave."""
    data, x = CASES[case]
    found = density(optimal(data), data, x, steps=steps, level=level)
    exact = data.log_density(x, SCHEDULE.alpha_bar[level])
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(exact.tolist(), rel=1e-6, abs=1e-6)


@EVERY_CASE
def test_the_error_falls_with_the_fourth_power_of_the_steps(case: str):
    """A factor of 16 for each halving of the step. The order comes out at 3.87 and 3.93 and rises: higher powers."""
    data, x = CASES[case]
    exact = data.log_density(x, LEVEL_1)
    errors = [(density(optimal(data), data, x, steps=n) - exact).abs().max().item() for n in (40, 80, 160)]
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert orders == pytest.approx([4, 4], abs=0.2)


def test_the_density_of_any_network_integrates_to_one():
    """Also of one that is wrong: the change of variables is exact whatever drives it."""
    network = Network(lambda x, a, _: math.sqrt(1 - a) * (x / (1 - 0.9 * a) + a * torch.sin(3 * x + a)))
    grid = torch.linspace(-6, 6, 4001).double()[:, None, None, None]
    found = log_density(Denoiser(network, PROCESS, dtype=torch.float64), grid, steps=100)
    total = found.exp().sum() * 12 / 4000
    assert float(total) == pytest.approx(1, abs=1e-5)


def test_a_network_that_ignores_the_image_only_moves_and_scales_the_normal():
    """dy / d sigma = c has the solution y_T = y_1 + c (sigma_T - sigma_1)."""
    network = Network(lambda x, a, _: torch.full_like(x, 0.02))
    found = log_density(Denoiser(network, PROCESS, dtype=torch.float64), X4, steps=200)
    sigma = [math.sqrt(1 / a - 1) for a in (LEVEL_1, LEVEL_T)]
    scale = math.sqrt(LEVEL_T / LEVEL_1)
    moved = scale * X4 + math.sqrt(LEVEL_T) * 0.02 * (sigma[1] - sigma[0])
    exact = standard_normal_log_density(moved) + 4 * math.log(scale)
    assert found.tolist() == pytest.approx(exact.tolist(), abs=1e-6)


@EVERY_CASE
def test_all_kinds_of_prediction_have_one_density(case: str):
    """The same function of x up to rounding, a hundredfold at the ends: 1e-13 found, 1e-10 allowed."""
    data, x = CASES[case]
    found = [density(optimal(data, kind), data, x, steps=10) for kind in ("eps", "x0", "v")]
    assert (found[1] - found[0]).abs().max() < 1e-10 * found[0].abs().max()
    assert (found[2] - found[0]).abs().max() < 1e-10 * found[0].abs().max()


def test_labels_choose_the_density():
    centres = numbers([-0.5, 0.8])
    sets = [Mixture([1.0], [[float(c)] * 2], [[0.1, 0.0], [0.0, 0.1]]) for c in centres]
    own = Network(lambda x, a, labels: (x - math.sqrt(a) * centres[labels][:, None, None, None]) * gain(a))

    def gain(a: float) -> float:
        return math.sqrt(1 - a) / (0.1 * a + 1 - a)

    denoiser, labels = Denoiser(own, PROCESS, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 0])
    found = log_density(denoiser, X2, steps=20, labels=labels)
    for label, data in enumerate(sets):
        ours = labels == label
        alone = log_density(optimal(data), X2[ours], steps=20)
        assert found[ours].tolist() == pytest.approx(alone.tolist(), abs=1e-9)
    assert (log_density(denoiser, X2, steps=20, labels=1 - labels) - found).abs().min() > 0.1


def test_a_float32_network_gives_float64_densities_to_its_own_precision():
    """eps is wrong by 6e-8 of itself, up to a hundred for the most unlikely image: 5e-6 found, 1e-4 allowed."""
    data, x = CASES["mixture"]
    found = density(optimal(data, dtype=torch.float32), data, x, steps=100)
    assert found.dtype == torch.float64
    assert (found - density(optimal(data), data, x, steps=100)).abs().max() < 1e-4


@pytest.mark.parametrize("probes", [None, draw_probes(2, 0, range(5), (2, 1, 1))])
def test_channels_for_a_variance_are_not_part_of_the_ode(probes: Tensor | None):
    plain = optimal(LUMPS)
    both = Denoiser(
        lambda x, time, labels=None: torch.cat([plain.network(x, time), x**2], dim=1), PROCESS, dtype=torch.float64
    )
    assert torch.equal(log_density(both, X2, steps=3, probes=probes), log_density(plain, X2, steps=3, probes=probes))


@pytest.mark.parametrize("probes", [None, draw_probes(3, 0, range(4), (1, 1, 4))])
def test_a_step_asks_the_network_five_times_and_the_start_once(probes: Tensor | None):
    denoiser = optimal(GAUSSIAN)
    log_density(denoiser, X4, steps=7, probes=probes)
    assert denoiser.network.calls == 1 + 5 * 7


LATTICE = torch.arange(32).double().reshape(2, 1, 4, 4) * 8 / 127.5 - 1


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_frozen_networks_are_differentiated_under_any_grad_mode(mode: Callable):
    unet = UNet(1, 1, channels=8, multipliers=(1,), blocks=1, attention_levels=(), groups=4, classes=3)
    denoiser = Denoiser(unet.eval().requires_grad_(False), PROCESS)
    expected = ode_term(denoiser, LATTICE, steps=2, labels=torch.tensor([2, 0]), noise=LATTICE / 2)
    with mode():
        x, noise, labels = LATTICE + 0, LATTICE / 2, torch.tensor([2, 0]) + 0
        found = ode_term(denoiser, x, noise=noise, steps=2, labels=labels)
        hutchinson = log_density(denoiser, x, steps=2, labels=labels, probes=torch.ones(1, *x.shape).double() + 0)
    assert torch.equal(found.flow, expected.flow)
    assert torch.equal(found.decoder, expected.decoder)
    assert hutchinson.isfinite().all()


def test_no_gradients_are_kept_where_weights_or_images_ask_for_them():
    weight = torch.ones((), dtype=torch.float64).requires_grad_()
    denoiser = Denoiser(lambda x, time, labels=None: weight * x, PROCESS, dtype=torch.float64)
    term = ode_term(denoiser, X4.clone().requires_grad_(), noise=X4, steps=1)
    assert not term.flow.requires_grad
    assert not term.decoder.requires_grad
    assert weight.grad is None


# ---- many directions in a backward pass ------------------------------------------------------------------------------


def plain_density(denoiser: Denoiser, x: Tensor, labels: Tensor | None, vectors: Tensor) -> Tensor:
    """One step of the method from level 1, with a backward pass for each of the vectors (N, B, C, H, W)."""
    ends = [-0.5 * float(SCHEDULE.log_snr[level]) for level in (1, T)]
    step, y = ends[1] - ends[0], x / math.sqrt(LEVEL_1)

    def rate(y: Tensor, share: float) -> tuple[Tensor, Tensor]:
        at, log_sigma = y.detach().requires_grad_(), ends[0] + share * step
        level = SCHEDULE.level_at(-2 * log_sigma)
        rate = math.exp(log_sigma) * denoiser.eps_at(at / math.hypot(1, math.exp(log_sigma)), level, labels)
        products = [v * torch.autograd.grad(rate, at, v, retain_graph=True)[0] for v in vectors]
        return rate.detach(), sum(products).flatten(1).sum(1)

    first, at_start = rate(y, 0.0)
    second, _ = rate(y + step / 2 * first, 0.5)
    third, _ = rate(y + step / 2 * second, 0.5)
    fourth, _ = rate(y + step * third, 1.0)
    end = y + step / 6 * (first + 2 * second + 2 * third + fourth)
    last, at_end = rate(end, 1.0)
    _, halfway = rate((y + end) / 2 + step / 8 * (first - last), 0.5)
    gain = step / 6 * (at_start + 4 * halfway + at_end)
    scale = 0.5 * x[0].numel() * math.log(LEVEL_T / LEVEL_1)
    return standard_normal_log_density(end * math.sqrt(LEVEL_T)) + gain + scale


def wide_awake(network: UNet) -> UNet:
    """The same in float64, its weights far from those that make a new network put out nothing."""
    random = torch.Generator().manual_seed(0)
    for weight in network.double().eval().requires_grad_(False).parameters():
        weight += 0.1 * torch.randn(weight.shape, generator=random, dtype=torch.float64)
    return network


def attentive(channels: int) -> UNet:
    return wide_awake(
        UNet(1, channels, channels=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), groups=4, classes=3)
    )


NETWORKS = {
    "labels and a learned variance": lambda: attentive(2),
    "guided": lambda: Guided(attentive(1), 2.0, no_label=2),
    "linear, scalar": lambda: (
        LinearDenoiser((1, 4, 6), LOG_SNR, attentive(1), scalar=True).double().requires_grad_(False)
    ),
    "linear, corrected": lambda: LinearDenoiser((1, 4, 6), LOG_SNR, attentive(1)).double().requires_grad_(False),
}
SIXES = torch.from_numpy(np.random.default_rng(3).uniform(-1, 1, (3, 1, 4, 6)))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("most", [7 * 72, 1 << 13])
def test_copies_of_a_batch_give_what_a_backward_pass_for_each_direction_gives(
    network: str, most: int, monkeypatch: pytest.MonkeyPatch
):
    """24 directions in 4 passes of 6, or all in one; five probes in one."""
    monkeypatch.setitem(VALUES_AT_ONCE, "cpu", most)
    denoiser, labels = Denoiser(NETWORKS[network](), PROCESS, dtype=torch.float64), torch.tensor([0, 1, 1])
    exact = log_density(denoiser, SIXES, steps=1, labels=labels)
    every = torch.eye(24).double().reshape(24, 1, 1, 4, 6).expand(24, *SIXES.shape)
    expected = plain_density(denoiser, SIXES, labels, every)
    assert ((exact - expected) / expected).abs().max() < 1e-10
    probes = draw_probes(5, 0, range(3), (1, 4, 6))
    estimated = log_density(denoiser, SIXES, steps=1, labels=labels, probes=probes)
    expected = plain_density(denoiser, SIXES, labels, probes / math.sqrt(5))
    assert ((estimated - expected) / expected).abs().max() < 1e-10


@pytest.mark.parametrize(("most", "copies"), [(1, 1), (10 * 72, 8), (1 << 13, 24)])
def test_a_network_call_holds_as_many_copies_as_the_passes_need(
    most: int, copies: int, monkeypatch: pytest.MonkeyPatch
):
    """24 directions of 3 images of 24 pixels: at most 10 copies make 3 passes, and these 8 copies."""
    monkeypatch.setitem(VALUES_AT_ONCE, "cpu", most)
    sizes = []

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        sizes.append(len(x))
        return x

    log_density(Denoiser(network, PROCESS, dtype=torch.float64), SIXES, steps=1)
    assert sizes == [3 * copies, 3, 3, 3, 3 * copies, 3 * copies]  # between the ends of a step only slopes


# ---- Hutchinson's estimator -----------------------------------------------------------------------------------------


def test_all_probes_together_give_the_exact_trace():
    """Over the 16 sign vectors of 4 dimensions v J v averages to the trace: the estimator is unbiased, to rounding."""
    signs = numbers(list(itertools.product([-1.0, 1.0], repeat=4)))
    probes = signs.reshape(16, 1, 1, 1, 4).expand(16, *X4.shape)
    found = log_density(optimal(GAUSSIAN), X4, steps=10, probes=probes)
    exact = log_density(optimal(GAUSSIAN), X4, steps=10)
    assert (found - exact).abs().max() < 1e-9
    one = log_density(optimal(GAUSSIAN), X4, steps=10, probes=probes[:1])
    assert (one - exact).abs().min() > 0.1


@EVERY_CASE
def test_random_probes_agree_within_three_of_their_standard_errors(case: str):
    data, x = CASES[case]
    copies = x[1:2].expand(2000, *x.shape[1:])
    probes = draw_probes(1, 0, range(2000), x.shape[1:])
    found = density(optimal(data), data, copies, steps=40, probes=probes)
    exact = density(optimal(data), data, x[1:2], steps=40)
    error = found.std() / math.sqrt(2000)
    assert error > 1e-3
    assert abs(found.mean() - exact) < 3 * error
    few = probes[0, :4, None]  # four probes of one image, instead of four images with one probe each
    assert float(density(optimal(data), data, x[1:2], steps=40, probes=few)) == pytest.approx(float(found[:4].mean()))


def test_probes_are_signs_that_depend_on_seed_and_position_alone():
    shape = (3, 8, 8)
    probes = draw_probes(2, 40, [5, 6, 7], shape)
    assert probes.shape == (2, 3, *shape)
    assert probes.dtype == torch.float64
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(draw_probes(2, 40, [7, 5], shape), probes[:, [2, 0]])
    assert torch.equal(draw_probes(1, 40, [6], shape), probes[:1, 1:2])
    assert abs(float(probes.mean())) < 4 / math.sqrt(probes.numel())
    for other in (draw_probes(2, 41, [5, 6, 7], shape), probes[[1, 0]], probes[:, [1, 2, 0]]):
        assert abs(float((other * probes).mean())) < 4 / math.sqrt(probes.numel())


def test_what_does_not_fit_is_said():
    large = torch.zeros(1, 1, 1, EXACT_DIMENSIONS + 1).double()
    fits = log_density(optimal(LUMPS), X2, steps=1)
    assert fits.shape == (5,)
    with pytest.raises(InputError, match=f"{EXACT_DIMENSIONS} dimensions, not {EXACT_DIMENSIONS + 1}: give probes"):
        log_density(optimal(LUMPS), large, steps=1)
    for shape in [(2, 4, 2, 1, 1), (5, 2, 1, 1), (0, 5, 2, 1, 1)]:
        with pytest.raises(InputError, match="probes must have the shape"):
            log_density(optimal(LUMPS), X2, steps=1, probes=torch.ones(shape).double())
    for level, steps in [(0, 1), (T + 1, 1), (1, 0)]:
        with pytest.raises(InputError, match=f"level 1 to {T}"):
            log_density(optimal(LUMPS), X2, steps=steps, level=level)


# ---- the bound of grey levels ---------------------------------------------------------------------------------------


def test_expected_flow_of_gaussian_data_is_a_divergence_in_closed_form():
    """E flow = KL(q(x_1 | x_0) || p_1). ln q - ln p_1 is quadratic in the noise, whose mean over all signs is exact.

    Tolerance: at level T, ode_term says N(0, 1) for variance 1 - alpha_bar_T (1 - s), that is 1e-5 a pixel.
    """
    s = 0.25
    data = Mixture([1.0], [[0.0] * 4], (s * torch.eye(4)).tolist())
    signs = numbers(list(itertools.product([-1.0, 1.0], repeat=4))).reshape(16, 1, 2, 2)
    x0 = numbers([[[-1.0, -0.2], [0.1, 0.6]]])
    flow = ode_term(optimal(data), x0.expand(16, 1, 2, 2), noise=signs, steps=100).flow
    variance = LEVEL_1 * s + SPREAD
    divergence = 0.5 * ((SPREAD + LEVEL_1 * x0**2) / variance - 1 + math.log(variance / SPREAD))
    assert float(flow.mean()) == pytest.approx(float(divergence.sum()), abs=1e-4)


GREYS = numbers([0, 100, 101, 103, 128, 250]) / 127.5 - 1
SHARES = numbers([0.05, 0.25, 0.1, 0.1, 0.35, 0.15])


def normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x / math.sqrt(2))


def test_flow_and_decoder_bound_the_surprise_of_grey_levels_from_above():
    """One pixel, six grey levels. The model's own P(x_0) = int p_1 P(x_0 | x_1) is a quadrature on a fine grid, and the
    bound exceeds -ln P by KL(q(x_1 | x_0) || p(x_1 | x_0)), another. Tolerance: 1e-4 for the terminal density as above;
    the data's mean is next to zero, for ln N(x_T; m, 1) would differ by sqrt(alpha_bar_T) m x_T, up to 1e-3.
    """
    data = Mixture(SHARES.tolist(), GREYS[:, None].tolist(), [[0.0]])
    denoiser = optimal(data)
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(40))
    x0 = GREYS.repeat_interleave(40)[:, None, None, None]
    term = ode_term(denoiser, x0, noise=nodes.repeat(6)[:, None, None, None], steps=300)
    expected = ((term.flow + term.decoder).reshape(6, 40) * weights).sum(1) / weights.sum()

    grid = torch.linspace(-1.2, 1.2, 240_001).double()
    log_p1 = data.log_density(grid[:, None, None, None], LEVEL_1)
    predicted = denoiser.reverse(grid[:, None, None, None], 1, chain=SCHEDULE).gaussian
    mean, deviation = predicted.mean.flatten(), float(predicted.log_variance.flatten()[0].exp().sqrt())
    surprise, gap = [], []
    for grey in GREYS:
        low = normal_cdf((grey - 1 / 255 - mean) / deviation) if grey > -0.999 else torch.zeros_like(mean)
        high = normal_cdf((grey + 1 / 255 - mean) / deviation)
        joint = log_p1 + (high - low).clamp(min=1e-300).log()
        surprise.append(-float((joint.exp().sum() * 1e-5).log()))
        log_q = -0.5 * ((grid - math.sqrt(LEVEL_1) * grey) ** 2 / SPREAD + math.log(2 * math.pi * SPREAD))
        gap.append(float((log_q.exp() * (log_q - joint - surprise[-1])).sum() * 1e-5))
    assert max(gap) > 0.01  # grey levels with neighbours; levels on their own have next to none
    assert all(bound > exact - 1e-4 for bound, exact in zip(expected.tolist(), surprise, strict=True))
    assert expected.tolist() == pytest.approx([a + b for a, b in zip(surprise, gap, strict=True)], abs=1e-4)
