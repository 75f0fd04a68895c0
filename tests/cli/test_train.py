"""ddpm train: from a recipe and images to a run folder; and what it would cost, before it is run."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import tomllib
from pathlib import Path

import pytest
from commandline import TINY, done, drawn, sentence, snapshot, start, type_in
from PIL import Image

from ddpm.data import FITS
from ddpm.model.recipe import load_recipe, recipe_names

PARAMETERS = {
    "cifar10": "35,746,307",
    "lsun-bedroom-256": "113,673,219",
    "lsun-bedroom-256-large": "255,677,955",
}
SHAPE = ("--set", "image.channels=3", "--set", "image.height=32", "--set", "image.width=32")
OPEN = ("compress", "small", "standard")  # take their geometry from the data
TAKES_LONG = {"lsun-bedroom-256-large": pytest.mark.slow}


def held(run: Path | str) -> dict[str, object]:
    return json.loads(Path(run, "recipe.json").read_text(encoding="utf-8"))["recipe"]


def model_file(run: Path | str) -> bytes:
    return sorted(Path(run, "checkpoints").iterdir())[-1].joinpath("model.safetensors").read_bytes()


# ---- the run folder -------------------------------------------------------------------------------------------------


def test_run_folder_holds_what_the_command_says(here: Path):
    end = done("train", "digits", "--out", "runs/mine", *TINY)
    assert sorted(snapshot(here / "runs/mine")) == [
        ".lock",
        "checkpoints",
        "checkpoints/0000000032",
        *(f"checkpoints/0000000032/{file}" for file in ("config.json", "model.safetensors", "training.pt")),
        "checkpoints/0000000064",
        *(f"checkpoints/0000000064/{file}" for file in ("config.json", "model.safetensors", "training.pt")),
        "loss.png",
        "metrics.jsonl",
        "recipe.json",
        "samples",
        "samples/0000000064.png",
    ]
    assert "runs/mine" in end.out
    for name in ("checkpoints/0000000064", "samples/0000000064.png", "loss.png", "metrics.jsonl", "recipe.json"):
        assert name in end.out
        assert Path("runs/mine", name).exists()
    assert Image.open("runs/mine/loss.png").size[0] > 400
    metrics = [json.loads(line) for line in Path("runs/mine/metrics.jsonl").read_text().splitlines()]
    assert [line["images"] for line in metrics] == [16, 32, 48, 64]
    assert all(set(line) == {"images", "loss", "learning_rate", "images_per_second"} for line in metrics)
    assert held("runs/mine")["train_images"] == 64


def test_progress_is_plain_lines_with_loss_speed_and_time_left():
    lines = done("train", "digits", "--out", "run", *TINY).err.splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(r"Training: [\d,]+ of 64(  loss \d+\.\d+  [\d,]+ images/s  \S+ \S+ left)?", line), line
    assert lines[-1].startswith("Training: 64 of 64  loss ")


def test_default_folder_is_named_after_the_recipe(here: Path):
    Path("mine.toml").write_text('data = "digits"\n[network]\nmultipliers = [1]\n')
    done("train", "digits", *TINY, "--set", "train_images=16")
    done("train", "mine.toml", *TINY, "--set", "train_images=16")
    assert sorted(folder.name for folder in (here / "runs").iterdir()) == ["digits", "mine"]
    assert held("runs/mine")["network"]["multipliers"] == [1]


def test_settings_reach_the_run_as_counts_numbers_lists_and_words():
    changes = ("--set", "train_images=0.016k", "--set", "network.multipliers=[1, 1, 2]", "--set", "seed=-5")
    more = ("--set", "objective.prediction=v", "--set", "network.classes=10", "--set", "training.flip=true")
    done("train", "digits", "--out", "run", *TINY, *changes, *more)
    table = held("run")
    assert (table["train_images"], table["seed"]) == (16, -5)
    assert (table["network"]["multipliers"], table["network"]["classes"]) == ([1, 1, 2], 10)
    assert (table["objective"]["prediction"], table["training"]["flip"]) == ("v", True)


# ---- the same command again -----------------------------------------------------------------------------------------


def test_same_command_again_changes_nothing_and_ends_well(here: Path):
    first = done("train", "digits", "--out", "run", *TINY)
    before = snapshot(here)
    again = done("train", "digits", "--out", "run", *TINY)
    assert again.out == first.out
    assert "64" in again.err
    after = snapshot(here)
    assert {path: held for path, held in after.items() if path != "run/loss.png"} == {
        path: held for path, held in before.items() if path != "run/loss.png"
    }


def test_larger_train_images_continues_and_equals_one_long_run():
    longer = ("--set", "train_images=96")
    done("train", "digits", "--out", "two", *TINY)
    end = done("train", "digits", "--out", "two", *TINY, *longer)
    assert "Resuming at 64 images" in end.err
    done("train", "digits", "--out", "one", *TINY, *longer)
    assert model_file("two") == model_file("one")
    assert Path("two/samples/0000000096.png").read_bytes() == Path("one/samples/0000000096.png").read_bytes()


def test_pictures_that_a_user_puts_into_samples_do_not_stop_the_run():
    done("train", "digits", "--out", "run", *TINY)
    done("sample", "run", "--seeds", "0-3", "--out", "run/samples/mine.png")
    done("train", "digits", "--out", "run", *TINY, "--set", "train_images=80")
    assert Path("run/samples/mine.png").is_file()


def test_trailing_slash_of_the_folder_is_the_same_data(kinds: Path):
    words = ("train", "small", "--size", "16x24", "--out", "run", *TINY, "--set", "train_images=16")
    done(*words, "--data", f"{kinds}")
    done(*words, "--data", f"{kinds}/")


def test_ctrl_c_leaves_a_usable_run(here: Path):
    endless = ("train", "digits", "--out", "run", *TINY, "--set", "train_images=10M", "--set", "training.log_images=64")
    child = start(*endless, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stderr is not None
    while not child.stderr.readline().startswith(b"Training:"):
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=100)
    assert (child.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert b"stopped at" in err
    seen = json.loads(done("show", "run", "--json").out)["images_seen"]
    assert seen > 0
    assert drawn(here / "run", "--seeds", "0").shape == (1, 8, 8, 1)


# ---- a user's own images --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", FITS)
def test_rectangular_photographs_of_mixed_sizes_train_with_size(fit: str, photos: Path):
    words = ("--data", photos, "--size", "16x24", "--fit", fit, "--out", "run")
    done("train", "small", *words, *TINY, "--set", "train_images=16")
    assert held("run")["image"] == {"channels": 3, "height": 16, "width": 24}
    assert held("run")["fit"] == fit
    done("sample", "run", "--seeds", "0", "--out", "pictures")
    image = Image.open("pictures/000000.png")
    assert (image.mode, image.size) == ("RGB", (24, 16))


def test_class_folders_become_classes(kinds_run: Path):
    assert held(kinds_run)["network"]["classes"] == 2
    for name in ("china", "flower"):
        assert drawn(kinds_run, "--seeds", "0-1", "--class", name).shape == (2, 16, 24, 3)


def test_classes_can_be_left_out(kinds: Path):
    done("train", "small", "--data", kinds, "--size", "16", "--out", "run", *TINY, "--set", "network.classes=0")
    assert json.loads(done("show", "run", "--json").out)["class_names"] == []


def test_unreadable_image_can_be_skipped_and_is_named_once(here: Path, kinds: Path):
    shutil.copytree(kinds / "china", "mine")
    Path("mine/zero.png").touch()
    words = ("--data", "mine", "--size", "16x24", "--out", "run", "--set", "on_bad_image=skip")
    err = done("train", "small", *words, *TINY, "--set", "train_images=16").err
    assert err.count("zero.png") == 1
    assert "Warning" not in err
    line = next(line for line in err.splitlines() if "zero.png" in line)
    assert re.fullmatch(r"ddpm: .* 1 of 9 images .*zero\.png.*\.", line)
    assert "left out 1 of 9 images in 'mine' cannot" not in line, "half of another sentence"


def test_cifar_zip_trains_a_few_steps_and_samples(data_root: Path):
    words = ("--data", data_root / "cifar10-first4000.zip", "--out", "run", "--set", "process.steps=12")
    small = ("--set", "train_images=32", "--set", "batch_size=16", "--set", "network.channels=16")
    done("train", "small", *words, *small)
    assert held("run")["image"] == {"channels": 3, "height": 32, "width": 32}
    assert held("run")["network"]["classes"] == 10
    assert drawn(Path("run"), "--seeds", "0-1", "--class", "7").shape == (2, 32, 32, 3)


def test_fashion_mnist_recipe_takes_the_idx_folder(data_root: Path):
    words = ("--data", data_root / "fashion-mnist", "--out", "run", "--set", "process.steps=12")
    done("train", "fashion-mnist", *words, "--set", "train_images=16", "--set", "batch_size=16")
    assert drawn(Path("run"), "--seeds", "0").shape == (1, 28, 28, 1)


# ---- the dry run ----------------------------------------------------------------------------------------------------


def printed(text: str) -> tuple[dict[str, object], dict[str, str]]:
    """The recipe and the estimate that a dry run prints."""
    recipe, estimate = text.rsplit("\n\n", 1)
    rows = dict(line.split(maxsplit=1) for line in estimate.splitlines())
    return tomllib.loads(recipe), rows


def contains(whole: dict[str, object], part: dict[str, object]) -> bool:
    """Whether everything that is set in a nested table is there, with the same value."""
    return all(
        contains(whole[key], value) if isinstance(value, dict) else whole.get(key) == value
        for key, value in part.items()
        if value is not None
    )


@pytest.mark.parametrize("name", [pytest.param(name, marks=TAKES_LONG.get(name, ())) for name in recipe_names()])
def test_dry_run_prints_every_shipped_recipe_and_its_cost(name: str, here: Path):
    text = done("train", name, "--dry-run", *(SHAPE if name in OPEN else ())).out
    recipe, rows = printed(text)
    assert contains(recipe, load_recipe(name).model_dump(mode="json"))
    assert set(recipe["image"]) == {"channels", "height", "width"}
    assert set(rows) >= {"parameters", "multiply-adds", "memory", "speed", "time"}
    assert re.fullmatch(r"[\d,]+", rows["parameters"])
    assert rows["parameters"] == PARAMETERS.get(name, rows["parameters"])
    assert re.match(r"[\d,]+ ", rows["multiply-adds"])
    assert re.search(r" [kMGT]B\b", rows["memory"])
    assert re.search(r"\b(s|min|h|days|years)\b", rows["time"])
    assert not re.search(r"\de[+-]\d", "".join(rows.values())), "numbers as a person reads them"
    assert list(here.iterdir()) == [], "a dry run leaves nothing behind"


@pytest.mark.parametrize("name", OPEN)
def test_dry_run_without_geometry_names_both_ways_to_give_it(name: str, here: Path):
    said = sentence(type_in("train", name, "--dry-run"))
    assert "--data" in said
    assert "--set" in said
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("words", ["small --size 16x24", "small --size 32 --set image.channels=3", "digits"])
def test_dry_run_prints_the_recipe_that_the_run_has(words: str, here: Path, kinds: Path):
    data = () if words == "digits" else ("--data", kinds)
    recipe, _ = printed(done("train", *words.split(), *data, *TINY, "--dry-run").out)
    assert list(here.iterdir()) == []
    done("train", *words.split(), *data, *TINY, "--out", "run", "--set", "train_images=64")
    assert recipe == {key: value for key, value in held("run").items() if value is not None}


def test_dry_run_quotes_what_toml_would_misread(kinds: Path):
    name = 'a "b" \\n é'
    shutil.copytree(kinds / "china", name)
    recipe, _ = printed(done("train", "small", "--data", name, "--size", "16x24", *TINY, "--dry-run").out)
    assert recipe["data"] == name


def test_dry_run_refuses_data_that_the_run_would_refuse(kinds: Path, here: Path):
    for data in (here / "nowhere", kinds / "china"):
        sentence(type_in("train", "cifar10", "--data", data, *TINY, "--dry-run"))


def test_size_may_be_set_as_a_number(photos: Path):
    words = ("train", "small", "--data", photos, "--out", "run", *TINY, "--set", "train_images=16")
    done(*words, "--set", "size=16")
    assert held("run")["image"] == {"channels": 3, "height": 16, "width": 16}


def test_slice_of_a_source_can_be_trained_on():
    done("train", "digits", "--data", "digits:train[0:100]", "--out", "run", *TINY, "--set", "train_images=16")
    assert held("run")["data"] == "digits:train[0:100]"
