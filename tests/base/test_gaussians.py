"""Gaussians: samples, and the divergence of one from another, to the last digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp, mpf  # comes with torch, by way of sympy

from ddpm.base.gaussians import Gaussian
from ddpm.base.units import bits


def single(mean: float, log_variance: float, dtype: torch.dtype = torch.float64) -> Gaussian:
    return Gaussian(*(torch.full((1, 1, 1, 1), value, dtype=dtype) for value in (mean, log_variance)))


def exact_kl(m1: float, v1: float, m2: float, v2: float) -> float:
    """From its definition, in 60 digits; v are logarithms."""
    with mp.workdps(60):
        ratio = mpf(v1) - mpf(v2)
        return float((mp.exp(ratio) - 1 - ratio + (mpf(m1) - mpf(m2)) ** 2 * mp.exp(-mpf(v2))) / 2)


@given(st.floats(-3, 3), st.floats(-12, 3), st.floats(-3, 3), st.floats(-12, 3))
def test_divergence_is_its_closed_form(m1: float, v1: float, m2: float, v2: float):
    """Absolute 1e-15 for the cancellation of expm1(d) - d, whose terms are as large as d."""
    found = single(m1, v1).kl(single(m2, v2)).item()
    assert found == pytest.approx(exact_kl(m1, v1, m2, v2), rel=1e-12, abs=1e-15)


def test_divergence_is_the_mean_of_the_log_ratio_by_quadrature():
    """KL(p || q) = E_p ln p/q, with 40 Gauss-Hermite nodes for a polynomial of degree two."""
    p, q = single(0.3, -1.2), single(-0.4, 0.7)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    x = 0.3 + math.exp(-0.6) * nodes
    log_p = -0.5 * (-1.2 + (x - 0.3) ** 2 * math.exp(1.2))
    log_q = -0.5 * (0.7 + (x + 0.4) ** 2 * math.exp(-0.7))
    expected = (weights * (log_p - log_q)).sum() / weights.sum()
    assert p.kl(q).item() == pytest.approx(expected, rel=1e-12)
    assert q.kl(p).item() != pytest.approx(expected, rel=0.1)  # it is not symmetric


def test_divergence_of_a_gaussian_from_itself_is_exactly_zero_and_never_negative():
    assert single(0.4, -9.7).kl(single(0.4, -9.7)).item() == 0
    for apart in (1e-3, 1e-6, 1e-9, 1e-12):  # rounding of the two equal terms alone
        assert single(0.4, -1.0).kl(single(0.4, -1.0 + apart)).item() >= -1e-16


def test_divergence_of_nearly_equal_variances_keeps_its_digits():
    """Log-variances d apart cost d^2 / 4, of which expm1 keeps all but the rounding of d: a relative 1e-16 / d.

    Large and small differ by 8e-7 at t = 1000, where exp would leave nothing of the term's 1.7e-13.
    """
    for apart in (1e-3, 1e-5, 8e-7):
        found = single(0.0, 0.0).kl(single(0.0, apart)).item()
        assert found == pytest.approx(exact_kl(0, 0, 0, apart), rel=1e-15 / apart, abs=0)
        assert found == pytest.approx(apart**2 / 4, rel=apart, abs=0)


def test_log_variances_of_one_an_image_broadcast_over_its_pixels():
    mean = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 2, 2)))
    narrow = torch.tensor([-1.0, -2.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    one, other = Gaussian(mean, narrow), Gaussian(0 * mean, narrow + 0.5)
    found = one.kl(other)
    assert found.shape == mean.shape
    for k in range(2):
        expected = exact_kl(mean[k, 2, 1, 0].item(), narrow[k].item(), 0, narrow[k].item() + 0.5)
        assert found[k, 2, 1, 0].item() == pytest.approx(expected, rel=1e-12)


def test_a_sample_is_the_mean_and_deviations_of_noise():
    noise = torch.tensor([[[[-1.0, 0.0, 2.0]]]], dtype=torch.float64)
    found = single(0.5, math.log(0.09)).sample(noise).flatten().tolist()
    assert found == pytest.approx([0.2, 0.5, 1.1], rel=1e-12)


def test_a_nat_is_1_44_bits():
    assert bits(math.log(256)) == pytest.approx(8, rel=1e-15)
    assert bits(0) == 0
