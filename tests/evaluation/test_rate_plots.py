"""A profile on disk says what the profile says, in JSON that any reader takes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.diffusion.schedule import make_schedule
from ddpm.evaluation.rate_plots import RATE_FILES, plot_levels, without_nan, write_rate_distortion
from ddpm.evaluation.result_files import ResultFiles
from ddpm.likelihood.rate_distortion import RateDistortion, estimate_rate_distortion
from scorings import pixels, scoring_of

SHORT = make_schedule(steps=12, beta_start=0.01, beta_end=0.5)


@pytest.fixture(params=[12, 60], ids=["one call a step", "five calls a step"])
def profile(request) -> RateDistortion:
    return estimate_rate_distortion(scoring_of(SHORT, pixels(4), wobble=0.2), request.param)


def test_json_and_csv_hold_every_step(profile: RateDistortion, tmp_path: Path):
    kept = ResultFiles(tmp_path / "new" / "folder", RATE_FILES)
    write_rate_distortion(profile, kept, {"images": 4, "seed": 0})
    files = kept.written
    assert [file.name for file in files] == ["rate.png", "rate.json", "rate.csv"]
    with Image.open(files[0]) as image:
        assert min(image.size) > 100

    def strict(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    table = json.loads(files[1].read_text(encoding="utf-8"), parse_constant=strict)
    assert (table["images"], table["seed"]) == (4, 0)
    assert table["total"] == profile.rate[0]
    assert table["prior"] == profile.bits[0]
    assert table["total"] == pytest.approx(table["prior"] + sum(row["term"] for row in table["steps"]), rel=1e-12)
    assert [row["t"] for row in table["steps"]] == list(range(1, 13))
    assert [row["rate"] for row in table["steps"]] == profile.rate[1:].tolist()
    assert [row["rmse"] for row in table["steps"]] == profile.distortion[1:].tolist()
    errors = [row["term_error"] for row in table["steps"]]
    assert all(error is None for error in errors) == bool(np.isnan(profile.bits_error[1:]).all())
    with files[2].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["rate"]) for row in rows] == profile.rate[1:].tolist()
    assert list(rows[0]) == list(table["steps"][0])


def test_numbers_that_are_none_become_null_at_any_depth():
    nan = float("nan")
    assert without_nan({"a": [1.0, nan, {"b": nan}], "c": "nan", "d": 0}) == {
        "a": [1.0, None, {"b": None}],
        "c": "nan",
        "d": 0,
    }


@pytest.mark.parametrize("count", [1, 5, 100])
def test_a_curve_of_any_number_of_levels_is_drawn(count: int, tmp_path: Path):
    plot_levels([3.0] * count, tmp_path / "levels.png")
    with Image.open(tmp_path / "levels.png") as image:
        assert min(image.size) > 100
