"""Runs whose network corrects the best linear denoiser: measured at the start, then trained and resumed as all are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ddpm
from ddpm.base.units import images_to_x
from ddpm.errors import InputError
from ddpm.model.checkpoint import find_checkpoint, read_config, read_weights
from ddpm.model.recipe import Recipe
from ddpm.networks.linear import LinearDenoiser

SETTINGS = {
    "batch_size": 16,
    "device": "cpu",
    "data": "digits",
    "process": {"steps": 20, "schedule": "cosine"},
    "training": {"warmup_images": 0, "checkpoint_images": 32, "log_images": 32},
}


def corrected(train_images: int, linear: str = "corrected") -> Recipe:
    network = {"channels": 8, "groups": 4, "linear": linear}
    return ddpm.recipe("digits", train_images=train_images, network=network, **SETTINGS)


@pytest.mark.parametrize("linear", ["corrected", "scalar"])
def test_denoiser_is_measured_on_the_training_images_before_the_first_step(linear: str, tmp_path: Path):
    model = ddpm.load(ddpm.train(corrected(16, linear), out=tmp_path / "run"))
    assert isinstance(model.network, LinearDenoiser)
    images = images_to_x(torch.from_numpy(ddpm.images("digits:train").array()), torch.float64)
    mean = images.mean(0) if linear == "corrected" else images.mean().expand(1, 8, 8)
    assert torch.allclose(model.network.mean.double(), mean, atol=1e-6)
    assert model.network.variance.min() > 0
    assert ddpm.sample(model, seeds=[1], steps=3).shape == (1, 1, 8, 8)


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path):
    ddpm.train(corrected(64), out=tmp_path / "whole")
    ddpm.train(corrected(32), out=tmp_path / "halves")
    ddpm.train(corrected(64), out=tmp_path / "halves")
    held = []
    for name in ("whole", "halves"):
        folder = find_checkpoint(tmp_path / name)
        held.append({kind: read_weights(folder, read_config(folder), kind) for kind in ("ema", "raw")})
    for kind, weights in held[0].items():
        assert set(weights) == set(held[1][kind])
        assert all(torch.equal(value, held[1][kind][name]) for name, value in weights.items())
        assert {"mean", "colours", "variance"} < set(weights)


def test_first_loss_is_already_that_of_the_linear_denoiser(tmp_path: Path):
    plain = ddpm.train(corrected(32, "none"), out=tmp_path / "none")
    helped = ddpm.train(corrected(32), out=tmp_path / "corrected")
    losses = [
        np.mean([float(line.split('"loss": ')[1].split(",")[0]) for line in (run / "metrics.jsonl").open()])
        for run in (plain, helped)
    ]
    assert losses[1] < 0.6 * losses[0]  # a fresh U-Net says 0, and the mean square of the noise is 1


def test_model_without_a_network_samples_and_scores_and_has_nothing_to_train(tmp_path: Path):
    with pytest.raises(InputError, match="nothing to train"):
        ddpm.train(corrected(16, "alone"), out=tmp_path / "run")
    model = ddpm.load("linear")
    assert ddpm.sample(model, seeds=[0], steps=2).shape == (1, 3, 32, 32)
    assert ddpm.show("linear")["parameters"] == 0


@pytest.mark.parametrize("linear", ["corrected", "scalar"])
def test_linear_denoiser_guesses_noise_and_nothing_else(linear: str):
    with pytest.raises(InputError, match=r"network.linear.*eps"):
        ddpm.recipe("digits", network={"linear": linear}, objective={"prediction": "v"})
