"""What `ddpm tune` stores is what was measured, of these weights, on images that are remembered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ddpm.tuning.tune import calls_made, tune_variance

from ddpm.data.subsets import hashes
from ddpm.errors import InputError
from ddpm.evaluation import tune as tune_module
from ddpm.model.checkpoint import load_model
from ddpm.model.variances import variance_file
from ddpm.tuning.variances import calls_needed
from scorings import image_set, pixels, stored_model

IMAGES = pixels(30, (1, 4, 4))


def test_the_file_holds_the_measurement_and_says_where_it_is_from(tmp_path: Path):
    model, told = stored_model(tmp_path / "model", process={"steps": 40}), []
    path, found = tune_variance(model, image_set(IMAGES), calls=calls_needed(40, 4), seed=5, on_calls=told.append)
    assert path == variance_file(Path(model.source), "averaged")
    assert sum(told) == found.calls == calls_needed(40, 4)
    assert (found.seed, found.weights, found.weights_sha256) == (5, "averaged", model.weights_sha256)
    assert found.data_fingerprint == image_set(IMAGES).fingerprint
    assert sorted(found.image_hashes) == sorted(hashes(IMAGES))
    read = model.read_tuned()
    np.testing.assert_allclose(read.measured.squared_error, found.measured.squared_error, rtol=1e-8)
    np.testing.assert_allclose(read.measured.decoder_log_variance, found.measured.decoder_log_variance, rtol=1e-8)
    assert read.measured.source == str(path)


def test_averaged_and_raw_weights_have_files_of_their_own(tmp_path: Path):
    model = stored_model(tmp_path / "model", process={"steps": 40})
    raw = load_model(tmp_path / "model", weights="raw", device="cpu")
    tune_variance(raw, image_set(IMAGES), calls=calls_needed(40, 1))
    assert raw.read_tuned().weights == "raw"
    with pytest.raises(InputError):
        model.read_tuned()
    tune_variance(model, image_set(IMAGES), calls=calls_needed(40, 1))
    one, other = model.read_tuned().measured, raw.read_tuned().measured
    assert (one.squared_error[1:] != other.squared_error[1:]).all()


def test_only_a_pool_of_the_images_is_used_and_all_of_it_is_remembered(tmp_path: Path, monkeypatch):
    """Every image the network saw is in the hashes; the pool is drawn by the seed."""
    monkeypatch.setattr(tune_module, "POOL", 8)
    model = stored_model(tmp_path / "model", process={"steps": 40})
    _, found = tune_variance(model, image_set(IMAGES), calls=calls_needed(40, 3), seed=1)
    assert len(found.image_hashes) == 8
    assert set(found.image_hashes) < set(hashes(IMAGES))
    _, other = tune_variance(model, image_set(IMAGES), calls=calls_needed(40, 3), seed=2)
    assert set(other.image_hashes) != set(found.image_hashes)


@pytest.mark.parametrize("steps", [1, 5, 12, 32, 40])
def test_processes_of_any_length_can_be_tuned(steps: int, tmp_path: Path):
    model = stored_model(tmp_path / "model", process={"steps": steps})
    tune_variance(model, image_set(IMAGES), calls=calls_needed(steps, 1))
    assert len(model.read_tuned().measured.squared_error) == steps + 1


@pytest.mark.parametrize("variance", ["range", "learned"])
def test_models_that_learned_variances_can_be_tuned(variance: str, tmp_path: Path):
    settings = {"process": {"steps": 40, "variance": variance}, "objective": {"loss": "hybrid"}}
    model = stored_model(tmp_path / "model", **settings)
    tune_variance(model, image_set(IMAGES), calls=calls_needed(40, 1))
    assert model.denoiser_with("optimal").measured is not None


@pytest.mark.parametrize("spare", [0, 1, 100])
def test_a_budget_is_never_exceeded_and_one_too_small_is_refused(spare: int, tmp_path: Path):
    model, told, least = stored_model(tmp_path / "model", process={"steps": 40}), [], calls_needed(40, 1)
    tune_variance(model, image_set(IMAGES), calls=least + spare, on_calls=told.append)
    assert sum(told) == calls_made(40, least + spare) == least
    with pytest.raises(InputError, match=rf"^{least - 1} network calls do not reach every level; {least} would fit"):
        tune_variance(model, image_set(IMAGES), calls=least - 1)


def test_images_of_another_geometry_are_refused(tmp_path: Path):
    model = stored_model(tmp_path / "model")
    with pytest.raises(InputError, match="those of the model"):
        tune_variance(model, image_set(pixels(3, (3, 4, 4))))


def test_classes_are_matched_by_name(tmp_path: Path):
    model = stored_model(tmp_path / "model", ("cat", "dog"), process={"steps": 40}, network={"classes": 2})
    labels = [k % 2 for k in range(30)]
    _, one = tune_variance(model, image_set(IMAGES, labels, ("cat", "dog")), calls=calls_needed(40, 1))
    _, renamed = tune_variance(
        model, image_set(IMAGES, [1 - k for k in labels], ("dog", "cat")), calls=calls_needed(40, 1)
    )
    np.testing.assert_array_equal(one.measured.squared_error, renamed.measured.squared_error)
    _, swapped = tune_variance(
        model, image_set(IMAGES, [1 - k for k in labels], ("cat", "dog")), calls=calls_needed(40, 1)
    )
    assert (one.measured.squared_error[1:] != swapped.measured.squared_error[1:]).any()
