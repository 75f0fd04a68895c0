"""The causal model as it is fitted: it learns, and its integers cost what its floats do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddpm.codec.pixel_model import Canvas, CausalModel, width
from ddpm.tuning.pixel_model_fit import FloatLayers, code_length, fit_causal


def test_integers_of_a_fitted_model_cost_what_its_floats_do():
    draw = np.random.default_rng(9)
    smooth = np.clip(np.cumsum(draw.integers(-6, 7, (24, 1, 12, 12)), axis=3) + 120, 0, 255)
    pixels = smooth.astype(np.uint8)
    guess = np.clip(smooth * 16 + draw.integers(-200, 200, smooth.shape), 0, 4080)
    model = fit_causal(guess, pixels, steps=60)
    _, bits = model.encode(guess, pixels)
    _, untrained = CausalModel((FloatLayers(width(1, 0), 0).integers(),)).encode(guess, pixels)
    assert bits.sum() < 0.8 * untrained.sum()
    floats = FloatLayers(width(1, 0), 0)
    canvas, (image, row, column) = Canvas.of(guess), (part.ravel() for part in np.indices((24, 12, 12)))
    canvas.put(0, image, row, column, pixels[image, 0, row, column].astype(int))
    with torch.no_grad():
        said = floats(torch.from_numpy(canvas.inputs(0, image, row, column)).float())
        centre = torch.from_numpy(canvas.centre(0, image, row, column) / 16).float()
        exact = code_length(said, centre, torch.from_numpy(pixels[image, 0, row, column]).float())
    assert float(exact.sum()) == pytest.approx(untrained.sum(), rel=0.005)
