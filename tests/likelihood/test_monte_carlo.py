"""The one place that calls the network: terms as the bound defines them, noise by number, images dealt out evenly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddpm.base.noise import normals, stream_keys
from ddpm.base.units import images_to_x
from ddpm.diffusion.bound import prior_nats, step_term
from ddpm.diffusion.schedule import make_schedule
from ddpm.errors import InputError
from ddpm.likelihood import monte_carlo as module
from ddpm.likelihood.monte_carlo import Calls, balanced
from scorings import Counting, Network, pixels, scoring_of

SHORT = make_schedule(steps=40, beta_start=2e-3, beta_end=0.4)
RANDOM = np.random.default_rng(0)
PLAN = Calls(RANDOM.integers(0, 6, 30), RANDOM.integers(1, 41, 30), RANDOM.permutation(30))


@pytest.mark.parametrize("chain", [SHORT, SHORT.subset([2, 5, 9, 40])], ids=["all levels", "a few"])
def test_terms_are_step_terms_with_the_noise_of_their_number(chain):
    scoring = scoring_of(SHORT, pixels(6), chain=chain, wobble=0.2, seed=5, batch_size=7)
    plan = PLAN._replace(steps=(PLAN.steps - 1) % chain.steps + 1)
    found = scoring.terms(plan, "a test")
    for k, (image, step, number) in enumerate(zip(*plan, strict=True)):
        x0 = images_to_x(torch.from_numpy(pixels(6)[image : image + 1]), torch.float64)
        noise = normals(stream_keys("a test", 5, torch.tensor([number])), x0.shape[1:]).double()
        term = step_term(scoring.denoiser, x0, torch.tensor([step]), noise=noise, chain=chain)
        assert found.nats[k] == pytest.approx(float(term.nats), rel=1e-9)
        assert found.squared_error[k] == pytest.approx(float(term.squared_error), rel=1e-9)


def test_noise_depends_on_purpose_seed_and_number_alone():
    one, other = (scoring_of(SHORT, pixels(6), seed=seed) for seed in (0, 1))
    _, noise, _ = one.inputs(np.array([0, 1, 0]), np.array([3, 4, 3]), "p")
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, one.inputs(np.array([0, 1, 0]), np.array([3, 4, 3]), "q")[1])
    assert not torch.equal(noise, other.inputs(np.array([0, 1, 0]), np.array([3, 4, 3]), "p")[1])


@pytest.mark.parametrize("batch_size", [1, 7, 30, 1000])
def test_batches_have_the_size_asked_for_and_change_nothing(batch_size: int):
    network, told = Network(SHORT, wobble=0.2), []
    scoring = scoring_of(SHORT, pixels(6), denoiser={"network": network}, batch_size=batch_size, advance=told.append)
    found = scoring.terms(PLAN, "a test")
    assert told == [min(batch_size, 30 - start) for start in range(0, 30, batch_size)]
    assert network.calls == 30
    whole = scoring_of(SHORT, pixels(6), wobble=0.2).terms(PLAN, "a test")
    np.testing.assert_allclose(found.nats, whole.nats, rtol=1e-10)


def test_labels_go_with_their_images():
    network, labels = Network(SHORT), np.array([4, 3, 2, 1, 0, 5])
    scoring_of(SHORT, pixels(6), denoiser={"network": network}, labels=labels, batch_size=8).terms(PLAN, "a test")
    assert (torch.cat(network.seen).numpy() == labels[PLAN.images]).all()


def test_nothing_is_kept_for_gradients():
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    scoring = scoring_of(SHORT, pixels(6), denoiser={"network": lambda x, t, labels=None: weight * x})
    assert scoring.terms(PLAN, "a test").nats.dtype == np.float64
    assert weight.grad is None


def test_a_stage_shows_the_calls_of_its_scoring_and_of_no_other():
    scoring, progress = scoring_of(SHORT, pixels(6), batch_size=7), Counting()
    with scoring.shown(progress, "Some calls", 30) as counted:
        assert progress.stages == {"Some calls": [0, 30]}
        assert counted.terms(PLAN, "a test").nats.tolist() == scoring.terms(PLAN, "a test").nats.tolist()
    assert progress.stages == {"Some calls": [30, 30]}


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_network_whose_output_is_not_numbers_is_named(wrong: float):
    broken = scoring_of(SHORT, pixels(6), denoiser={"network": lambda x, t, labels=None: x * wrong}, name="'a model'")
    with pytest.raises(InputError, match="'a model'"):
        broken.terms(PLAN, "a test")


def test_likelihoods_are_strict_inside_any_autocast():
    def network(x, time, labels=None):
        seen.append((torch.ones(1, 1) @ torch.ones(1, 1)).dtype)
        return x

    seen: list[torch.dtype] = []
    scoring = scoring_of(SHORT, pixels(6), denoiser={"network": network})
    with torch.autocast("cpu", torch.bfloat16):
        scoring.terms(Calls(np.array([0]), np.array([1]), np.array([0])), "noise")
    assert seen == [torch.float32]


def test_too_little_memory_is_said_with_the_batch_size():
    def full(x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(InputError, match=r"37 images.*cpu.*smaller batch size"):
        scoring_of(SHORT, pixels(6), denoiser={"network": full}, batch_size=37).terms(PLAN, "a test")


def test_too_little_memory_for_the_noise_is_said_alike(monkeypatch: pytest.MonkeyPatch):
    def full(*given: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(module, "normals", full)
    with pytest.raises(InputError, match=r"37 images.*cpu.*smaller batch size"):
        scoring_of(SHORT, pixels(6), batch_size=37).inputs(np.array([0]), np.array([0]), "a test")


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_the_prior_is_that_of_the_images_asked_for(batch_size: int):
    scoring = scoring_of(SHORT, pixels(6), batch_size=batch_size)
    images = np.array([5, 0, 0, 3, 1])
    x0 = images_to_x(torch.from_numpy(pixels(6)[images]), torch.float64)
    np.testing.assert_allclose(scoring.prior(images), prior_nats(x0, SHORT).numpy(), rtol=1e-12)


def test_dimensions_are_channels_times_pixels():
    assert scoring_of(SHORT, pixels(2, (3, 4, 5))).dimensions == 60


# ---- dealing out ----------------------------------------------------------------------------------------------------


@given(images=st.integers(1, 30), count=st.integers(0, 100), seed=st.integers(0, 50))
def test_images_are_dealt_out_as_often_as_each_other_give_or_take_one(images: int, count: int, seed: int):
    dealt = balanced(np.random.default_rng(seed), images, count)
    counts = np.bincount(dealt, minlength=images)
    assert dealt.shape == (count,)
    assert dealt.dtype == np.int64
    assert len(counts) == images
    assert counts.max() - counts.min() <= 1


def test_every_image_comes_equally_often_at_every_place():
    """2,000 deals of 7 from 5: a cell expects 400 with a deviation of 17.9; 5 of them among 35 cells."""
    draw = np.random.default_rng(0)
    deals = np.stack([balanced(draw, 5, 7) for _ in range(2000)])
    for place in deals.T:
        assert np.abs(np.bincount(place, minlength=5) - 400).max() < 5 * 17.9
