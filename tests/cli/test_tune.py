"""ddpm tune --variance: measured once, stored beside the checkpoint, used by name, never mistaken for another model's.

What --steps places is in test_tune_steps.py."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commandline import FORTY, done, drawn, sentence, snapshot, type_in
from PIL import Image

FILE = Path("checkpoints/0000000064/variance-averaged.json")
LEAST = 264  # calls that reach every one of forty levels, eight times as many at the first thirty-two


def scored(run: Path | str, *words: str, data: str = "digits:test") -> dict[str, dict[str, object]]:
    return json.loads(done("evaluate", run, "--data", data, "--calls", "512", *words, "--json").out)


@pytest.fixture
def copy(tuned_run: Path, here: Path) -> Path:
    """A tuned run to change; returns the file of its variances."""
    shutil.copytree(tuned_run, "run")
    return Path("run") / FILE


# ---- what it does ---------------------------------------------------------------------------------------------------


def test_tuning_adds_one_file_beside_the_checkpoint_and_names_it(forty_run: Path):
    shutil.copytree(forty_run, "run")
    before = snapshot(Path("run"))
    end = done("tune", "run", "--variance", "--calls", str(LEAST))
    after = snapshot(Path("run"))
    assert set(after) - set(before) == {FILE.as_posix()}
    assert {path: after[path] for path in before} == before
    assert str(Path("run") / FILE) in end.out
    assert "--variance optimal" in end.out
    assert f"{LEAST} network calls" in end.out
    again = json.loads(done("tune", "run", "--variance", "--calls", str(LEAST), "--json").out)
    assert (again["file"], again["calls"]) == (str(Path("run") / FILE), LEAST)
    assert snapshot(Path("run")) == after, "the same question has the same answer"


def test_number_of_images_is_of_those_that_were_looked_at(forty_run: Path):
    shutil.copytree(forty_run, "run")
    found = json.loads(done("tune", "run", "--variance", "--calls", str(LEAST), "--json").out)
    assert found["images"] <= 16, "eight images at the first levels, one at each of eight others"


def test_other_data_and_raw_weights_are_used_and_remembered(forty_run: Path):
    shutil.copytree(forty_run, "run")
    words = ("--variance", "--data", "digits:train[0:200]", "--weights", "raw", "--calls", str(LEAST))
    assert "variance-raw.json" in done("tune", "run", *words).out
    assert not (Path("run") / FILE).exists()
    end = done(
        "evaluate", "run", "--data", "digits:test", "--metric", "bits", "--variance", "optimal", "--weights", "raw"
    )
    assert "variance-raw.json" in end.err
    assert "digits:train[0:200]" in end.err
    said = sentence(type_in("evaluate", "run", "--data", "digits:test", "--metric", "bits", "--variance", "optimal"))
    assert "ddpm tune" in said


def test_process_of_few_levels_can_be_tuned(digits_run: Path):
    shutil.copytree(digits_run, "run")
    done("tune", "run", "--variance", "--calls", "200")
    assert scored("run", "--metric", "bits", "--variance", "optimal")["bits"]["levels"] == 12


@pytest.mark.parametrize("kind", ["learned", "range"])
def test_model_that_learned_its_variances_can_be_tuned(kind: str, request: pytest.FixtureRequest):
    shutil.copytree(request.getfixturevalue(f"{kind}_run"), "run")
    done("tune", "run", "--variance", "--calls", str(LEAST))
    assert scored("run", "--metric", "bits", "--variance", "optimal")["bits"]["variance"] == "optimal"
    assert drawn(Path("run"), "--seeds", "0-1", "--steps", "3", "--variance", "optimal").shape == (2, 8, 8, 1)


# ---- what it is for -------------------------------------------------------------------------------------------------


def test_optimal_variances_cost_fewer_bits_and_the_file_is_named(tuned_run: Path):
    usual = scored(tuned_run, "--metric", "bits", "--calls", "4096")["bits"]
    optimal = scored(tuned_run, "--metric", "bits", "--variance", "optimal", "--calls", "4096")["bits"]
    error = usual["total"]["error"] + optimal["total"]["error"]
    assert optimal["total"]["value"] < usual["total"]["value"] + 2 * error
    assert (optimal["variance"], usual["side_files"]) == ("optimal", [])
    assert str(tuned_run / FILE) in optimal["side_files"][0]
    end = done(
        "evaluate", tuned_run, "--data", "digits:test", "--metric", "bits", "--calls", "300", "--variance", "optimal"
    )
    assert str(tuned_run / FILE) in end.err
    assert "variance optimal" in end.out


def test_best_levels_come_with_the_curve(tuned_run: Path):
    words = ("--metric", "bits", "--levels", "6", "--keep", "kept")
    bits = scored(tuned_run, *words, "--calls", "4096")["bits"]
    assert (bits["levels"], bits["of_levels"], bits["variance"]) == (6, 40, "optimal")
    assert len(bits["curve"]) == 6
    assert bits["total"]["value"] == pytest.approx(bits["curve"][-1], abs=0.3)
    assert Image.open("kept/levels.png").size[0] > 300
    end = done("evaluate", tuned_run, "--data", "digits:test", *words, "--calls", "300")
    assert "the best 6 of 40 levels" in end.out
    assert f"{bits['curve'][-1]:.3f} at 6" in end.out
    assert "kept/levels.png" in end.out
    assert scored(tuned_run, *words, "--variance", "optimal", "--calls", "4096")["bits"]["total"] == bits["total"]


@pytest.mark.parametrize("levels", [1, 2, 40])
def test_any_number_of_levels_can_be_asked_for(levels: int, tuned_run: Path):
    bits = scored(tuned_run, "--metric", "bits", "--levels", str(levels), "--keep", "kept")["bits"]
    assert (bits["levels"], len(bits["curve"])) == (levels, levels)
    if levels == 40:
        plain = scored(tuned_run, "--metric", "bits", "--variance", "optimal")["bits"]
        assert plain["total"] == bits["total"], "all levels are all levels"


def test_rate_and_the_full_sum_take_the_best_levels_too(tuned_run: Path):
    words = ("--metric", "rate", "--levels", "5", "--keep", "kept")
    rate = scored(tuned_run, *words)["rate"]
    assert [row["reverse_steps"] for row in rate["rows"]] == [5, 4, 3, 2, 1]
    words = ("--data", "digits:test[0:20]", "--metric", "bits", "--levels", "5", "--full", "--keep", "kept", "--json")
    assert json.loads(done("evaluate", tuned_run, *words).out)["bits"]["calls"] == 100


@pytest.mark.parametrize("steps", [None, 3])
def test_samples_are_drawn_with_optimal_variances_and_the_file_is_named(steps: int | None, tuned_run: Path):
    few = () if steps is None else ("--steps", str(steps))
    words = ("--seeds", "0-3", *few)
    end = done("sample", tuned_run, *words, "--variance", "optimal", "--out", "a.npz")
    assert str(tuned_run / FILE) in end.err
    assert (np.load("a.npz")["arr_0"] != drawn(tuned_run, *words)).any()


def test_samples_of_the_neighbours_may_be_drawn_with_optimal_variances(tuned_run: Path):
    words = ("--data", "digits:test", "--metric", "neighbours", "--samples", "2", "--steps", "2", "--json")
    usual, optimal = (
        json.loads(done("evaluate", tuned_run, *words, *more).out)["neighbours"]
        for more in ((), ("--variance", "optimal"))
    )
    assert usual["median"] != optimal["median"]


def test_tuned_run_trains_on_and_its_new_checkpoint_is_not_tuned(copy: Path):
    done("train", "digits", "--out", "run", *FORTY, "--set", "train_images=96")
    assert copy.exists()
    words = ("evaluate", "run", "--data", "digits:test", "--metric", "bits", "--variance", "optimal")
    assert "0000000096" in sentence(type_in(*words))
    scored("run/checkpoints/0000000064", "--metric", "bits", "--variance", "optimal")


# ---- learned variances ----------------------------------------------------------------------------------------------


def test_learned_variances_draw_on_all_levels_only(learned_run: Path, here: Path):
    """The ancestral sampler's; others have no variance, so that few steps alone fit any model."""
    assert drawn(learned_run, "--seeds", "0-1").shape == (2, 8, 8, 1)
    words = ("--seeds", "0-1", "--sampler", "ancestral")
    for steps in (("--steps", "3"), ("--steps", "40", "--spacing", "karras")):
        assert "--variance" in sentence(type_in("sample", learned_run, *words, *steps, "--out", "b.png"))
    assert not (here / "b.png").exists()
    for variance in ("large", "small"):
        assert drawn(learned_run, *words, "--steps", "3", "--variance", variance).shape == (2, 8, 8, 1)
    assert (drawn(learned_run, *words, "--steps", "40") == drawn(learned_run, "--seeds", "0-1")).all()
    assert drawn(learned_run, "--seeds", "0-1", "--steps", "3").shape == (2, 8, 8, 1)


def test_ranges_draw_on_any_levels(range_run: Path):
    usual = drawn(range_run, "--seeds", "0-3")
    assert (usual != drawn(range_run, "--seeds", "0-3", "--variance", "large")).any()
    for steps in ("1", "3", "39"):
        assert drawn(range_run, "--seeds", "0-3", "--sampler", "ancestral", "--steps", steps).shape == usual.shape


# ---- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [(), ("--weights", "raw")])
@pytest.mark.parametrize("command", ["evaluate", "sample", "levels"])
def test_missing_variances_are_answered_with_the_command_that_measures_them(
    command: str, raw: tuple[str, ...], forty_run: Path, here: Path
):
    shutil.copytree(forty_run, "run")
    before = snapshot(here)
    words = {
        "evaluate": ("evaluate", "run", "--data", "digits:test", "--metric", "bits", "--variance", "optimal"),
        "levels": ("evaluate", "run", "--data", "digits:test", "--metric", "bits", "--levels", "3"),
        "sample": ("sample", "run", "--seeds", "0", "--out", "a.png", "--variance", "optimal"),
    }[command]
    end = type_in(*words, *raw)
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1)
    typed = re.search(r"`ddpm (tune [^`]+)`", end.err)
    assert typed is not None
    assert snapshot(here) == before
    done(*typed[1].split(), "--calls", str(LEAST))
    done(*words, *raw)


USES = {
    "evaluate": ("evaluate", "run", "--data", "digits:test", "--metric", "bits", "--variance", "optimal"),
    "levels": ("evaluate", "run", "--data", "digits:test", "--metric", "bits", "--levels", "3"),
    "sample": ("sample", "run", "--seeds", "0", "--out", "a.png", "--variance", "optimal"),
}


@pytest.mark.parametrize("use", USES)
def test_variances_of_another_model_are_exit_3(use: str, copy: Path, range_run: Path, here: Path):
    shutil.copytree(range_run, "other")
    done("tune", "other", "--variance", "--calls", str(LEAST))
    shutil.copy(Path("other") / FILE, copy)
    before = snapshot(here)
    end = type_in(*USES[use])
    assert (end.code, end.out, end.err.count("\n")) == (3, "", 1)
    assert f"'{copy}'" in end.err
    assert "ddpm tune" in end.err
    assert snapshot(here) == before


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("damage", ["cut short", "emptied", "a digit", "no table", "no text", "another format"])
def test_damaged_variances_are_exit_4(damage: str, use: str, copy: Path, here: Path):
    data = copy.read_bytes()
    place = data.index(b'"squared_error": [') + 25
    digit = b"1" if data[place : place + 1] != b"1" else b"2"
    copy.write_bytes(
        {
            "cut short": data[: len(data) // 2],
            "emptied": b"",
            "a digit": data[:place] + digit + data[place + 1 :],
            "no table": b"[]",
            "no text": b"\xff\xfe",
            "another format": b'{"format": "something else"}',
        }[damage]
    )
    before = snapshot(here)
    assert f"'{copy}'" in sentence(type_in(*USES[use]), 4)
    assert snapshot(here) == before


def test_newer_format_of_variances_is_exit_2(copy: Path):
    table = json.loads(copy.read_text())
    copy.write_text(json.dumps(table | {"format_version": 2}))
    assert "newer" in sentence(type_in(*USES["evaluate"]))


@pytest.mark.parametrize("data", ["digits:train", "digits:train[0:20]", "digits:train[100:900]"])
@pytest.mark.parametrize("how", [("--variance", "optimal"), ("--levels", "3")])
def test_images_that_were_tuned_on_are_never_scored(data: str, how: tuple[str, str], tuned_run: Path):
    said = sentence(type_in("evaluate", tuned_run, "--data", data, "--metric", "bits", *how))
    assert data in said
    assert "ddpm tune" in said


@pytest.mark.parametrize("levels", ["0", "-1", "41"])
def test_levels_that_do_not_fit_are_answered_with_those_that_do(levels: str, tuned_run: Path, here: Path):
    before = snapshot(here)
    said = sentence(type_in("evaluate", tuned_run, "--data", "digits:test", "--metric", "bits", "--levels", levels))
    assert levels in said
    assert "1 to 40" in said
    assert "levels" in said
    assert snapshot(here) == before


REFUSED = {
    "": "--variance",
    "--variance --calls 0": "--calls",
    "--variance --calls -1": "--calls",
    "--variance --calls 263": str(LEAST),
    "--variance --weights best": "best",
    "--variance --device abacus": "abacus",
    "--variance --data nowhere": "nowhere",
    "--variance --data big.npy": "big.npy",
    "--variance --data colour.npy": "colour.npy",
    "--variance --data digits:train[5:5]": "[5:5]",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_is_one_sentence(words: str, forty_run: Path):
    np.save("big.npy", np.zeros((3, 16, 16), np.uint8))
    np.save("colour.npy", np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8))
    before = snapshot(forty_run)
    assert REFUSED[words] in sentence(type_in("tune", forty_run, *words.split()))
    assert snapshot(forty_run) == before


def test_images_without_classes_cannot_tune_a_model_of_classes(here: Path):
    done("train", "digits", "--out", "run", *FORTY, "--set", "network.classes=10", "--set", "train_images=16")
    np.save("plain.npy", np.zeros((3, 8, 8), np.uint8))
    before = snapshot(here)
    assert "plain.npy" in sentence(type_in("tune", "run", "--variance", "--data", "plain.npy"))
    assert snapshot(here) == before


def test_training_images_that_moved_are_named_by_an_option(here: Path):
    np.save("old.npy", np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8))
    done("train", "small", "--data", "old.npy", "--out", "run", *FORTY, "--set", "train_images=16")
    Path("old.npy").rename("new.npy")
    said = sentence(type_in("tune", "run", "--variance"))
    assert "old.npy" in said
    assert "--data" in said
    assert "new.npy" in done("tune", "run", "--variance", "--calls", str(LEAST), "--data", "new.npy").out
