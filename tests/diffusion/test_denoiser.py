"""What the network's output becomes: its clock, its dtype, its halves, clipping, and the reverse Gaussian."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm.diffusion.denoiser import LEARNED, OPTIMAL, REVERSE_VARIANCES, Denoiser, Output
from ddpm.diffusion.optimal_variance import Measured
from ddpm.diffusion.process import PREDICTIONS, Process
from ddpm.diffusion.schedule import VARIANCES, make_schedule
from ddpm.errors import InputError
from ddpm.samplers.spacing import spaced

THRESHOLD = {False: "none", True: "static"}
T = 1000
SCHEDULE = make_schedule()
PROCESS = Process(SCHEDULE)
ALPHA_BAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, T))])

EVERY_PREDICTION = pytest.mark.parametrize("prediction", PREDICTIONS)
SHAPE = (3, 2, 4, 6)


class Says:
    """A network that always says the same, and remembers what it was asked."""

    def __init__(self, output: Tensor) -> None:
        self.said = output
        self.asked: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        self.asked.append((x, time, labels))
        return self.said.to(x.dtype)


def normal(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(SHAPE)).to(dtype)


def output_for(prediction: str, x0: Tensor, xt: Tensor, t: int) -> Tensor:
    """What a network must say at level t to mean x0, from the definitions."""
    a, before = ALPHA_BAR[t], ALPHA_BAR[t - 1]
    eps = (xt - math.sqrt(a) * x0) / math.sqrt(1 - a)
    beta = 1 - a / before
    mean = math.sqrt(before) * beta / (1 - a) * x0 + math.sqrt(1 - beta) * (1 - before) / (1 - a) * xt
    return {"eps": eps, "x0": x0, "v": math.sqrt(a) * eps - math.sqrt(1 - a) * x0, "mean": mean}[prediction]


def posterior_mean(x0: Tensor, xt: Tensor, s: int, t: int) -> Tensor:
    """The mean of q(x_s | x_t, x_0) for any two levels s < t, from the precisions of its two factors."""
    if s == 0:
        return x0
    here, rest = ALPHA_BAR[s], ALPHA_BAR[t] / ALPHA_BAR[s]
    precision = 1 / (1 - here) + rest / (1 - rest)
    return (math.sqrt(here) / (1 - here) * x0 + math.sqrt(rest) / (1 - rest) * xt) / precision


# ---- what the network is asked --------------------------------------------------------------------------------------


def test_the_network_counts_its_times_from_zero():
    network = Says(normal(0))
    denoiser = Denoiser(network, PROCESS)
    denoiser.output(normal(1), torch.tensor([1, 500, 1000]))
    assert network.asked[-1][1].tolist() == [0, 499, 999]
    for step in (1, 2, 1000):
        denoiser.reverse(normal(1), step, chain=SCHEDULE)
        assert network.asked[-1][1].tolist() == [step - 1] * 3


def test_on_a_strided_chain_the_network_hears_the_level_of_the_full_process():
    network = Says(normal(0))
    Denoiser(network, PROCESS).reverse(normal(1), 2, chain=SCHEDULE.subset([7, 401]))
    assert network.asked[-1][1].tolist() == [400] * 3


def test_labels_reach_the_network_as_they_are():
    network, labels = Says(normal(0)), torch.tensor([4, 0, 9])
    denoiser, t = Denoiser(network, PROCESS), torch.tensor([5, 6, 7])
    denoiser.output(normal(1), t, labels)
    denoiser.x0(normal(1), t, labels)
    denoiser.reverse(normal(1), 3, chain=SCHEDULE, labels=labels)
    assert all(torch.equal(heard, labels) for _, _, heard in network.asked)
    denoiser.output(normal(1), t)
    assert network.asked[-1][2] is None


@pytest.mark.parametrize("inside", [torch.float32, torch.float64])
@pytest.mark.parametrize("outside", [torch.float32, torch.float64])
def test_the_network_works_in_its_own_dtype_and_the_chain_in_that_of_the_state(inside, outside):
    network, xt = Says(normal(0)), normal(1, outside)
    step = Denoiser(network, PROCESS, dtype=inside).reverse(xt, 1000, chain=SCHEDULE)
    assert network.asked[-1][0].dtype == inside
    assert torch.equal(network.asked[-1][0], xt.to(inside))
    assert step.x0.dtype == step.gaussian.mean.dtype == step.gaussian.sample(xt).dtype == outside


def test_a_float32_network_still_gives_float64_arithmetic_around_it():
    """Its output is rounded once; x0 = 157 xt - 157 eps afterwards is exact to 1e-13, not to float32's 1e-5."""
    xt, eps = normal(1), normal(2)
    x0 = Denoiser(Says(eps), PROCESS, threshold="none").x0(xt, torch.full((3,), T))
    a = ALPHA_BAR[T]
    assert (x0 - (xt - math.sqrt(1 - a) * eps.float().double()) / math.sqrt(a)).abs().max() < 1e-10


# ---- what its output means ------------------------------------------------------------------------------------------


@EVERY_PREDICTION
@pytest.mark.parametrize("t", [1, 2, 500, 1000])
def test_every_prediction_is_read_as_the_image_it_means(prediction: str, t: int):
    x0, xt = normal(3).clamp(-1, 1), normal(4)
    denoiser = Denoiser(Says(output_for(prediction, x0, xt, t)), PROCESS, prediction, dtype=torch.float64)
    assert (denoiser.x0(xt, torch.full((3,), t)) - x0).abs().max() < 1e-10


@EVERY_PREDICTION
@pytest.mark.parametrize("clip", [False, True])
def test_the_predicted_image_is_clipped_only_when_asked(prediction: str, clip: bool):
    x0, xt = 2 * normal(5), normal(6)
    denoiser = Denoiser(
        Says(output_for(prediction, x0, xt, 300)), PROCESS, prediction, threshold=THRESHOLD[clip], dtype=torch.float64
    )
    expected = x0.clamp(-1, 1) if clip else x0
    assert (denoiser.x0(xt, torch.full((3,), 300)) - expected).abs().max() < 1e-10
    assert (denoiser.reverse(xt, 300, chain=SCHEDULE).x0 - expected).abs().max() < 1e-10


@EVERY_PREDICTION
@pytest.mark.parametrize("levels", [(1, 2), (1,), (499, 500), (250, 500), (2, 1000), (1000,)])
def test_the_image_is_clipped_before_the_posterior_mean_is_formed_and_the_mean_is_not(prediction: str, levels):
    """The mean lies outside [-1, 1] where x_t does. A network that says the mean itself is believed, if the chain
    takes the very step that it means; over a longer step its image is solved for, and clipped like the others.
    """
    x0, xt = 2 * normal(7), 3 * normal(8)
    s, t = (0, *levels)[-2:]
    denoiser = Denoiser(Says(output_for(prediction, x0, xt, t)), PROCESS, prediction, dtype=torch.float64)
    found = denoiser.reverse(xt, len(levels), chain=SCHEDULE.subset(levels)).gaussian.mean
    believed = prediction == "mean" and t - s == 1
    assert (found - posterior_mean(x0 if believed else x0.clamp(-1, 1), xt, s, t)).abs().max() < 1e-10
    if s and t < T:
        assert found.abs().max() > 1


def test_a_network_that_says_the_mean_is_believed_bit_for_bit():
    said = normal(9)
    step = Denoiser(Says(said), PROCESS, "mean", dtype=torch.float64).reverse(normal(8), 77, chain=SCHEDULE)
    assert torch.equal(step.gaussian.mean, said)


@pytest.mark.parametrize("variance", VARIANCES)
def test_reverse_variances_are_the_chains_own(variance: str):
    """beta or the posterior variance between the chain's levels; step 1 takes the posterior variance of step 2."""
    levels = [0, 1, 2, 3, 400, 1000]
    chain, denoiser = SCHEDULE.subset(levels), Denoiser(Says(normal(0)), PROCESS, variance=variance)
    for step in range(1, len(levels)):
        s, t = (levels[step - 1], levels[step]) if step > 1 else (levels[1], levels[2])
        beta = 1 - ALPHA_BAR[t] / ALPHA_BAR[s]
        small = beta * (1 - ALPHA_BAR[s]) / (1 - ALPHA_BAR[t])
        wanted = beta if variance == "large" and step > 1 else small
        for one_or_all in (step, torch.full((3,), step)):
            found = denoiser.reverse(normal(1), one_or_all, chain=chain).gaussian.log_variance.exp()
            assert found.flatten().tolist() == pytest.approx([wanted] * found.numel(), rel=1e-9)


@EVERY_PREDICTION
def test_translation_leaves_gradients_to_the_network(prediction: str):
    """Training and later editing differentiate through it; clipping is off, as in training."""
    said = normal(0).requires_grad_()
    denoiser = Denoiser(Says(said), PROCESS, prediction, threshold="none", dtype=torch.float64)
    denoiser.x0(normal(1), torch.tensor([1, 400, 1000])).sum().backward()
    assert said.grad is not None
    assert (said.grad != 0).all()


# ---- what it says of the variance -----------------------------------------------------------------------------------


def both(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A prediction, a spread, and the output of a network that says both."""
    prediction, spread = normal(seed), normal(seed + 100)
    return prediction, spread, torch.cat([prediction, spread], dim=1)


def measured() -> Measured:
    """Errors that tell all levels apart, and a decoder fitted at levels 1 and 7."""
    decoder = np.full(T + 1, np.nan)
    decoder[[1, 7]] = -9.0, -6.0
    return Measured(
        squared_error=np.linspace(0, 0.5, T + 1) + 1e-4,
        decoder_log_variance=decoder,
        decoder_nats=decoder,
        second_moment=0.25,
    )


def speaking(variance: str, said: Tensor) -> Denoiser:
    return Denoiser(Says(said), PROCESS, "x0", variance, dtype=torch.float64, measured=measured())


def test_the_list_of_variances_is_the_fixed_the_learned_and_the_measured():
    listed = list(REVERSE_VARIANCES)
    assert listed == [*VARIANCES, *LEARNED, OPTIMAL]
    assert len(set(REVERSE_VARIANCES)) == len(REVERSE_VARIANCES)


def test_the_first_half_of_the_channels_predicts_and_the_second_spreads():
    prediction, spread, said = both(0)
    found = Denoiser(Says(said), PROCESS, dtype=torch.float64).output(normal(1), torch.tensor([1, 2, 3]))
    assert isinstance(found, Output)
    assert torch.equal(found.prediction, prediction)
    assert found.spread is not None
    assert torch.equal(found.spread, spread)


def test_a_network_of_as_many_channels_as_the_image_has_no_spread():
    found = Denoiser(Says(normal(0)), PROCESS, dtype=torch.float64).output(normal(1), torch.tensor([1, 2, 3]))
    assert torch.equal(found.prediction, normal(0))
    assert found.spread is None


@pytest.mark.parametrize("variance", REVERSE_VARIANCES)
def test_the_spread_moves_the_variance_and_nothing_else(variance: str):
    """The prediction is read alike under all; fixed and measured variances do not hear the spread."""
    prediction, spread, said = both(2)
    other = torch.cat([prediction, spread + 0.5], dim=1)
    one, two = (speaking(variance, output).reverse(normal(3), 400, chain=SCHEDULE) for output in (said, other))
    assert torch.equal(one.x0, two.x0)
    assert torch.equal(one.x0, prediction.clamp(-1, 1))
    assert torch.equal(one.gaussian.mean, two.gaussian.mean)
    moved = (one.gaussian.log_variance != two.gaussian.log_variance).all()
    assert bool(moved) == (variance in LEARNED)


@pytest.mark.parametrize("t", [1, 2, 500, 1000])
def test_a_learned_variance_is_said_outright_pixel_by_pixel(t: int):
    _, spread, said = both(4)
    assert torch.equal(speaking("learned", said).reverse(normal(5), t, chain=SCHEDULE).gaussian.log_variance, spread)


@pytest.mark.parametrize("levels", [None, (1, 2, 400, 1000), (30, 500)])
def test_a_range_leads_from_small_to_large_and_beyond(levels: tuple[int, ...] | None):
    """Logarithms, -1 small and +1 large (Nichol & Dhariwal 2021, eq. 15); at step 1 from beta~ of step 2 to beta_1."""
    chain = SCHEDULE.subset(levels) if levels else SCHEDULE
    steps = range(1, chain.steps + 1) if levels else (1, 2, 3, 500, 1000)
    for step in steps:
        s, t = chain.levels[step - 1], chain.levels[step]
        beta = 1 - ALPHA_BAR[t] / ALPHA_BAR[s]
        u, v = (s, t) if step > 1 else (chain.levels[1], chain.levels[2])
        small = (1 - ALPHA_BAR[v] / ALPHA_BAR[u]) * (1 - ALPHA_BAR[u]) / (1 - ALPHA_BAR[v])
        for place in (-1.0, 0.0, 1.0, 3.0, -2.5):
            said = torch.cat([normal(6), torch.full(SHAPE, place, dtype=torch.float64)], dim=1)
            found = speaking("range", said).reverse(normal(7), step, chain=chain).gaussian.log_variance
            expected = math.log(small) + (place + 1) / 2 * (math.log(beta) - math.log(small))
            assert found.flatten().tolist() == pytest.approx([expected] * found.numel(), rel=1e-9)


@pytest.mark.parametrize("levels", [None, (1, 2, 400, 1000), (7, 8, 600), (30, 500), (900,)])
def test_optimal_variances_are_what_was_measured_for_the_chain(levels: tuple[int, ...] | None):
    chain = SCHEDULE.subset(levels) if levels else SCHEDULE
    denoiser, table = speaking("optimal", normal(8)), measured().log_variance(chain)
    steps = torch.tensor([1, min(2, chain.steps), chain.steps])
    found = denoiser.reverse(normal(9), steps, chain=chain).gaussian.log_variance
    assert found.flatten().tolist() == pytest.approx(table[steps.numpy()].tolist(), rel=1e-15)


@pytest.mark.parametrize("variance", REVERSE_VARIANCES)
@EVERY_PREDICTION
def test_steps_of_a_batch_may_differ(prediction: str, variance: str):
    """Each image of a batch gets what it would get were all at its step; on a chain that leaves out levels too."""
    _, _, said = both(10)
    chain = SCHEDULE if variance == "learned" else SCHEDULE.subset([1, 2, 3, 400, 999, 1000])
    denoiser, xt = replace(speaking(variance, said), prediction=prediction), normal(11)
    steps = torch.tensor([1, 4, chain.steps])
    found = denoiser.reverse(xt, steps, chain=chain)
    assert denoiser.network.asked[-1][1].tolist() == (chain.levels[steps.numpy()] - 1).tolist()
    for k, step in enumerate(steps.tolist()):
        alone = denoiser.reverse(xt, step, chain=chain)
        assert torch.equal(found.x0[k], alone.x0[k])
        assert torch.equal(found.gaussian.mean[k], alone.gaussian.mean[k])
        one, other = (step.gaussian.log_variance.expand(SHAPE)[k] for step in (found, alone))
        assert torch.equal(one, other)


@pytest.mark.parametrize("variance", REVERSE_VARIANCES)
def test_reading_an_output_is_the_second_half_of_a_reverse_step(variance: str):
    _, _, said = both(12)
    denoiser, xt, steps = speaking(variance, said), normal(13), torch.tensor([1, 400, 1000])
    whole = denoiser.reverse(xt, steps, chain=SCHEDULE)
    read = denoiser.read(denoiser.output(xt, steps), xt, steps, chain=SCHEDULE)
    assert len(denoiser.network.asked) == 2
    assert torch.equal(whole.x0, read.x0)
    assert torch.equal(whole.gaussian.mean, read.gaussian.mean)
    assert torch.equal(whole.gaussian.log_variance, read.gaussian.log_variance)


def refusal(denoiser: Denoiser, steps: int = T) -> str:
    with pytest.raises(InputError) as caught:
        denoiser.reverse(normal(14), steps, chain=spaced(SCHEDULE, "uniform", steps))
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("variance", LEARNED)
def test_a_learned_variance_of_a_network_without_channels_for_it_is_refused(variance: str):
    assert f"'{variance}'" in refusal(speaking(variance, normal(15)))


def test_variances_learned_pixel_by_pixel_are_refused_on_fewer_levels():
    assert "full chain" in refusal(speaking("learned", both(16)[2]), 50)


def test_an_optimal_variance_that_was_not_measured_is_refused():
    assert "ddpm tune" in refusal(replace(speaking("optimal", normal(17)), measured=None))


def test_an_unknown_variance_is_refused_with_the_known_ones():
    assert "large, small" in refusal(speaking("huge", normal(18)))
