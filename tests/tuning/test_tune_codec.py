"""Making a codec: levels of equal divergence, errors as they are, bits to match; and the side file that keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ddpm
from ddpm.codec.codec_data import codec_data_of, codec_file, make_codec
from ddpm.diffusion.schedule import make_schedule
from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.model.scoring import scoring_for
from ddpm.training.linear_model import linear_images, make_linear
from ddpm.tuning.codec import OVERHEAD, STEP_BITS, place_steps, stop_level, tune_codec


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ddpm.model.Model:
    """A linear model of digits."""
    return ddpm.load(make_linear(ddpm.images("digits:train"), tmp_path_factory.mktemp("digits") / "linear"))


def test_steps_cost_what_the_formula_says_on_exact_jumps(model):
    levels, errors, bits = place_steps(scoring_for(model, ddpm.images("digits:train"), limit=256))
    schedule = model.denoiser.process.schedule
    assert levels[0] == schedule.steps
    assert levels[-1] == stop_level(schedule)
    assert list(levels) == sorted(levels, reverse=True)
    assert len(errors) == len(levels) == len(bits) + 1
    rise = np.diff(schedule.snr[list(levels)])
    divergence = 32 * np.log2(1 + rise * np.array(errors[:-1]))  # half of 64 dimensions
    assert np.abs(np.array(bits) - OVERHEAD * divergence).max() <= 1
    assert (divergence[:-1] >= STEP_BITS).all()


def test_errors_are_those_of_the_denoiser(model):
    levels, errors, _ = place_steps(scoring_for(model, ddpm.images("digits:train"), limit=256))
    images = torch.from_numpy(ddpm.images("digits:train").array()).double() / 127.5 - 1
    draw = torch.Generator().manual_seed(3)
    for level, error in list(zip(levels, errors, strict=True))[1::2]:
        xt = model.denoiser.process.q_sample(
            images, torch.full((len(images),), level), noise=torch.randn(images.shape, generator=draw).double()
        )
        found = float(((model.denoiser.x0(xt, level) - images) ** 2).mean())
        assert error == pytest.approx(found, rel=0.06)  # 256 images, and linear between levels


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_chain_stops_where_the_noise_is_eighteen_grey_levels(name: str):
    schedule = make_schedule(name)
    level = stop_level(schedule)
    assert schedule.sigma[level] / schedule.signal[level] * 127.5 == pytest.approx(18, abs=0.5)


def test_codec_of_a_model_is_the_same_again(model):
    made = []
    for _ in range(2):
        tune_codec(model, ddpm.images("digits:train"), fit_steps=5, force=True)
        made.append(codec_data_of(model))
    assert made[0].own_sha256 == made[1].own_sha256
    assert made[0].weights_sha256 == model.weights_sha256
    codec = make_codec(model, made[0])
    assert codec.fingerprint == made[0].own_sha256


def test_side_file_is_plain_signed_and_of_its_weights(model, tmp_path: Path):
    tune_codec(model, ddpm.images("digits:train"), fit_steps=5, force=True)
    path = codec_file(Path(model.source), "averaged")
    text = path.read_text()
    table = json.loads(text)
    assert all(isinstance(number, int) for row in table["causal"][0]["first"] for number in row)
    with pytest.raises(InputError, match="--force replaces it"):
        tune_codec(model, ddpm.images("digits:train"), fit_steps=5)
    path.write_text(text.replace('"bits": [', '"bits": [9, '))
    with pytest.raises(DamagedFile, match=r"codec-averaged\.json"):
        codec_data_of(model)
    path.write_text(text)
    other = ddpm.load(make_linear(ddpm.images("digits:test"), tmp_path / "other"))
    codec_file(Path(other.source), "averaged").write_text(text)
    with pytest.raises(WrongModel, match="measured on other weights"):
        codec_data_of(other)
    with pytest.raises(InputError, match="--force replaces it"):  # the other weights may come back
        tune_codec(other, ddpm.images("digits:train"), fit_steps=5)
    tune_codec(other, ddpm.images("digits:train"), fit_steps=5, force=True)
    assert codec_data_of(other) is not None


def test_too_few_images_are_refused(model):
    with pytest.raises(InputError, match="too few to measure a codec on; 16 would fit"):
        tune_codec(model, ddpm.images("digits:train[0:15]"), fit_steps=5, force=True)


def test_linear_images_are_whole_where_small_and_tiles_where_large(tmp_path: Path):
    from PIL import Image

    assert linear_images("digits").geometry.shape == (1, 8, 8)
    draw = np.random.default_rng(0)
    for name, size in (("a", (70, 90)), ("b", (40, 33)), ("small", (20, 90))):
        Image.fromarray(draw.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    tiles = linear_images(str(tmp_path))
    assert tiles.geometry.shape == (3, 32, 32)
    picture = np.asarray(Image.open(tmp_path / "a.png")).transpose(2, 0, 1)
    first = tiles[0]
    assert (first == picture[:, :32, :32]).all()
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").unlink()
    Image.fromarray(draw.integers(0, 255, (9, 9), dtype=np.uint8)).save(tmp_path / "tiny.png")
    with pytest.raises(InputError, match="has 32 pixels a side"):
        linear_images(str(tmp_path))
