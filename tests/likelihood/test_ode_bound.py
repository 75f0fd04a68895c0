"""Bits by the probability-flow ODE: as many images as the budget allows, and beside the bound on one model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddpm.base.noise import normals, stream_keys
from ddpm.base.seeding import generator
from ddpm.base.units import BIN, bits, images_to_x
from ddpm.diffusion.schedule import make_schedule
from ddpm.errors import InputError
from ddpm.likelihood.estimate import estimate_bound
from ddpm.likelihood.ode import EXACT_DIMENSIONS, VALUES_AT_ONCE, ode_term
from ddpm.likelihood.ode_bound import calls_per_image, images_within, ode_bound
from scorings import SPREAD, Network, pixels, scoring_of

PAPER = make_schedule()


@pytest.mark.parametrize(("calls", "steps", "images"), [(404, 40, 2), (4096, 40, 20), (4096, 1, 585), (14, 1, 2)])
def test_an_image_takes_five_calls_a_step_and_two_for_start_and_decoder(calls: int, steps: int, images: int):
    assert images_within(calls, steps) == images


def test_a_budget_for_less_than_two_images_is_refused_with_one_that_fits():
    with pytest.raises(InputError, match="calls must be at least 404"):
        images_within(403, 40)
    assert images_within(404, 40) == 2
    with pytest.raises(InputError, match="solver steps"):
        images_within(4096, 0)


@pytest.mark.parametrize(("shape", "trace"), [((1, 2, 4), "exact"), ((1, 17, 16), "Hutchinson")])
@pytest.mark.parametrize("seed", [0, 3, -1])
def test_the_calls_are_those_made_and_large_images_take_probes(
    shape: tuple[int, int, int], trace: str, seed: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(VALUES_AT_ONCE, "cpu", 1)  # no copies of an image in a call
    network, told = Network(PAPER), []
    scoring = scoring_of(
        PAPER, pixels(9, shape), denoiser={"network": network}, advance=told.append, batch_size=2, seed=seed
    )
    found = ode_bound(scoring, calls=110, steps=4)
    made = 5 * (1 + 4 * 5 + 1)  # the start's, five a step, and the decoder's
    assert (found.images, found.calls, found.steps, found.trace) == (5, made, 4, trace)
    assert network.calls == sum(told) == made == 5 * calls_per_image(4)
    assert (np.prod(shape) <= EXACT_DIMENSIONS) == (trace == "exact")
    assert found.total.error > 0


def test_a_budget_beyond_the_set_takes_each_image_once():
    found = ode_bound(scoring_of(PAPER, pixels(3)), calls=4096, steps=4)
    assert (found.images, found.calls) == (3, calls_per_image(4) * 3)


def test_means_and_errors_are_those_of_the_images():
    """Image by image with the same noise: which image has which number is drawn by the seed."""
    scoring = scoring_of(PAPER, pixels(5), wobble=0.05, seed=2)
    found = ode_bound(scoring, calls=1000, steps=8)
    order = generator("ode", 2).permutation(5)
    x0 = images_to_x(torch.from_numpy(pixels(5)[order]), torch.float64)
    noise = normals(stream_keys("ode noise", 2, torch.arange(5)), x0.shape[1:]).double()
    term = ode_term(scoring.denoiser, x0, noise=noise, steps=8)
    scale = bits(1.0) / 8
    for name, nats in {"flow": term.flow, "decoder": term.decoder, "total": term.flow + term.decoder}.items():
        part = getattr(found, name)
        assert part.value == pytest.approx(scale * float(nats.mean()), rel=1e-9)
        assert part.error == pytest.approx(scale * float(nats.std()) / 5**0.5, rel=1e-7)
    assert found.total.value == pytest.approx(found.flow.value + found.decoder.value, rel=1e-12)


def test_the_answer_does_not_depend_on_the_batch_size_but_on_the_seed():
    totals = {
        seed: [
            ode_bound(scoring_of(PAPER, pixels(9), seed=seed, batch_size=size), calls=80, steps=4).total.value
            for size in (1, 4, 100)
        ]
        for seed in (0, 1)
    }
    for found in totals.values():
        assert found == pytest.approx([found[0]] * 3, rel=1e-10)
    assert totals[0] != totals[1]


def test_beside_the_bound_on_gaussian_data_it_costs_no_more():
    """The exact network on Gaussian data: both are upper bounds on the entropy of grey levels, which is
    1/2 log2(2 pi e s^2) - log2 bin a pixel to 1e-4 (bins of s / 38). The flow reaches it but for the decoder: the
    dequantised decoder of fixed variance loses up to half a bit. The variational bound loses as much, and the KLs."""
    images = pixels(3000)
    flow = ode_bound(scoring_of(PAPER, images), calls=30 * 5 * 200, steps=30)
    bound = estimate_bound(scoring_of(PAPER, images), 8000)
    entropy = 0.5 * np.log2(2 * np.pi * np.e * SPREAD**2) - np.log2(BIN)
    error = np.hypot(flow.total.error, bound.total.error)
    assert flow.total.value > entropy - 3 * flow.total.error
    assert flow.total.value < entropy + 0.5 + 3 * flow.total.error
    assert flow.total.value < bound.total.value + 3 * error
    assert flow.decoder.value == pytest.approx(
        bound.decoder.value, abs=5 * np.hypot(flow.decoder.error, bound.decoder.error)
    )
