"""Which weights are used is chosen by drawing: the kind whose samples lie nearest to images, and then it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import ddpm
from ddpm.diffusion.optimal_variance import Measured
from ddpm.errors import DamagedFile, DdpmError, InputError, WrongModel
from ddpm.generation.draw import described, plan_for, protocol
from ddpm.model.checkpoint import find_checkpoint, kinds_held, load_model
from ddpm.model.chosen import SIDECAR, Choice, chosen_kind, write_choice
from ddpm.model.recipe import make_recipe
from ddpm.model.variances import SIDECAR as VARIANCES
from ddpm.model.variances import Variances, denoiser_for, write_variances
from ddpm.samplers.plan import Sampling
from ddpm.training.loop import train
from ddpm.tuning.best_weights import ChoiceReport, tune_ema
from ddpm.tuning.criterion import FEWEST, criterion_on
from scorings import RECIPE, Counting, Of, drawn, edited, image_set, merged, pixels, stored_model

IMAGES = image_set(pixels(150, (1, 4, 4)), name="here")
LENGTHS = [0.05, 0.25]
KINDS = ["ema", "ema-0.05", "ema-0.25", "raw"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, quick_runs: None) -> Path:
    """A short run with large steps, so that its averages lie far apart; not to be changed."""
    folder = tmp_path_factory.mktemp("averages") / "run"
    changes = {"train_images": 320, "learning_rate": 2e-2, "training": {"ema_lengths": LENGTHS, "log_images": 320}}
    train(make_recipe(merged(RECIPE, changes)), IMAGES, folder)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def tuned(run: Path, **more: object) -> ChoiceReport:
    return tune_ema(run, IMAGES, **{"steps": 3, "samples": FEWEST, "device": "cpu"} | more)  # type: ignore[arg-type]


def chosen_by_hand(run: Path, kind: str) -> Of:
    """As if `tune ema` had chosen it."""
    model = load_model(run, weights="ema", device="cpu")
    of = Of(model.source, "ema", model.weights_sha256)
    write_choice(of, Choice(kind, {"ema": 2.0, kind: 1.0}, "by hand", 3, 64, 384, 0, "here"))
    return of


# ---- the choice -----------------------------------------------------------------------------------------------------


def test_the_kind_with_the_least_distance_is_chosen_and_loaded(run: Path):
    """Each distance is that of samples drawn anew with this kind of weights, and they differ."""
    heard = Counting()
    report = tuned(run, progress=heard)
    found = report.choice
    assert list(found.distances) == KINDS == kinds_held(find_checkpoint(run))
    for kind in KINDS:
        model = load_model(run, weights=kind, device="cpu")
        criterion = criterion_on(model, IMAGES, ["pixels"], samples=FEWEST)
        samples = drawn(model, criterion.seeds(), Sampling("dpm++sde", 3, "uniform"))
        assert found.distances[kind] == pytest.approx(criterion.of(samples), rel=1e-9)
        assert str(criterion) == found.criterion
    assert len(set(found.distances.values())) == len(KINDS)
    assert found.distances[found.chosen] == min(found.distances.values())
    assert load_model(run, device="cpu").weights == found.chosen
    assert heard.stages == {"Sampling": [4 * 3 * FEWEST] * 2}
    assert found.calls == 4 * 3 * FEWEST
    assert report.file == find_checkpoint(run) / "ema.json"
    assert tuned(run).choice == found, "what was chosen before changes nothing"
    assert tuned(run, seed=1).choice.distances != found.distances


def test_the_report_says_what_was_found(run: Path):
    report = tuned(run)
    table, lines = report.table(), report.lines()
    assert json.loads(json.dumps(table)) == table
    for kind, distance in report.choice.distances.items():
        (row,) = [line for line in lines if line.split()[0] == kind and "distance" in line]
        assert f"{distance:.4g}" in row
        assert row.endswith("the least") == (kind == table["chosen"])
    assert f"{report.file}: Fréchet distance" in lines[-2]
    assert lines[-1] == f"{table['chosen']} weights are used from now on; --weights names others"
    assert not any("training.ema_lengths" in line for line in lines)


def test_without_other_averages_the_ema_and_the_raw_weights_are_compared_and_the_report_says_so(tmp_path: Path):
    model = stored_model(tmp_path / "model")
    report = tuned(tmp_path / "model")
    assert list(report.choice.distances) == ["ema", "raw"]
    assert "This run tracked no other averages: training.ema_lengths names some." in report.lines()
    assert chosen_kind(Path(model.source), model.weights_sha256) == report.choice.chosen


def test_what_cannot_be_tuned_is_refused_before_a_sample_is_drawn(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddpm.tuning.best_weights.draw", lambda *given, **options: pytest.fail("drawn"))
    for options, named in (
        ({"steps": 13}, "13 steps"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"samples": 63}, "63 samples"),
        ({"features": []}, "features"),
        ({"features": ["pixel"]}, "pixel"),
    ):
        with pytest.raises(InputError, match=named):
            tuned(run, **options)
    with pytest.raises(InputError, match="ddpm tune codec linear"):
        tune_ema("linear", IMAGES)
    folder = find_checkpoint(run)
    monkeypatch.setattr("ddpm.tuning.best_weights.kinds_held", lambda folder: ["ema"])
    with pytest.raises(InputError, match=f"'{folder}' holds ema weights alone"):
        tuned(run)
    assert not (folder / "ema.json").exists()


# ---- what is used ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ema-0.25", "raw"])
def test_the_choice_is_what_is_loaded_unless_another_kind_is_named(kind: str, run: Path):
    chosen_by_hand(run, kind)
    model = load_model(run, device="cpu")
    assert model.weights == kind
    plan = plan_for(model, Sampling(steps=3))
    assert f"{kind} weights of {model.source}." in next(described(model, plan))
    assert protocol(model, plan)["weights"] == kind
    for other in KINDS:
        assert load_model(run, weights=other, device="cpu").weights == other
    shown = ddpm.show(run)
    assert (shown["weights"], shown["chosen"]) == (KINDS, kind)
    assert shown["side_files"] == [str(find_checkpoint(run) / "ema.json")]


def test_side_files_are_about_one_kind_and_the_command_that_makes_one_names_it(run: Path):
    """Of a checkpoint all of whose weights lie in one file, with one hash."""
    model, other = (load_model(run, weights=kind, device="cpu") for kind in ("ema-0.05", "ema"))
    measured = Measured(*([0.0] * 13 for _ in range(3)), second_moment=1.0)  # type: ignore[arg-type]
    path = write_variances(model, Variances(measured, "here", "f" * 64, (), 0, 10))
    assert path.name == "variance-averaged-0.05.json"
    assert VARIANCES.read(other) is None
    assert VARIANCES.made_by(other) == f"`ddpm tune variance {other.source}`"
    assert VARIANCES.made_by(model) == f"`ddpm tune variance {model.source} --weights ema-0.05`"
    chosen_by_hand(run, "ema-0.05")
    assert VARIANCES.made_by(other) == f"`ddpm tune variance {other.source} --weights ema`"
    path.rename(path.with_name("variance-averaged.json"))
    with pytest.raises(WrongModel, match=r"variance-averaged\.json' was measured on other weights.*--weights ema`"):
        denoiser_for(other, "optimal")


def test_a_newer_checkpoint_has_no_choice_yet(run: Path):
    of = chosen_by_hand(run, "raw")
    shutil.copytree(of.source, Path(of.source).with_name("0000000328"), ignore=shutil.ignore_patterns("ema.json"))
    assert load_model(run, device="cpu").weights == "ema"
    assert load_model(of.source, device="cpu").weights == "raw"


# ---- a choice that cannot be used -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut", "of other weights", "a field", "a kind that was not compared"])
def test_a_choice_that_cannot_be_used_is_refused_by_name_with_what_helps(fault: str, run: Path):
    of = chosen_by_hand(run, "raw")
    path = SIDECAR.path(of)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif fault == "of other weights":
        write_choice(Of(of.source, "ema", "b" * 64), Choice("raw", {"raw": 1.0}, "by hand", 3, 64, 192, 0, "here"))
    elif fault == "a field":
        edited(path, lambda table: table.update(distances={"raw": "1"}))
    else:
        edited(path, lambda table: table.update(chosen="ema-0.3"))
    with pytest.raises(WrongModel if fault == "of other weights" else DamagedFile) as caught:
        load_model(run, device="cpu")
    assert f"'{path}'" in str(caught.value)
    assert f"`ddpm tune ema {of.source}` makes a new one" in str(caught.value)
    assert ddpm.show(run)["chosen"] is None
    assert load_model(run, weights="raw", device="cpu").weights == "raw"
    report = tuned(run)
    assert load_model(run, device="cpu").weights == report.choice.chosen


def test_a_kind_that_the_checkpoint_does_not_hold_is_refused_with_those_that_it_does(run: Path):
    chosen_by_hand(run, "ema-0.3")
    with pytest.raises(DdpmError, match=r"holds no ema-0\.3 weights: choose ema or ema-0\.05 or ema-0\.25 or raw\."):
        load_model(run, device="cpu")
