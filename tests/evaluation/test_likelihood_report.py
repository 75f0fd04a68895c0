"""evaluate_likelihood: what images cost, what the report says of itself, and what is refused before any work."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ddpm
from ddpm.base.progress import Advance, Progress
from ddpm.data.subsets import hashes
from ddpm.diffusion.optimal_variance import Measured
from ddpm.errors import DamagedFile, InputError
from ddpm.evaluation import full_sum, likelihood_report
from ddpm.evaluation.likelihood_report import LikelihoodReport, evaluate_likelihood
from ddpm.likelihood.estimate import Estimate, estimate_bound
from ddpm.likelihood.monte_carlo import Scoring
from ddpm.likelihood.ode_bound import ode_bound
from ddpm.likelihood.rate_distortion import estimate_rate_distortion
from ddpm.model.checkpoint import load_model
from ddpm.model.model import Model
from ddpm.model.scoring import best_chains, scoring_for
from ddpm.model.variances import SIDECAR, Variances, write_variances
from scorings import Counting, image_set, pixels, stored_model

SHAPE, STEPS = (1, 4, 4), 12
IMAGES = image_set(pixels(30, SHAPE))
TERMS = ("total", "prior", "steps", "decoder")
LINE = re.compile(r"^  (\w+) +(-?\d+\.\d+) ± (\d+\.\d+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Twelve levels, with variances measured on other images, in the checkpoint of a run."""
    model = stored_model(tmp_path_factory.mktemp("models") / "run" / "checkpoints" / "0000000640")
    others = pixels(40, SHAPE, seed=1)
    nats = np.concatenate([[np.nan], 1.0 + np.arange(STEPS)])
    measured = Measured(np.linspace(0, 0.3, STEPS + 1), np.full(STEPS + 1, -6.0), nats, 0.1)
    write_variances(model, Variances(measured, "others:train", "f" * 64, tuple(hashes(others)), 0, 1))
    return model


@pytest.fixture
def model(stored: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """The same; the working directory is empty."""
    monkeypatch.chdir(tmp_path)
    return stored


def scored(model: Model, images: Any = IMAGES, **options: Any) -> LikelihoodReport:
    """Of 256 calls unless said."""
    usual = {"calls": None if options.get("full") else 256, "progress": False}
    return evaluate_likelihood(model, images, **usual | options)


def text(report: LikelihoodReport) -> str:
    return "\n".join(report.lines())


def files(folder: Path | str = ".") -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def values(report: LikelihoodReport) -> dict[str, Estimate]:
    assert report.bound is not None
    return {name: getattr(report.bound, name) for name in TERMS}


# ---- the bound ------------------------------------------------------------------------------------------------------


def test_the_bound_is_that_of_its_scoring_and_the_report_says_how_it_was_made(model: Model):
    report = scored(model, calls=300, seed=3, limit=20)
    assert report.bound == estimate_bound(scoring_for(model, IMAGES, seed=3, limit=20), 300)
    assert (report.bound.images, report.bound.calls) == (20, 300)
    assert report.about == {
        "model": model.source,
        "weights": "ema",
        "images_seen": 0,
        "data": "here",
        "images": 20,
        "geometry": str(model.geometry),
        "variance": "small",
        "levels": STEPS,
        "of_levels": STEPS,
        "levels_used": "all",
        "clip": True,
        "labels": "",
        "seed": 3,
        "side_files": [],
        "trained_on": {"images": None, "of": 20},
    }
    assert (report.rate, report.ode, report.code, report.curve, report.files) == (None, None, None, (), ())
    assert files() == {}, "an estimate writes nothing"


def test_numbers_for_a_person_are_those_of_the_table(model: Model):
    report = scored(model, calls=300)
    table, said = report.table(), text(report)
    assert set(table) == {"about", "files", "vlb"}
    shown = {name: (float(value), float(error)) for name, value, error in LINE.findall(said)}
    assert list(shown) == list(TERMS)
    for name, found in values(report).items():
        assert table["vlb"][name] == {"value": found.value, "error": found.error}
        assert shown[name] == pytest.approx((found.value, found.error), abs=1e-5)
    facts = ("here", "30 images", "ema weights", model.source, "variance small", "all 12 levels", "clipped to [-1, 1]")
    for fact in (*facts, "300 network calls"):
        assert fact in said
    assert len({line.index("±") for line in said.splitlines() if LINE.match(line)}) == 1, "the numbers stand in columns"
    assert max(map(len, said.splitlines())) <= 120 + len(model.source)
    assert "side by side" not in said
    assert json.loads(json.dumps(table, allow_nan=False)) == table


def test_there_are_4096_calls_unless_told_otherwise(model: Model):
    bound = scored(model, calls=None).bound
    assert bound is not None
    assert bound.calls == 4096


@pytest.mark.parametrize("options", [{"variance": "large"}, {"variance": "optimal"}, {"seed": 1}, {"limit": 20}])
def test_an_option_changes_the_number(options: dict[str, Any], model: Model):
    other = scored(model, **options)
    assert values(other)["total"].value != values(scored(model))["total"].value
    for key, value in options.items():
        assert other.about["images" if key == "limit" else key] == value


def test_raw_weights_have_numbers_of_their_own(model: Model):
    raw = scored(load_model(model.source, weights="raw", device="cpu"))
    assert raw.about["weights"] == "raw"
    assert values(raw)["total"].value != values(scored(model))["total"].value


def test_the_batch_size_changes_nothing_but_rounding(model: Model):
    one, other = (values(scored(model, batch_size=size))["total"].value for size in (7, 300))
    assert one == pytest.approx(other, rel=1e-5)


def test_images_may_be_an_array_or_a_source(tmp_path: Path):
    model = stored_model(tmp_path / "model", image={"height": 8, "width": 8})
    array = pixels(20, (1, 8, 8))
    np.save(tmp_path / "images.npy", array[:, 0])
    expected = values(scored(model, image_set(array)))
    for images in (array, array[:, 0], str(tmp_path / "images.npy"), tmp_path / "images.npy"):
        assert values(scored(model, images)) == expected
    with pytest.raises(InputError, match=r"ddpm\.load"):
        ddpm.evaluate_likelihood(model.source, IMAGES)  # type: ignore[arg-type]


def test_measured_variances_are_named(model: Model):
    progress = Counting()
    report = scored(model, variance="optimal", progress=progress)
    assert report.about["side_files"] == [str(SIDECAR.path(model))]
    assert any(str(SIDECAR.path(model)) in said and "40 images of others:train" in said for said in progress.said)
    assert "variance optimal" in text(report)


def test_the_best_levels_are_scored_and_their_curve_is_drawn_where_there_is_a_folder(model: Model):
    report = scored(model, levels=4, out="out")
    best = best_chains(model, 4)
    assert report.curve == tuple(best.bits)
    assert report.about["levels_used"] == list(best.chains[-1])
    assert (report.about["levels"], report.about["of_levels"]) == (4, STEPS)
    assert report.files == (Path("out/levels.png"),)
    assert Image.open("out/levels.png").size[0] > 400
    said = text(report)
    assert f"the best 4 of 12 levels ({best.chains[-1][0]} to {best.chains[-1][-1]})" in said
    for k in (1, 2, 4):
        assert f"{best.bits[k - 1]:.3f} at {k}" in said
    assert "levels.png" in said
    assert report.table()["curve"] == list(report.curve)
    assert scored(model, levels=4).files == ()


# ---- the full sum ---------------------------------------------------------------------------------------------------


@pytest.fixture
def three_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images a shard."""
    monkeypatch.setattr(full_sum, "SHARD_CALLS", 10 * STEPS)


def test_the_full_sum_agrees_with_the_estimate_and_lies_in_its_folder(model: Model, three_shards: None):
    progress = Counting()
    report = scored(model, full=True, out="out", progress=progress)
    assert report.bound is not None
    assert report.bound.calls == 30 * STEPS
    assert progress.stages == {"Full sum": [30 * STEPS] * 2}
    (folder,) = Path("out").iterdir()
    assert sorted(path.name for path in folder.glob("*.npz")) == [f"shard-{k:06d}.npz" for k in range(3)]
    assert any(str(folder) in said and "3 shards" in said for said in progress.said)
    quick = values(scored(model, calls=4096))["total"]
    assert abs(report.bound.total.value - quick.value) < 5 * quick.error + 5 * report.bound.total.error


def test_the_full_sum_again_computes_nothing_and_says_the_same(model: Model):
    first, held = scored(model, full=True, out="out"), files("out")
    progress = Counting()
    again = scored(model, full=True, out="out", progress=progress)
    assert progress.stages == {}
    assert again.bound == first.bound
    assert files("out") == held


def test_results_lie_in_the_run_unless_a_folder_is_named(model: Model):
    report = scored(model, full=True, rate=True, limit=3)
    run = Path(model.source).parents[1]
    assert {path.parent for path in report.files} == {run / "evaluation"}
    assert list((run / "evaluation").glob("full-*/shard-000000.npz"))
    assert files() == {}


def test_shards_of_several_processes_merge_into_the_whole_sum(model: Model, three_shards: None):
    whole = scored(model, full=True, rate=True, out="whole")
    part = scored(model, full=True, rate=True, out="shared", shard="2/2")
    assert (part.bound, part.rate, part.files, part.missing) == (None, None, (), 2)
    assert part.table()["missing_shards"] == 2
    assert "vlb" not in part.table()
    assert "2 shards are missing" in text(part)
    merged = scored(model, full=True, rate=True, out="shared", shard="1/2")
    assert merged.bound == whole.bound
    assert merged.missing == 0
    assert merged.table() | {"files": 0} == whole.table() | {"files": 0}


def test_a_sum_that_was_stopped_goes_on_where_it_was(model: Model, three_shards: None):
    class Stopping(Progress):
        @contextmanager
        def stage(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
            seen: list[int] = []

            def advance(more: int, note: str = "") -> None:
                seen.append(more)
                if len(seen) == 3:
                    raise KeyboardInterrupt

            yield advance

    with pytest.raises(KeyboardInterrupt):
        scored(model, full=True, out="out", progress=Stopping())
    held = files("out")
    assert 0 < sum(name.endswith(".npz") for name in held) < 3
    progress = Counting()
    report = scored(model, full=True, out="out", progress=progress)
    assert report.bound == scored(model, full=True, out="once").bound
    assert progress.stages["Full sum"][1] == 30 * STEPS - 10 * STEPS * sum(name.endswith(".npz") for name in held)
    assert files("out").items() >= {name: data for name, data in held.items() if name.endswith(".npz")}.items()


@pytest.mark.parametrize("damage", ["cut short", "emptied", "a flipped bit"])
def test_a_damaged_shard_is_named(damage: str, model: Model):
    first = scored(model, full=True, limit=5, out="out")
    (shard,) = Path("out").glob("full-*/shard-*.npz")
    data = shard.read_bytes()
    broken = bytearray(data)
    broken[len(data) // 2] ^= 1
    shard.write_bytes({"cut short": data[:300], "emptied": b"", "a flipped bit": bytes(broken)}[damage])
    with pytest.raises(DamagedFile, match=re.escape(str(shard))):
        scored(model, full=True, limit=5, out="out")
    shard.unlink()
    assert scored(model, full=True, limit=5, out="out").bound == first.bound


# ---- rate and distortion --------------------------------------------------------------------------------------------


def test_rate_is_that_of_its_scoring_and_kept_in_three_files(model: Model):
    report = scored(model, rate=True, calls=400, out="out")
    expected = estimate_rate_distortion(scoring_for(model, IMAGES), 400)
    assert report.rate is not None
    np.testing.assert_array_equal(report.rate.bits, expected.bits)
    assert report.files == tuple(Path(f"out/rate.{kind}") for kind in ("png", "json", "csv"))
    assert all(str(file) in text(report) for file in report.files)
    assert Image.open("out/rate.png").size[0] > 400
    table = json.loads(Path("out/rate.json").read_text())
    assert table.items() >= report.about.items()
    with Path("out/rate.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["t"]) for row in rows] == [row["t"] for row in table["steps"]] == list(range(1, STEPS + 1))
    for row, step in zip(rows, table["steps"], strict=True):
        assert {key: float(value) for key, value in row.items()} == pytest.approx(step)
    by_level = {step["t"]: step for step in table["steps"]}
    assert all(by_level[row["t"]]["rate"] == row["rate"] for row in report.table()["rate"])
    assert table["total"] == pytest.approx(table["prior"] + sum(step["term"] for step in table["steps"]))
    assert by_level[STEPS]["rate"] == pytest.approx(table["prior"])


def test_rate_is_laid_out_as_the_papers_table(model: Model):
    said = text(scored(model, rate=True, calls=400, out="out"))
    rows = re.findall(r"^ +(\d+) +(\d+) +(-?\d+\.\d+) +(\d+\.\d+) ± \d+\.\d+$", said, re.MULTILINE)
    assert len(rows) == 10
    assert all(int(steps) + int(t) == STEPS + 1 for steps, t, *_ in rows)
    rates, errors = ([float(row[k]) for row in rows] for k in (2, 3))
    assert rates == sorted(rates, reverse=True)
    assert errors[0] < errors[-1]
    header = next(line for line in said.splitlines() if "rate (bits/dim)" in line)
    below = [line for line in said.splitlines() if re.match(r"^ +\d+ +\d+ ", line) and "±" in line]
    assert {len(line) for line in below} == {len(header)}, "columns are aligned"


def test_rate_agrees_with_the_bound_estimated_or_summed(model: Model):
    for options in ({"calls": 4096}, {"full": True}):
        report = scored(model, rate=True, out="out", **options)
        assert report.rate is not None
        total = values(report)["total"]
        rough = 0 if "full" in options else 6 * total.error + 6 * np.sqrt((report.rate.bits_error[1:] ** 2).sum())
        assert report.rate.rate[0] == pytest.approx(total.value, abs=1e-9 + rough)


def test_a_single_call_a_level_has_no_error_and_its_json_says_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    long = stored_model(tmp_path / "model", process={"steps": 300, "beta_end": 0.05})
    report = scored(long, rate=True, calls=400, out="out")
    table = json.loads(Path("out/rate.json").read_text(), parse_constant=pytest.fail)
    assert {step["term_error"] for step in table["steps"]} == {None}
    assert {row["rmse_error"] for row in report.table()["rate"]} == {None}
    assert "nan" not in text(report)


def test_more_levels_than_calls_take_one_call_each_unless_too_few_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By default; whoever names a budget does not get more."""
    monkeypatch.chdir(tmp_path)
    long = stored_model(tmp_path / "model", process={"steps": 4100, "beta_end": 0.01})
    asked: list[int] = []
    hook = long.network.register_forward_hook(lambda module, given, output: asked.append(len(given[0])))
    for calls in (256, 4096, 4099):
        with pytest.raises(InputError, match="calls must be at least 4100"):
            scored(long, rate=True, calls=calls, out="out")
    assert asked == []
    progress = Counting()
    report = scored(long, rate=True, calls=None, out="out", batch_size=1000, progress=progress)
    assert progress.stages == {"Bound": [4096, 4096], "Rate and distortion": [4100, 4100]}
    assert sum(asked) == 4096 + 4100
    assert report.rate is not None
    assert len(report.rate.levels) == 4101
    hook.remove()


# ---- the ODE, and real files ----------------------------------------------------------------------------------------


def test_the_ode_is_that_of_its_scoring_and_says_its_solver_its_trace_and_its_dequantisation(model: Model):
    report = scored(model, ode=True, solver_steps=8, calls=400)
    assert report.ode == ode_bound(scoring_for(model, IMAGES), calls=400, steps=8)
    assert (report.ode.images, report.ode.calls, report.ode.steps, report.ode.trace) == (9, 9 * 42, 8, "exact")
    table = report.table()["ode"]
    assert table["total"]["value"] == pytest.approx(table["flow"]["value"] + table["decoder"]["value"])
    said = text(report)
    for fact in (
        "9 images",
        "8 Runge-Kutta steps",
        "exact trace",
        report.ode.dequantisation,
        f"{9 * 42} network calls",
    ):
        assert fact in said


def test_bound_and_ode_stand_side_by_side_and_a_code_beside_them_where_it_was_measured(
    model: Model, monkeypatch: pytest.MonkeyPatch
):
    report = scored(model, ode=True, solver_steps=1, limit=2)
    lines = report.lines()
    place = next(k for k, line in enumerate(lines) if line.startswith("side by side"))
    assert [line.split()[0] for line in lines[place + 1 : place + 3]] == ["VLB", "ODE"]
    for found, line in zip((report.bound, report.ode), lines[place + 1 :], strict=False):
        assert found is not None
        assert f"{found.total.value:.5f} ± {found.total.error:.5f} ({found.images:,} images)" in line
    assert not re.search("^ *code ", text(report), re.MULTILINE)
    assert "code" not in report.table()

    def prepared(model: Model, images: object, limit: int | None) -> Any:
        assert (images, limit) == (IMAGES, 2)
        return lambda progress: Estimate(4.5, 0.25)

    monkeypatch.setattr(likelihood_report, "prepared_code", prepared)
    report = scored(model, codec=True, limit=2)
    assert report.code == Estimate(4.5, 0.25)
    assert report.table()["code"] == {"value": 4.5, "error": 0.25}
    assert re.search(r"code +4\.50000 ± 0\.25000", text(report))


def test_a_model_without_codec_data_is_told_so_before_any_work(model: Model):
    with pytest.raises(InputError, match=f"`ddpm tune codec {model.source}`"):
        scored(model, codec=True)


def test_stages_reach_their_ends(model: Model):
    progress = Counting()
    scored(model, rate=True, ode=True, solver_steps=2, calls=500, out="out", progress=progress)
    assert list(progress.stages) == ["Bound", "Rate and distortion", "ODE"]
    assert progress.stages == {title: [total, total] for title, (_, total) in progress.stages.items()}
    assert [total for _, total in progress.stages.values()] == [500, 500 // STEPS * STEPS, 30 * 12]


# ---- kinds of models ------------------------------------------------------------------------------------------------

KINDS = [
    (prediction, loss, variance)
    for prediction in ("mean", "eps")
    for loss, variance in (("bound", "learned"), ("bound", "large"), ("simple", "large"), ("hybrid", "range"))
]


@pytest.mark.parametrize(("prediction", "loss", "variance"), KINDS)
def test_every_row_of_the_ablation_is_scored(prediction: str, loss: str, variance: str, tmp_path: Path):
    settings = {"objective": {"prediction": prediction, "loss": loss}, "process": {"variance": variance}}
    report = scored(stored_model(tmp_path / "model", **settings))
    assert (report.about["variance"], report.about["clip"]) == (variance, prediction != "mean")
    assert np.isfinite([found.value for found in values(report).values()]).all()
    assert ("not clipped" in text(report)) == (prediction == "mean")


class NaN(torch.nn.Linear):
    def forward(self, x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return torch.full_like(x, torch.nan)


@pytest.mark.parametrize("options", [{}, {"rate": True, "out": "out"}, {"ode": True, "solver_steps": 1}])
def test_a_network_of_nan_is_refused_and_nothing_is_written(options: dict[str, Any], model: Model):
    broken = replace(model, network=NaN(1, 1))
    with pytest.raises(InputError, match=re.escape(model.source)):
        scored(broken, **options)
    assert files() == {}


# ---- what is refused ------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no calls": ({"calls": 0}, "calls"),
    "negative calls": ({"calls": -4}, "calls"),
    "few calls": ({"calls": 255}, "256"),
    "few calls for the ODE": ({"ode": True, "calls": 400}, "404"),
    "few calls for a long ODE": ({"ode": True, "calls": None, "solver_steps": 600}, "6004"),
    "no solver steps": ({"ode": True, "solver_steps": 0}, "solver steps"),
    "negative solver steps": ({"ode": True, "solver_steps": -1}, "solver steps"),
    "few calls for the ODE beside a sum": ({"ode": True, "full": True, "calls": 403}, "404"),
    "no images": ({"limit": 0}, "limit"),
    "fewer than none": ({"limit": -1}, "limit"),
    "calls of a sum": ({"full": True, "calls": 300}, "calls"),
    "a shard of no sum": ({"shard": "1/2"}, "full"),
    **{f"shard {s}": ({"full": True, "shard": s}, s) for s in ("0/3", "5/3", "1/0", "some", "1/2/3", "1.5/2", "-1/2")},
    "an unknown variance": ({"variance": "medium"}, "medium"),
    "a variance that was not learned": ({"variance": "learned"}, "learned"),
    "levels with another variance": ({"levels": 3, "variance": "large"}, "large"),
    "more levels than there are": ({"levels": 13}, "12"),
    "no levels": ({"levels": 0}, "12"),
    "a file for a folder": ({"rate": True, "out": "file"}, "file"),
    "a folder in a file": ({"full": True, "out": "file/below"}, "file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_sentence_before_any_work(case: str, model: Model):
    options, word = REFUSED[case]
    Path("file").write_text("mine")
    asked: list[int] = []
    hook = model.network.register_forward_hook(lambda module, given, output: asked.append(len(given[0])))
    with pytest.raises(InputError) as caught:
        scored(model, **options)
    hook.remove()
    said = str(caught.value)
    assert word in said
    assert said.endswith(".")
    assert "\n" not in said
    assert asked == []
    assert files() == {"file": b"mine"}


def test_images_that_do_not_fit_or_were_measured_on_are_refused(model: Model):
    for images in (pixels(3, (1, 8, 8)), pixels(3, (3, 4, 4)), pixels(0, SHAPE)):
        with pytest.raises(InputError, match="images"):
            scored(model, image_set(images))
    with pytest.raises(InputError, match="itself"):
        scored(model, image_set(pixels(40, SHAPE, seed=1)), variance="optimal")


def test_a_model_without_measured_variances_names_the_command(tmp_path: Path):
    untuned = stored_model(tmp_path / "model")
    for options in ({"variance": "optimal"}, {"levels": 3}):
        with pytest.raises(InputError, match=f"`ddpm tune variance {untuned.source}`"):
            scored(untuned, **options)


def test_a_network_of_the_mean_has_no_ode_and_that_is_said_before_any_work(tmp_path: Path):
    mean, progress = stored_model(tmp_path / "model", objective={"prediction": "mean"}), Counting()
    with pytest.raises(InputError, match="'mean'"):
        scored(mean, ode=True, calls=500, progress=progress)
    assert progress.stages == {}


# ---- the model that comes with the package --------------------------------------------------------------------------


def test_results_about_linear_need_a_folder_and_none_is_made_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    linear = load_model("linear", device="cpu")
    before = files(linear.source)
    images = np.random.default_rng(0).integers(0, 256, (2, *linear.geometry.shape), np.uint8)

    def cheap(scoring: Scoring, calls: int) -> Any:
        return estimate_rate_distortion(replace(scoring, chain=scoring.chain.subset([1, 500, 1000])), 3)

    monkeypatch.setattr(likelihood_report, "estimate_rate_distortion", cheap)
    for options in ({"rate": True}, {"full": True}):
        with pytest.raises(InputError, match="--out"):
            scored(linear, images, **options, calls=None)
    assert files() == {}
    assert not list(tmp_path.iterdir())
    report = scored(linear, images, rate=True, calls=1000, out="out")
    assert {path.name for path in report.files} == {"rate.png", "rate.json", "rate.csv"}
    with suppress(FileNotFoundError):
        assert files(linear.source) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
