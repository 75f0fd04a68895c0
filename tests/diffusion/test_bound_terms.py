"""The bound's terms against closed forms: data and networks whose every expectation is known to the last digit.

Checks 6, 7, 9, 14, 15, 17, 18 and 24 of the paper sheet, with its corrections for the exact normal distribution
function. Expectations over the noise are quadratures: the nodes are fed as noise, one image of one pixel a node.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.base.gaussians import Gaussian
from ddpm.diffusion.bound import StepTerm, prior_nats, step_term, term_nats
from ddpm.diffusion.decoder import log_probability
from ddpm.diffusion.denoiser import Denoiser
from ddpm.diffusion.optimal_variance import Measured
from ddpm.diffusion.process import PREDICTIONS, Process
from ddpm.diffusion.schedule import VARIANCES, Schedule, make_schedule
from scorings import closed_form_nats

THRESHOLD = {False: "none", True: "static"}
T = 1000
SCHEDULE = make_schedule()
PROCESS = Process(SCHEDULE)
BETA = np.linspace(1e-4, 0.02, T)  # beta_t at [t - 1], like the next four
A = np.cumprod(1 - BETA)
A_BEFORE = np.concatenate([[1.0], A[:-1]])
SNR = A / (1 - A)
POSTERIOR = BETA * (1 - A_BEFORE) / (1 - A)
FIRST_LOG_VARIANCE = -9.81672513529567
EXTRA_LARGE = 0.4864192300440932  # bits a dimension, sum of C_t: what variance "large" costs whatever the network
STEPS = np.arange(1, T + 1)
LN2 = math.log(2)

EVERY_VARIANCE = pytest.mark.parametrize("variance", VARIANCES)
Predictor = Callable[[Tensor, Tensor], Tensor]
"""x_t and alpha_bar, both (B, 1, 1, 1), to the predicted x_0."""


def column(values: np.ndarray) -> Tensor:
    """One image of one pixel a number."""
    return torch.from_numpy(np.ascontiguousarray(values, np.float64)).reshape(-1, 1, 1, 1)


def oracle(predict: Predictor, variance: str = "small", *, measured: Measured | None = None) -> Denoiser:
    """A denoiser that knows the data: its network says x_0 as a function of x_t and alpha_bar."""

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        return predict(x, column(A[time.numpy()]))

    return Denoiser(network, PROCESS, "x0", variance, "none", torch.float64, measured)


def knowing(error: np.ndarray, decoder_log_variance: float = math.nan) -> Measured:
    """What was measured, from the errors of the levels 1..T; the decoder at level 1 alone."""
    return Measured(
        squared_error=np.concatenate([[0.0], error]),
        decoder_log_variance=np.full(T + 1, decoder_log_variance),
        decoder_nats=np.full(T + 1, math.nan),
        second_moment=0.25,
    )


def each(
    denoiser: Denoiser, x0: np.ndarray, step: np.ndarray, noise: np.ndarray, chain: Schedule = SCHEDULE
) -> StepTerm:
    """step_term of images of one pixel, all arguments (B,)."""
    return step_term(denoiser, column(x0), torch.from_numpy(step), noise=column(noise), chain=chain)


def pixels(seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Grey levels on [-1, 1]."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape) / 127.5 - 1).to(dtype)


def normal(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


# ---- the prior (check 7) --------------------------------------------------------------------------------------------


def test_the_prior_costs_next_to_nothing():
    """Check 7 of each image, in nats summed over its pixels."""
    x0 = pixels(0, (3, 2, 4, 5))
    found = prior_nats(x0, SCHEDULE) / (40 * LN2)
    square = (x0**2).flatten(1).mean(1)
    expected = 5.874783886761826e-10 + 2.9112357941897783e-05 * square
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-9, abs=0)
    nothing = prior_nats(torch.zeros(1, 1, 1, 1, dtype=torch.float64), SCHEDULE).item() / LN2
    assert nothing == pytest.approx(5.874783886761826e-10, rel=1e-7, abs=0)  # the sheet's own digits end there
    series = math.fsum(A[-1] ** k / k for k in range(2, 8)) / 2 / LN2
    assert nothing == pytest.approx(series, rel=1e-10, abs=0)


def test_the_prior_is_that_of_the_chains_own_last_level():
    """KL(N(sqrt(A) x, 1 - A) || N(0, 1)) where A is far from 0."""
    x0, a = pixels(1, (2, 1, 2, 3)), A[299]
    expected = 0.5 * ((1 - a) + a * x0**2 - 1 - math.log(1 - a)).flatten(1).sum(1)
    assert prior_nats(x0, SCHEDULE.subset([4, 300])).tolist() == pytest.approx(expected.tolist(), rel=1e-12)


# ---- one term (checks 6 and 24) -------------------------------------------------------------------------------------


def constant_of(variance: str) -> np.ndarray:
    """C_t in nats, t = 2..T: what remains of a term when the prediction is perfect."""
    ratio = POSTERIOR[1:] / BETA[1:]
    return 0.5 * (ratio - 1 - np.log(ratio)) if variance == "large" else np.zeros(T - 1)


def test_the_constant_of_the_large_variance_is_the_papers():
    found = closed_form_nats(SCHEDULE, np.zeros(T + 1), SCHEDULE.log_variance("large"))
    assert found.sum() / LN2 == pytest.approx(EXTRA_LARGE, rel=1e-9)
    np.testing.assert_allclose(found[2:], constant_of("large"), rtol=1e-9, atol=1e-15)


@EVERY_VARIANCE
def test_a_term_is_a_constant_and_the_weighted_error_of_the_noise(variance: str):
    """Check 6: L_{t-1} - C_t = w_t (eps - eps_theta)^2 with w_t = beta^2 / (2 sigma^2 a (1 - A)), at every level."""
    said, noise, x0 = normal(2, (T,)).numpy(), normal(3, (T,)).numpy(), pixels(4, (T,)).numpy()
    denoiser = Denoiser(lambda x, t, labels: column(said)[t], PROCESS, "eps", variance, "none", torch.float64)
    found = each(denoiser, x0, STEPS, noise).nats.numpy()[1:]
    sigma2 = BETA if variance == "large" else POSTERIOR
    weight = (BETA**2 / (2 * np.where(sigma2, sigma2, 1) * (1 - BETA) * (1 - A)))[1:]
    expected = constant_of(variance) + weight * ((noise - said) ** 2)[1:]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    of_the_sheet = {"large": {2: 0.27269, 10: 0.073717, 100: 0.010081, 500: 0.0055034, 1000: 0.0102045}}
    of_the_sheet["small"] = {2: 0.59967, 10: 0.086437, 100: 0.010267, 500: 0.0055082, 1000: 0.0102045}
    for t, number in of_the_sheet[variance].items():
        one = ((found - constant_of(variance)) / ((noise - said) ** 2)[1:])[t - 2]
        assert one == pytest.approx(number, rel=1e-4)  # five digits in the sheet


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_a_term_of_the_small_variance_is_the_gain_times_the_error(prediction: str, clip: bool):
    """Check 24, for each image by itself: 1/2 (SNR_{t-1} - SNR_t) times its mean squared error of x_0, clipped or not.

    A prediction of x_0 off by 100 and more at t = 1000 is one whose rounding is as large: relative 1e-9.
    """
    shape = (T, 2, 2, 3)
    said, noise, x0 = normal(5, shape), normal(6, shape), pixels(7, shape)
    denoiser = Denoiser(lambda x, t, labels: said[t], PROCESS, prediction, "small", THRESHOLD[clip], torch.float64)
    found = step_term(denoiser, x0, torch.from_numpy(STEPS), noise=noise, chain=SCHEDULE)
    assert found.nats.shape == found.squared_error.shape == (T,)
    expected = 0.5 * 12 * (SNR[:-1] - SNR[1:]) * found.squared_error.numpy()[1:]
    np.testing.assert_allclose(found.nats.numpy()[1:], expected, rtol=1e-9)
    xt = PROCESS.q_sample(x0, torch.from_numpy(STEPS), noise=noise)
    predicted = denoiser.x0(xt, torch.from_numpy(STEPS))
    assert bool(predicted.abs().max() <= 1) == clip
    assert torch.equal(found.squared_error, ((predicted - x0) ** 2).flatten(1).mean(1))


def test_terms_are_sums_over_pixels_and_each_image_keeps_its_own():
    """One image alone gives the bits it gives in company, at its own step, the decoder's included."""
    steps, shape = torch.tensor([1, 400, 1, 2, 1000]), (5, 2, 3, 2)
    x0, noise = pixels(8, shape), normal(9, shape)
    denoiser = oracle(lambda x, a: 0.9 * x, "large")
    together = step_term(denoiser, x0, steps, noise=noise, chain=SCHEDULE)
    for k in range(5):
        alone = step_term(denoiser, x0[k : k + 1], steps[k : k + 1], noise=noise[k : k + 1], chain=SCHEDULE)
        assert alone.nats.item() == pytest.approx(together.nats[k].item(), rel=1e-14)
        flat = [v[k].reshape(12, 1, 1, 1) for v in (x0, noise)]
        parts = step_term(denoiser, flat[0], steps[k].expand(12), noise=flat[1], chain=SCHEDULE)
        assert parts.nats.sum().item() == pytest.approx(together.nats[k].item(), rel=1e-12)
        assert parts.squared_error.mean().item() == pytest.approx(together.squared_error[k].item(), rel=1e-12)


@EVERY_VARIANCE
def test_the_last_term_is_the_decoders(variance: str):
    x0, noise = pixels(10, (4, 1, 2, 2)), normal(11, (4, 1, 2, 2))
    found = step_term(oracle(lambda x, a: 0.99 * x, variance), x0, torch.ones(4).long(), noise=noise, chain=SCHEDULE)
    mean = 0.99 * (math.sqrt(A[0]) * x0 + math.sqrt(1 - A[0]) * noise)
    decoded = log_probability(Gaussian(mean, torch.full((1, 1, 1, 1), FIRST_LOG_VARIANCE, dtype=torch.float64)), x0)
    assert found.nats.tolist() == pytest.approx((-decoded).flatten(1).sum(1).tolist(), rel=1e-9)


def test_labels_reach_the_network():
    heard: list[Tensor | None] = []

    def network(x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        heard.append(labels)
        return torch.zeros_like(x)

    labels, x0 = torch.tensor([3, 1]), pixels(12, (2, 1, 2, 2))
    step_term(Denoiser(network, PROCESS), x0, torch.tensor([1, 9]), noise=x0, chain=SCHEDULE, labels=labels)
    assert len(heard) == 1
    assert heard[0] is labels


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_gradients_of_every_term_are_finite_and_leave_out_nothing(prediction: str):
    """In float32, over a batch that mixes the decoder with divergences (whose variance at t = 1 must not be zero)."""
    steps = torch.tensor([1, 2, 1, 500, 1000])
    shape = (5, 1, 2, 3)
    said = (0.1 * normal(13, (5, 2, 2, 3))).float().requires_grad_()
    x0, noise = pixels(14, shape, torch.float32), normal(15, shape).float()
    denoiser = Denoiser(lambda x, t, labels: said, PROCESS, prediction, "learned", threshold="none")
    nats = step_term(denoiser, x0, steps, noise=noise, chain=SCHEDULE).nats
    nats.sum().backward()
    assert nats.dtype == torch.float32
    assert said.grad is not None
    assert torch.isfinite(said.grad).all()
    assert (said.grad[:, 1:] != 0).all()
    assert (said.grad[1:4, :1] != 0).all()


@EVERY_VARIANCE
@pytest.mark.parametrize("levels", [None, (1, 2, 3, 250, 1000), (7, 300, 301)])
def test_a_gaussian_error_costs_what_the_closed_form_says(variance: str, levels: tuple[int, ...] | None):
    """closed_form_nats takes the mean squared error alone: here the error is +-d, of square d^2 at every draw."""
    chain = SCHEDULE.subset(levels) if levels else SCHEDULE
    steps, error = np.arange(1, chain.steps + 1), 0.04 + 0.5 * np.arange(chain.steps + 1) / chain.steps
    denoiser = oracle(lambda x, a: column(np.sqrt(error[1:])) + 0.25, variance)
    found = each(denoiser, np.full(chain.steps, 0.25), steps, np.zeros(chain.steps), chain).nats.numpy()
    expected = closed_form_nats(chain, error, chain.log_variance(variance))
    np.testing.assert_allclose(found[1:], expected[2:], rtol=1e-9)


# ---- constant data (check 9) ----------------------------------------------------------------------------------------


@EVERY_VARIANCE
@pytest.mark.parametrize(
    ("level", "bits"), [(128, 1.3053776566), (0, 0.5098541832), (255, 0.5098541832), (1, 1.3054063136)]
)
def test_a_network_that_knows_the_one_image_pays_for_the_decoder_alone(variance: str, level: int, bits: float):
    """Check 9, corrected: prior, 999 divergences and decoder; ten decimals in the sheet."""
    x0 = np.full(T, level / 127.5 - 1)
    terms = each(oracle(lambda x, a: column(x0), variance), x0, STEPS, normal(16, (T,)).numpy())
    total = (prior_nats(column(x0[:1]), SCHEDULE).item() + terms.nats.sum().item()) / LN2
    assert total == pytest.approx(bits + (EXTRA_LARGE if variance == "large" else 0), abs=1e-10)
    assert terms.squared_error.max() == 0


# ---- Gaussian data (checks 14 and 15) -------------------------------------------------------------------------------

# Each term is a polynomial of degree two in x_0 and the noise: three Gauss-Hermite nodes of each are exact.
NODES, WEIGHTS = np.array([-math.sqrt(3), 0.0, math.sqrt(3)]), np.array([1 / 6, 2 / 3, 1 / 6])
LAMBDAS = pytest.mark.parametrize("lam", [1.0, 0.25, 0.01])


def gaussian_error(lam: float) -> np.ndarray:
    """MSE_t of the best network for N(0, lam), t = 1..T."""
    return lam * (1 - A) / (A * lam + 1 - A)


def gaussian_terms(lam: float, denoiser: Denoiser, chain: Schedule = SCHEDULE) -> tuple[np.ndarray, np.ndarray]:
    """Expected nats of L_T, and of the steps 2..S, and the mean squared errors of the steps 1..S."""
    x0, noise = (v.ravel() for v in np.meshgrid(math.sqrt(lam) * NODES, NODES, indexing="ij"))
    weight = np.outer(WEIGHTS, WEIGHTS).ravel()
    steps = np.arange(1, chain.steps + 1)
    terms = each(denoiser, np.tile(x0, chain.steps), np.repeat(steps, 9), np.tile(noise, chain.steps), chain)
    nats, error = (v.numpy().reshape(chain.steps, 9) @ weight for v in terms)
    prior = prior_nats(column(math.sqrt(lam) * NODES), chain).numpy() @ WEIGHTS
    return np.concatenate([[prior], nats[1:]]), error


def best_for(lam: float, variance: str) -> Denoiser:
    """The best network for N(0, lam), with the variances that are best for it if they are "optimal"."""
    measured = knowing(gaussian_error(lam)) if variance == "optimal" else None
    return oracle(lambda x, a: a.sqrt() * lam * x / (a * lam + 1 - a), variance, measured=measured)


def density_nats(log_variance: float, error: float) -> float:
    """-ln N(x_0; mu_1, sigma_1^2) in the mean: the data have a density, so their decoder is one."""
    return 0.5 * (math.log(2 * math.pi) + log_variance + error * math.exp(-log_variance))


def divergence_at_the_end(lam: float, a: float) -> float:
    """KL(q(x_T) || N(0, 1)) in nats."""
    v = a * lam + 1 - a
    return 0.5 * (v - 1 - math.log1p(v - 1))


@pytest.mark.parametrize(
    ("lam", "large", "small"),
    [
        (1.0, 1.532641059725028, 1.997533378472061),
        (0.25, 0.8404611035118967, 1.2957172841616198),
        (0.01, -0.754442976399476, -0.3824232300488757),
    ],
)
def test_the_bound_of_gaussian_data_under_fixed_variances(lam: float, large: float, small: float):
    """Check 14, nats a dimension."""
    for variance, expected in (("large", large), ("small", small)):
        terms, error = gaussian_terms(lam, best_for(lam, variance))
        np.testing.assert_allclose(error, gaussian_error(lam), rtol=1e-9)
        assert terms.sum() + density_nats(FIRST_LOG_VARIANCE, error[0]) == pytest.approx(expected, abs=1e-9)


@LAMBDAS
@pytest.mark.parametrize("levels", [None, (1, 2, 3, 1000), (1, 20, 400, 401, 1000), (9, 50, 800), (500, 600)])
def test_with_optimal_variances_the_bound_of_gaussian_data_is_their_entropy(lam: float, levels: tuple[int, ...] | None):
    """Check 14: bound - entropy = KL(q(x_T) || N(0, 1)), whichever levels the chain visits; sums good to 1e-12."""
    chain = SCHEDULE.subset(levels) if levels else SCHEDULE
    denoiser = best_for(lam, "optimal")
    terms, error = gaussian_terms(lam, denoiser, chain)
    assert denoiser.measured is not None
    bound = terms.sum() + density_nats(denoiser.measured.log_variance(chain)[1], error[0])
    entropy = 0.5 * math.log(2 * math.pi * math.e * lam)
    excess = divergence_at_the_end(lam, chain.alpha_bar[-1])
    assert bound - entropy == pytest.approx(excess, abs=2e-12)
    if levels is None:
        assert excess == pytest.approx({1.0: 0, 0.25: 2.29e-10, 0.01: 3.99e-10}[lam], abs=1e-12)


def test_the_large_variance_is_optimal_for_standard_normal_data():
    """Ho et al. 2020, sec. 3.2, and exactly tight with sigma_1^2 = beta_1 (check 14)."""
    optimal = knowing(gaussian_error(1.0)).log_variance(SCHEDULE)
    np.testing.assert_allclose(optimal[1:], np.log(BETA), rtol=1e-10)
    terms, error = gaussian_terms(1.0, best_for(1.0, "large"))
    bound = terms.sum() + density_nats(math.log(BETA[0]), error[0])
    assert bound == pytest.approx(1.4189385332046727, abs=1e-11)


@LAMBDAS
def test_every_point_of_the_optimal_code_lies_on_shannons_curve(lam: float):
    """Check 15: rate at t against 1/2 log2(lam / D), within 6e-10 bits, which are the prior's mismatch, at all t.

    Any fixed-variance code lies on it or above, but for the rounding of a thousand terms.
    """
    shannon = 0.5 * np.log2(lam / gaussian_error(lam))
    np.testing.assert_allclose(shannon, 0.5 * np.log2(1 + lam * SNR), rtol=1e-9)

    def rates(variance: str) -> np.ndarray:
        """Bits received when x_t is there, t = 1..T: L_T and the terms of all higher levels."""
        terms, _ = gaussian_terms(lam, best_for(lam, variance))
        later = np.concatenate([np.cumsum(terms[:0:-1])[::-1], [0.0]])
        return (terms[0] + later) / LN2

    optimal = rates("optimal")
    assert abs(optimal - shannon).max() < 6e-10
    if lam == 0.25:
        assert optimal[0] == pytest.approx(5.644072561906922, abs=6e-10)
    for variance in VARIANCES:
        found = rates(variance)
        assert (found >= shannon - 1e-11).all()
        if (variance, lam) != ("large", 1.0):
            assert found[0] > shannon[0] + 1e-3
        assert (np.diff(found) <= 0).all()  # check 24: the rate rises and the distortion falls towards t = 1
    assert (np.diff(gaussian_error(lam)) > 0).all()


# ---- two levels (check 17) ------------------------------------------------------------------------------------------


def total_bits(terms: np.ndarray, second_moment: float) -> float:
    """The bound from the terms' nats of all levels, for data of this mean square."""
    prior = prior_nats(column(np.array([math.sqrt(second_moment)])), SCHEDULE).item()
    return (prior + terms.sum()) / LN2


@pytest.mark.parametrize(
    ("variance", "bits"), [("small", 1.516665926), ("large", 1.997007949), ("optimal", 1.514763193)]
)
def test_the_bound_of_black_or_white_pixels(variance: str, bits: float):
    """Check 17, corrected. The best network says tanh; by symmetry the pixel is white.

    The trapezium rule with step 0.05 over nine deviations: the integrands are analytic within a quarter of the axis
    wherever the density is above 1e-9, which leaves less than 1e-13. Nine decimals in the sheet; the entropy is 1 bit.
    """
    noise = np.arange(-9, 9.01, 0.05)
    weight = np.exp(-(noise**2) / 2) * 0.05 / math.sqrt(2 * math.pi)
    x0, steps = np.ones(T * len(noise)), np.repeat(STEPS, len(noise))
    denoiser = oracle(lambda x, a: torch.tanh(a.sqrt() * x / (1 - a)), "small")
    if variance == "optimal":
        error = each(denoiser, x0, steps, np.tile(noise, T)).squared_error.numpy().reshape(T, -1) @ weight
        denoiser = replace(denoiser, variance="optimal", measured=knowing(error, FIRST_LOG_VARIANCE))
    else:
        denoiser = replace(denoiser, variance=variance)
    terms = each(denoiser, x0, steps, np.tile(noise, T)).nats.numpy().reshape(T, -1) @ weight
    found = total_bits(terms, 1.0)
    assert found == pytest.approx(bits, abs=1e-9)
    assert found > 1
    assert terms[0] / LN2 == pytest.approx(0.5098250702149605, abs=1e-9)
    if variance == "small":
        assert terms[1:].sum() / LN2 == pytest.approx(1.006811741815, abs=1e-9)


# ---- 256 levels (check 18) ------------------------------------------------------------------------------------------

GREY = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def grey_weights(x: Tensor, a: Tensor) -> Tensor:
    """p(level | x_t) of uniformly distributed grey levels, (B, 256)."""
    x, a = x.reshape(-1, 1), a.reshape(-1, 1)
    return torch.softmax(-((x - a.sqrt() * GREY) ** 2) / (2 * (1 - a)), dim=1)


def grey_mean(x: Tensor, a: Tensor) -> Tensor:
    return (grey_weights(x, a) @ GREY).reshape(x.shape)


def grey_nodes(t: int) -> tuple[np.ndarray, ...]:
    """At t >= 2: x_0, noise and weight of the nodes of an integral over x_t, and E[x_0 | x_t] there.

    Nats and squared error are of degree two in x_0, so that p(x_0 | x_t) may be replaced by its mean plus and minus its
    deviation; each pair (x_0, x_t) belongs to one noise. The rest is a trapezium rule of an eighth of its deviation.
    """
    a, sigma = A[t - 1], math.sqrt(1 - A[t - 1])
    x = np.arange(-math.sqrt(a) - 9 * sigma, math.sqrt(a) + 9 * sigma, sigma / 8)
    density = np.exp(-((x[:, None] - math.sqrt(a) * GREY.numpy()) ** 2) / (2 * sigma**2)).mean(1)
    weight = density * (sigma / 8) / (sigma * math.sqrt(2 * math.pi))
    p = grey_weights(column(x), torch.full((len(x),), a, dtype=torch.float64))
    mean = p @ GREY
    deviation = (p * (GREY - mean[:, None]) ** 2).sum(1).sqrt()
    x0 = torch.cat([mean - deviation, mean + deviation]).numpy()
    noise = (np.tile(x, 2) - math.sqrt(a) * x0) / sigma
    return x0, noise, np.tile(weight, 2) / 2, np.tile(mean.numpy(), 2)


def first_grey(denoiser: Denoiser) -> tuple[float, float, float]:
    """At t = 1, expected over the darker half of the levels (the other is its mirror) and 421 nodes of the noise.

    Nats, squared error, and nats if clamped at 1e-12; the clamp is a kink, which is why the nodes are so close.
    """
    noise = np.arange(-8.4, 8.41, 0.04)
    weight = np.tile(np.exp(-(noise**2) / 2) * 0.04 / math.sqrt(2 * math.pi) / 128, 128)
    x0 = np.repeat(GREY.numpy()[:128], len(noise))
    nats, error = (v.numpy() for v in each(denoiser, x0, np.ones(len(x0), np.int64), np.tile(noise, 128)))
    return float(nats @ weight), float(error @ weight), float(np.minimum(nats, 12 * math.log(10)) @ weight)


def test_the_bound_of_uniform_grey_levels():
    """Check 18, corrected: entropy 8 bits; nine decimals in the sheet, eight digits of the error at t = 1.

    The sheet's totals have the exact distribution function but the official clamp, which forgives 5.5e-8 bits; we do
    not, and the totals without it are 8.757056379, 8.123006731 and 8.121288781.
    """
    first_nats, first_error, clamped = first_grey(oracle(grey_mean, "small"))
    assert first_error == pytest.approx(9.9086299e-5, rel=1e-7)
    assert (first_nats - clamped) / LN2 == pytest.approx(5.44e-8, abs=2e-10)
    square = float((GREY**2).mean())
    nodes = [grey_nodes(t) for t in STEPS[1:]]
    x0, noise, weight, mean = (np.concatenate(columns) for columns in zip(*nodes, strict=True))
    counts = [len(one[0]) for one in nodes]

    def expected(variance: str, measured: Measured | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Nats and squared errors at t = 2..T; the network says what grey_mean would."""
        found = each(
            oracle(lambda x, a: column(mean), variance, measured=measured), x0, np.repeat(STEPS[1:], counts), noise
        )
        nats, errors = (np.add.reduceat(v.numpy() * weight, np.cumsum([0, *counts[:-1]])) for v in found)
        return nats, errors

    small, error = expected("small")
    measured = knowing(np.concatenate([[first_error], error]), FIRST_LOG_VARIANCE)
    totals = {"small": total_bits(np.append(small, clamped), square)}
    for variance in ("large", "optimal"):
        terms, _ = expected(variance, measured)
        totals[variance] = total_bits(np.append(terms, clamped), square)
        log_variance = measured.log_variance(SCHEDULE) if variance == "optimal" else SCHEDULE.log_variance(variance)
        closed = closed_form_nats(SCHEDULE, measured.squared_error, log_variance)
        np.testing.assert_allclose(terms, closed[2:], rtol=1e-9)
    assert totals == pytest.approx({"small": 8.757056324, "large": 8.123006676, "optimal": 8.121288727}, abs=1e-9)


# ---- term_nats by itself --------------------------------------------------------------------------------------------


def test_a_term_compares_with_the_posterior_of_the_true_image():
    """The reverse Gaussian set to the posterior itself costs nothing at any t > 1; moved, half its squared distance."""
    steps = torch.tensor([2, 3, 500, 1000])
    x0, noise = pixels(17, (4, 1, 2, 3)), normal(18, (4, 1, 2, 3))
    xt = PROCESS.q_sample(x0, steps, noise=noise)
    log_variance = column(np.log(SCHEDULE.posterior_variance[steps]))
    posterior = Gaussian(PROCESS.posterior_mean(x0, xt, steps), log_variance)
    assert term_nats(posterior, x0, xt, steps, chain=SCHEDULE).abs().max() < 1e-15
    moved = Gaussian(posterior.mean + 2 * (posterior.log_variance / 2).exp(), posterior.log_variance)
    assert term_nats(moved, x0, xt, steps, chain=SCHEDULE).tolist() == pytest.approx([6 * 2.0] * 4, rel=1e-9)
