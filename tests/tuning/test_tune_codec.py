"""Making a codec: levels of equal divergence, errors as they are, bits to match; and the side file that keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ddpm
from ddpm.base.geometry import Geometry
from ddpm.base.progress import Advance, Progress
from ddpm.codec.codec_data import SIDECAR, make_codec, read_codec_data
from ddpm.diffusion.schedule import make_schedule
from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.model.model import Model
from ddpm.model.scoring import scoring_for
from ddpm.training.linear_model import linear_images, make_linear
from ddpm.tuning.codec import (
    OVERHEAD,
    STEP_BITS,
    calls_made,
    fitted_on,
    make_codec_data,
    place_steps,
    stop_level,
    tune_codec,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
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
        made.append(read_codec_data(model))
    assert made[0].own_sha256 == made[1].own_sha256
    assert json.loads(SIDECAR.path(model).read_text())["weights_sha256"] == model.weights_sha256
    codec = make_codec(model, made[0])
    assert codec.fingerprint == made[0].own_sha256


def test_side_file_is_plain_signed_and_of_its_weights(model, tmp_path: Path):
    tune_codec(model, ddpm.images("digits:train"), fit_steps=5, force=True)
    path = SIDECAR.path(model)
    assert path == Path(model.source) / "codec-averaged.json"
    text = path.read_text()
    table = json.loads(text)
    assert all(isinstance(number, int) for row in table["causal"][0]["first"] for number in row)
    with pytest.raises(InputError, match="--force"):
        tune_codec(model, ddpm.images("digits:train"), fit_steps=5)
    path.write_text(text.replace('"bits": [', '"bits": [9, '))
    with pytest.raises(DamagedFile, match=r"codec-averaged\.json"):
        read_codec_data(model)
    path.write_text(text)
    other = ddpm.load(make_linear(ddpm.images("digits:test"), tmp_path / "other"))
    SIDECAR.path(other).write_text(text)
    with pytest.raises(WrongModel, match=r"codec-averaged\.json.*other weights"):
        read_codec_data(other)
    with pytest.raises(InputError, match="--force"):  # the other weights may come back
        tune_codec(other, ddpm.images("digits:train"), fit_steps=5)
    tune_codec(other, ddpm.images("digits:train"), fit_steps=5, force=True)
    assert read_codec_data(other) is not None


def test_too_few_images_are_refused(model):
    with pytest.raises(InputError, match=r"digits:train\[0:15\].* 15 images.* 16"):
        tune_codec(model, ddpm.images("digits:train[0:15]"), fit_steps=5, force=True)


SMALL = [(1, 28, 28), (3, 32, 32), (3, 16, 24), (1, 8, 8)]


@pytest.mark.parametrize("shape", [*SMALL, (3, 64, 64), (3, 128, 128), (1, 200, 300), (3, 1024, 1024)])
@pytest.mark.parametrize("count", [16, 511, 512, 513, 1024, 8192, 8193, 60_000])
def test_pixels_that_the_pixel_model_is_fitted_on_are_bounded(shape: tuple[int, int, int], count: int):
    used, times = fitted_on(SimpleNamespace(geometry=Geometry(*shape)), count)
    assert used * times * shape[1] * shape[2] <= 2**24
    if shape in SMALL:  # as many as ever
        assert used == min(count, 16384)
        assert times == (2 if count <= 8192 else 1)


@pytest.mark.parametrize(("count", "guesses"), [(40, 80), (60, 60), (300, 100)])
def test_guesses_are_as_many_as_the_pixels_allow(model, count: int, guesses: int, monkeypatch: pytest.MonkeyPatch):
    seen, heard, images = [], [], ddpm.images(f"digits:train[0:{count}]")
    monkeypatch.setattr("ddpm.tuning.codec.PIXELS", 100 * 64 + 63)
    monkeypatch.setattr("ddpm.tuning.codec.fit_causal", lambda *given, **options: seen.extend(given))

    class Heard(Progress):
        @contextmanager
        def stage(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
            yield lambda more, note="": heard.append(more)

    make_codec_data(model, images, seed=0, batch_size=64, fit_steps=1, progress=Heard())
    assert [array.shape for array in seen] == [(guesses, 1, 8, 8)] * 2
    assert sum(heard) == calls_made(model, images)


def test_linear_images_are_whole_where_small_and_tiles_where_large(tmp_path: Path):
    from PIL import Image

    assert linear_images("digits").geometry.shape == (1, 8, 8)
    draw = np.random.default_rng(0)
    for name, size in (("a", (70, 90)), ("b", (40, 33)), ("small", (20, 90))):
        Image.fromarray(draw.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    tiles = linear_images(str(tmp_path))
    assert tiles.geometry.shape == (3, 32, 32)
    image = np.asarray(Image.open(tmp_path / "a.png")).transpose(2, 0, 1)
    first = tiles[0]
    assert (first == image[:, :32, :32]).all()
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").unlink()
    Image.fromarray(draw.integers(0, 255, (9, 9), dtype=np.uint8)).save(tmp_path / "tiny.png")
    with pytest.raises(InputError, match="32 pixels"):
        linear_images(str(tmp_path))
