"""ddpm tune --steps: levels placed once by drawing, stored beside the checkpoint, and used by `sample --steps`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commandline import TINY, Done, done, drawn, sentence, snapshot, type_in

from ddpm.samplers import SAMPLERS, SPACINGS

CHECKPOINT = Path("run/checkpoints/0000000064")
FILE = CHECKPOINT / "levels-averaged.json"
SMALL = ("--features", "pixels", "--trials", "6", "--pictures", "64")


@pytest.fixture(scope="session")
def placed_run(tmp_path_factory: pytest.TempPathFactory, digits_run: Path) -> tuple[Path, Done]:
    """A run whose levels were placed for 4 and 8 steps, and how that ended; not to be changed."""
    run = tmp_path_factory.mktemp("models") / "placed"
    shutil.copytree(digits_run, run)
    return run, done("tune", run, "--steps", "4,8", *SMALL, "--json")


@pytest.fixture
def copy(placed_run: tuple[Path, Done], here: Path) -> Path:
    """A placed run to change; returns the file of its levels."""
    shutil.copytree(placed_run[0], "run")
    return FILE


@pytest.fixture
def plain(digits_run: Path, here: Path) -> Path:
    """A run without placed levels, to change."""
    shutil.copytree(digits_run, "run")
    return Path("run")


# ---- from end to end ------------------------------------------------------------------------------------------------


def test_levels_are_placed_stored_and_used_where_no_other_sampler_or_spacing_is_named(copy: Path, calls: list[int]):
    end = done("sample", "run", "--seeds", "0-7", "--steps", "4", "--out", "a.npz")
    assert sum(calls) == 8 * 4
    assert re.search(
        r"Drawing by dpm\+\+sde, eta [\d.]+, reach [\d.]+: 4 levels, tuned \([\d., ]+\); 4 network calls", end.err
    )
    assert f"Levels: {copy}.\n" in end.err
    tuned = np.load("a.npz")["arr_0"]
    words = ("--seeds", "0-7", "--steps", "4")
    for same in (("--sampler", "dpm++sde"), ("--spacing", "tuned"), ("--sampler", "dpm++sde", "--spacing", "tuned")):
        assert (drawn(Path("run"), *words, *same) == tuned).all(), same
    for other in (("--spacing", "uniform"), ("--sampler", "dpm++"), ("--sampler", "ddim"), ("--variance", "small")):
        end = done("sample", "run", *words, *other, "--out", "a.png")
        assert "tuned" not in end.err
        assert str(copy) not in end.err
    end = done("sample", "run", "--seeds", "0", "--steps", "8", "--out", "a.png")
    assert "8 levels, tuned" in end.err
    end = done("sample", "run", "--seeds", "0", "--steps", "5", "--out", "a.png")
    assert "5 levels, uniform" in end.err
    end = done("sample", "run", "--seeds", "0", "--steps", "4", "--eta", "0.125", "--out", "a.png")
    assert "dpm++sde, eta 0.125, reach" in end.err
    assert "4 levels, tuned" in end.err


def test_tuning_adds_one_file_and_says_what_it_found(placed_run: tuple[Path, Done], digits_run: Path):
    run, end = placed_run
    file = run / "checkpoints/0000000064/levels-averaged.json"
    before = snapshot(digits_run)
    added = {path for path in snapshot(run) if path not in before and not Path(path).name.startswith(".")}
    assert added == {file.relative_to(run).as_posix()}
    assert {path: held for path, held in snapshot(run).items() if path in before} == before
    found = json.loads(end.out)
    assert (found["file"], found["sampler"]) == (str(file), "dpm++sde")
    assert "Fréchet distance of 64 pictures to 1500 images of digits" in found["criterion"]
    stored = json.loads(file.read_text())["samplers"]["dpm++sde"]
    assert stored == found["placed"]
    for steps in ("4", "8"):
        placed = stored[steps]
        assert len(placed["levels"]) == int(steps)
        assert placed["value"] <= placed["before"]
        assert placed["best_named"] in SPACINGS
        assert (placed["pictures"], placed["calls"]) == (64, 6 * 64 * int(steps))
    most = f"{6 * 64 * 12:,} network calls"
    assert f"Levels for dpm++sde: up to 6 trials of 64 pictures each, {most}." in end.err
    assert f"Sampling: {6 * 64 * 12:,} of {6 * 64 * 12:,}\n" in end.err


def test_people_are_told_the_levels_the_gain_the_file_and_what_to_type(plain: Path):
    end = done("tune", plain, "--steps", "2", *SMALL)
    assert re.search(r"^2 levels: [\d.]+, [\d.]+, eta [\d.]+, reach [\d.]+$", end.out, re.MULTILINE)
    assert re.search(
        r"^  distance [\d.e+-]+, with the best spacing by name \([a-z-]+\) [\d.e+-]+; [\d,]+ network", end.out, re.M
    )
    assert f"{FILE}: Fréchet distance" in end.out
    typed = end.out.splitlines()[-1].removesuffix(" uses them").split()
    assert typed[0] == "sample"
    assert f"Levels: {FILE}." in done("sample", plain, *typed[1:], "--seeds", "0", "--out", "a.png").err


def test_placing_twice_is_placing_once_and_other_numbers_and_samplers_join_what_is_there(copy: Path):
    before = copy.read_bytes()
    done("tune", "run", "--steps", "8,4,4", *SMALL)
    assert copy.read_bytes() == before, "the same question has the same answer"
    done("tune", "run", "--steps", "3", "--sampler", "heun", *SMALL)
    samplers = json.loads(copy.read_text())["samplers"]
    assert {name: list(found) for name, found in samplers.items()} == {"dpm++sde": ["4", "8"], "heun": ["3"]}
    assert samplers["dpm++sde"] == json.loads(before)["samplers"]["dpm++sde"]
    end = done("sample", "run", "--seeds", "0", "--steps", "3", "--sampler", "heun", "--out", "a.png")
    assert "Drawing by heun: 3 levels, tuned" in end.err
    assert "5 network calls a picture" in end.err


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_can_be_placed_for_and_then_drawn_with(sampler: str, plain: Path, calls: list[int]):
    found = json.loads(done("tune", plain, "--steps", "2", "--sampler", sampler, *SMALL, "--json").out)
    assert found["sampler"] == sampler
    assert sum(calls) == found["placed"]["2"]["calls"] <= 6 * 64 * (3 if sampler == "heun" else 2)
    end = done("sample", plain, "--seeds", "0-1", "--steps", "2", "--sampler", sampler, "--out", "a.npz")
    assert f"Drawing by {sampler}" in end.err
    assert "2 levels, tuned" in end.err


def test_averaged_and_raw_weights_are_placed_for_apart(plain: Path):
    done("tune", plain, "--steps", "2", "--weights", "raw", *SMALL)
    assert [file.name for file in CHECKPOINT.glob("levels-*")] == ["levels-raw.json"]
    words = ("sample", plain, "--seeds", "0", "--steps", "2", "--out", "a.png")
    assert "levels-raw.json" in done(*words, "--weights", "raw").err
    assert "2 levels, uniform" in done(*words).err


def test_both_kinds_of_tuning_in_one_command(plain: Path):
    end = done("tune", plain, "--variance", "--calls", "200", "--steps", "2", *SMALL, "--json")
    assert {file.name for file in CHECKPOINT.glob("*-averaged.json")} == {
        "levels-averaged.json",
        "variance-averaged.json",
    }
    found = json.loads(end.out)
    assert found["calls"] <= 200
    assert list(found["placed"]) == ["2"]


def test_other_images_and_another_seed_are_used_and_remembered(plain: Path):
    words = ("--steps", "2", "--data", "digits:train[0:100]", "--seed", "3", *SMALL)
    done("tune", plain, *words)
    placed = json.loads(FILE.read_text())["samplers"]["dpm++sde"]["2"]
    assert (placed["data"], placed["seed"]) == ("digits:train[0:100]", 3)
    assert "to 100 images" in placed["criterion"]


def test_placed_levels_are_listed_by_show_and_left_behind_by_training_on(copy: Path, digits_run: Path):
    assert str(copy) in done("show", "run").out
    done("train", "digits", "--out", "run", *TINY, "--set", "train_images=96")
    assert "4 levels, uniform" in done("sample", "run", "--seeds", "0", "--steps", "4", "--out", "a.png").err
    older = done("sample", CHECKPOINT, "--seeds", "0", "--steps", "4", "--out", "a.png")
    assert "4 levels, tuned" in older.err


def test_pictures_of_placed_levels_join_a_folder_only_while_the_levels_are_the_same(copy: Path):
    words = ("sample", "run", "--steps", "4", "--out", "pictures")
    done(*words, "--seeds", "0-1")
    done(*words, "--seeds", "0-2")
    done("tune", "run", "--steps", "4", "--seed", "1", *SMALL)
    end = type_in(*words, "--seeds", "0-3")
    assert end.code == 2
    assert "drawn another way" in end.err.splitlines()[-1]
    assert not Path("pictures/000003.png").exists()


def test_a_guided_model_can_be_placed_for_and_takes_its_levels_with_any_weight(guided_run: Path, here: Path):
    shutil.copytree(guided_run, "run")
    done("tune", "run", "--steps", "2", *SMALL)
    end = done("sample", "run", "--seeds", "0", "--steps", "2", "--guidance", "2", "--out", "a.png")
    assert "2 levels, tuned" in end.err
    assert "4 network calls a picture" in end.err


# ---- what cannot be -------------------------------------------------------------------------------------------------

REFUSED = {
    "--steps a": ["'a'", "5,8,10"],
    "--steps 0": ["'0'", "5,8,10"],
    "--steps -3": ["'-3'", "5,8,10"],
    "--steps 5,,8": ["'5,,8'", "5,8,10"],
    "--steps 5,0": ["'5,0'", "5,8,10"],
    "--steps 1.5": ["'1.5'", "5,8,10"],
    "--steps=": ["''", "5,8,10"],
    "--steps 13": ["13 steps", "1 to 12"],
    "--steps 4,5000": ["5000 steps", "1 to 12"],
    "--steps 4 --sampler unpic": ["'unpic'", "did you mean 'unipc'", "heun"],
    "--steps 4 --sampler ''": ["''", "unipc"],
    "--steps 4 --features pixel": ["'pixel'", "did you mean 'pixels'"],
    "--steps 4 --features pixels --features nowhere.pt2": ["nowhere.pt2"],
    "--steps 4 --features run/recipe.json": ["run/recipe.json", "torch.export"],
    "--steps 4 --trials 4": ["4 trials", "5 would fit"],
    "--steps 4 --pictures 63": ["63 pictures", "64"],
    "--steps 4 --data digits:train[0:63]": ["63 images", "64"],
    "--steps 4 --data nowhere": ["nowhere"],
    "--steps 4 --calls 500": ["--calls", "--variance", "--trials"],
    "--calls 500": ["--variance", "--steps"],
    "--trials 8": ["--variance", "--steps"],
    "--variance --trials 8": ["--trials", "--steps"],
    "--variance --pictures 64": ["--pictures", "--steps"],
    "--variance --features pixels": ["--features", "--steps"],
    "--variance --sampler heun": ["--sampler", "--steps"],
    "--variance --steps 13": ["13 steps", "1 to 12"],
    "--variance --steps 4 --sampler unpic": ["'unpic'", "did you mean 'unipc'"],
    "--variance --steps 4 --features pixel": ["'pixel'", "did you mean 'pixels'"],
    "--variance --steps 4 --trials 4": ["4 trials", "5 would fit"],
    "--variance --calls 3 --steps 4": ["--calls 3"],
}


@pytest.mark.usefixtures("no_calls")
@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_is_one_sentence_before_the_network_is_asked(words: str, plain: Path):
    before = snapshot(plain)
    said = sentence(type_in("tune", plain, *(word.strip("'") for word in words.split())))
    for word in REFUSED[words]:
        assert word in said
    assert snapshot(plain) == before


@pytest.mark.usefixtures("no_calls")
def test_classes_that_the_model_does_not_know_are_named(kinds_run: Path):
    np.savez("other.npz", images=np.zeros((70, 16, 24, 3), np.uint8), labels=np.arange(70) % 2)
    said = sentence(type_in("tune", kinds_run, "--steps", "2", "--data", "other.npz", *SMALL))
    assert "china, flower" in said


@pytest.mark.usefixtures("no_calls")
def test_a_variance_learned_pixel_by_pixel_is_no_variance_of_few_steps(learned_run: Path):
    assert "learned" in sentence(type_in("tune", learned_run, "--steps", "3", "--sampler", "ancestral", *SMALL))


def test_levels_of_another_model_are_exit_3_and_the_command_that_is_named_helps(copy: Path, plain_other: Path):
    shutil.copy(copy, plain_other)
    before = snapshot(Path("other"))
    end = type_in("sample", "other", "--seeds", "0", "--steps", "4", "--out", "a.png")
    assert f"'{plain_other}'" in sentence(end, 3)
    assert snapshot(Path("other")) == before
    typed = re.search(r"`ddpm (tune [^`]+)`", end.err)
    assert typed is not None
    done(*typed[1].replace("...", "4").split(), *SMALL)
    done("sample", "other", "--seeds", "0", "--steps", "4", "--out", "a.png")


@pytest.fixture
def plain_other(range_run: Path, here: Path) -> Path:
    """Where the levels of another run would lie."""
    shutil.copytree(range_run, "other")
    return Path("other/checkpoints/0000000064/levels-averaged.json")


@pytest.mark.parametrize("damage", ["cut short", "emptied", "a digit", "no table", "no text", "another format"])
def test_damaged_levels_are_exit_4_and_the_command_that_is_named_helps(damage: str, copy: Path, here: Path):
    data = copy.read_bytes()
    place = data.index(b'"value": ') + len(b'"value": ')
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
    end = type_in("sample", "run", "--seeds", "0", "--steps", "4", "--out", "a.png")
    assert f"'{copy}'" in sentence(end, 4)
    assert snapshot(here) == before
    done("sample", "run", "--seeds", "0", "--steps", "4", "--spacing", "uniform", "--out", "a.png")
    if damage == "cut short":  # they are all replaced alike
        done("tune", "run", "--steps", "4", *SMALL)
        assert "tuned" in done("sample", "run", "--seeds", "0", "--steps", "4", "--out", "a.png").err


@pytest.mark.usefixtures("no_calls")
def test_newer_format_of_levels_is_exit_2_also_where_new_ones_are_to_be_stored(copy: Path):
    table = json.loads(copy.read_text())
    copy.write_text(json.dumps(table | {"format_version": 2}))
    before = snapshot(Path("run"))
    for words in (("sample", "run", "--seeds", "0", "--steps", "4", "--out", "a.png"), ("tune", "run", "--steps", "4")):
        assert "newer" in sentence(type_in(*words, *(SMALL if words[0] == "tune" else ())))
    assert snapshot(Path("run")) == before


@pytest.mark.parametrize("weights", ["averaged", "raw"])
def test_missing_levels_are_answered_with_the_command_that_places_them(weights: str, plain: Path, here: Path):
    words = ("sample", plain, "--seeds", "0", "--steps", "3", "--spacing", "tuned", "--weights", weights, "--out")
    end = type_in(*words, "a.png")
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1)
    typed = re.search(r"`ddpm (tune [^`]+)`", end.err)
    assert typed is not None
    done(*typed[1].split(), *SMALL)
    assert f"levels-{weights}.json" in done(*words, "a.png").err
