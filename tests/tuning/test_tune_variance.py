"""`ddpm tune variance` stores what was measured, of these weights, on images that are remembered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ddpm.data.subsets import hashes
from ddpm.errors import InputError
from ddpm.model.checkpoint import load_model
from ddpm.model.variances import SIDECAR, denoiser_for, read_variances
from ddpm.tuning import variances
from ddpm.tuning.variances import FLOOR, VarianceReport, calls_needed, tune_variance
from scorings import Counting, image_set, pixels, stored_model

IMAGES = pixels(30, (1, 4, 4))


def test_the_file_holds_the_measurement_and_says_where_it_is_from(tmp_path: Path):
    model, progress = stored_model(tmp_path / "model", process={"steps": 40}), Counting()
    report = tune_variance(model, image_set(IMAGES), calls=calls_needed(40, 4), seed=5, progress=progress)
    found = report.found
    assert report.file == SIDECAR.path(model)
    assert progress.stages == {"Network calls": [found.calls, calls_needed(40, 4)]}
    assert found.calls == calls_needed(40, 4)
    assert model.source in progress.said[0]
    assert (found.seed, found.data) == (5, "here")
    assert found.data_fingerprint == image_set(IMAGES).fingerprint
    assert sorted(found.image_hashes) == sorted(hashes(IMAGES))
    read = read_variances(model)
    np.testing.assert_allclose(read.measured.squared_error, found.measured.squared_error, rtol=1e-8)
    np.testing.assert_allclose(read.measured.decoder_log_variance, found.measured.decoder_log_variance, rtol=1e-8)
    assert read.measured.source == str(report.file)


def test_the_report_says_what_was_measured(tmp_path: Path):
    model = stored_model(tmp_path / "model", process={"steps": 40})
    report = tune_variance(model, image_set(IMAGES), calls=calls_needed(40, 4), progress=False)
    table, measured = report.table(), report.found.measured
    assert (table["file"], table["images"], table["data"]) == (str(report.file), 30, "here")
    assert table["calls"] == calls_needed(40, 4)
    assert table["sigma_1"] == pytest.approx(np.exp(measured.decoder_log_variance[1] / 2))
    assert table["rmse_1"] == pytest.approx(127.5 * measured.squared_error[1] ** 0.5)
    assert table["sigma_1_at_floor"] is False
    assert "floor" not in "".join(report.lines())
    said = "\n".join(report.lines())
    for fact in (
        str(report.file),
        "40 levels",
        "30 images",
        f"{127.5 * table['sigma_1']:.3f}",
        f"{table['rmse_1']:.3f}",
    ):
        assert fact in said
    measured.decoder_log_variance[1] = 2 * np.log(FLOOR)
    floored = VarianceReport(report.file, report.found)
    assert floored.table()["sigma_1_at_floor"] is True
    assert "floor" in "".join(floored.lines())


def test_ema_and_raw_weights_have_files_of_their_own(tmp_path: Path):
    model = stored_model(tmp_path / "model", process={"steps": 40})
    raw = load_model(tmp_path / "model", weights="raw", device="cpu")
    assert tune_variance(raw, image_set(IMAGES), calls=calls_needed(40, 1)).file.name == "variance-raw.json"
    with pytest.raises(InputError):
        read_variances(model)
    assert tune_variance(model, image_set(IMAGES), calls=calls_needed(40, 1)).file.name == "variance-averaged.json"
    one, other = read_variances(model).measured, read_variances(raw).measured
    assert (one.squared_error[1:] != other.squared_error[1:]).all()


def test_only_a_pool_of_the_images_is_used_and_all_of_it_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every image the network saw is in the hashes; the pool is drawn by the seed."""
    monkeypatch.setattr(variances, "POOL", 8)
    model = stored_model(tmp_path / "model", process={"steps": 40})
    found = tune_variance(model, image_set(IMAGES), calls=calls_needed(40, 3), seed=1).found
    assert len(found.image_hashes) == 8
    assert set(found.image_hashes) < set(hashes(IMAGES))
    other = tune_variance(model, image_set(IMAGES), calls=calls_needed(40, 3), seed=2).found
    assert set(other.image_hashes) != set(found.image_hashes)


@pytest.mark.parametrize("steps", [1, 5, 12, 32, 40])
def test_processes_of_any_length_can_be_tuned(steps: int, tmp_path: Path):
    model = stored_model(tmp_path / "model", process={"steps": steps})
    tune_variance(model, image_set(IMAGES), calls=calls_needed(steps, 1))
    assert len(read_variances(model).measured.squared_error) == steps + 1


def test_without_a_budget_there_are_32_calls_a_level_and_more_at_the_first(tmp_path: Path):
    model = stored_model(tmp_path / "model")
    assert tune_variance(model, image_set(IMAGES)).found.calls == calls_needed(12, 32) == 12 * 8 * 32


@pytest.mark.parametrize("variance", ["range", "learned"])
def test_models_that_learned_variances_can_be_tuned(variance: str, tmp_path: Path):
    settings = {"process": {"steps": 40, "variance": variance}, "objective": {"loss": "hybrid"}}
    model = stored_model(tmp_path / "model", **settings)
    tune_variance(model, image_set(IMAGES), calls=calls_needed(40, 1))
    assert denoiser_for(model, "optimal").measured is not None


@pytest.mark.parametrize("spare", [0, 1, 100])
def test_a_budget_is_never_exceeded_and_one_too_small_is_refused(spare: int, tmp_path: Path):
    model, progress, least = stored_model(tmp_path / "model", process={"steps": 40}), Counting(), calls_needed(40, 1)
    found = tune_variance(model, image_set(IMAGES), calls=least + spare, progress=progress).found
    assert progress.stages == {"Network calls": [least, least]}
    assert found.calls == least
    with pytest.raises(InputError, match=f"at least {least}"):
        tune_variance(model, image_set(IMAGES), calls=least - 1)


def test_images_of_another_geometry_are_refused(tmp_path: Path):
    model = stored_model(tmp_path / "model")
    with pytest.raises(InputError, match="those of the model"):
        tune_variance(model, image_set(pixels(3, (3, 4, 4))))
    assert not SIDECAR.path(model).exists()


def test_the_images_of_a_recipe_that_names_none_must_be_given(tmp_path: Path):
    model = stored_model(tmp_path / "model", data=None)
    with pytest.raises(InputError, match="--data"):
        tune_variance(model)


def test_classes_are_matched_by_name(tmp_path: Path):
    model = stored_model(tmp_path / "model", ("cat", "dog"), process={"steps": 40}, network={"classes": 2})
    labels = [k % 2 for k in range(30)]

    def errors(labels: list[int], names: tuple[str, ...]) -> np.ndarray:
        report = tune_variance(model, image_set(IMAGES, labels, names), calls=calls_needed(40, 1))
        return report.found.measured.squared_error

    one = errors(labels, ("cat", "dog"))
    np.testing.assert_array_equal(one, errors([1 - k for k in labels], ("dog", "cat")))
    assert (one[1:] != errors([1 - k for k in labels], ("cat", "dog"))[1:]).any()
