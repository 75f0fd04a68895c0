"""ddpm train: from a recipe and images to a run folder; and what it would cost, before it is run."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from commandline import TINY, done, sentence, snapshot, type_in
from PIL import Image

from ddpm.model.recipe import load_recipe, recipe_names

PARAMETERS = {"cifar10": "35,746,307", "lsun-bedroom-256": "113,673,219", "lsun-bedroom-256-large": "255,677,955"}
SHAPE = ("--set", "image.channels=3", "--set", "image.height=16", "--set", "image.width=16")
OPEN = ("compress", "small", "standard")  # take their geometry from the data
FAST = ("digits", "small", "compress")
SHORT = (*TINY, "--set", "train_images=16")


def held(run: Path | str) -> dict[str, object]:
    return json.loads(Path(run, "recipe.json").read_text(encoding="utf-8"))["recipe"]


# ---- the run folder -------------------------------------------------------------------------------------------------


def test_run_folder_holds_what_the_command_says_and_the_same_command_again_changes_nothing(here: Path):
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
    lines = end.err.splitlines()
    progress = [line for line in lines if line.startswith("Training: ")]
    for line in progress:
        assert re.fullmatch(r"Training: [\d,]+ of 64(  loss \d+\.\d+  [\d,]+ images/s)?", line), line
    assert progress[-1].startswith("Training: 64 of 64  loss ")
    assert re.search(r"loss \d\.\d+.* 64 images", lines[-1])
    assert Image.open("runs/mine/loss.png").size[0] > 400
    metrics = [json.loads(line) for line in Path("runs/mine/metrics.jsonl").read_text().splitlines()]
    assert [line["images"] for line in metrics] == [16, 32, 48, 64]
    keys = {"images", "loss", "learning_rate", "gradient_norm", "prediction_std", "images_per_second"}
    assert all(set(line) == keys for line in metrics)
    before = snapshot(here)
    again = done("train", "digits", "--out", "runs/mine", *TINY)
    assert again.out == end.out
    assert "64" in again.err
    after = snapshot(here)
    assert {path for path in {*before, *after} if before.get(path) != after.get(path)} <= {"runs/mine/loss.png"}


def test_default_folder_is_named_after_the_recipe_and_settings_reach_it(here: Path):
    Path("mine.toml").write_text('data = "digits"\n[process]\nbeta_end = 0.05\n')
    done("train", "mine.toml", *SHORT)
    changes = ("train_images=0.016k", "network.multipliers=[1, 2]", "seed=-5", "objective.prediction=v")
    more = ("network.classes=10", "training.flip=true", "size=16", "data=digits:train[0:100]")
    words = [word for setting in (*changes, *more) for word in ("--set", setting)]
    done("train", "small", *TINY, *words)
    assert sorted(folder.name for folder in (here / "runs").iterdir()) == ["mine", "small"]
    assert held("runs/mine")["process"]["beta_end"] == 0.05
    table = held("runs/small")
    assert (table["train_images"], table["seed"], table["data"]) == (16, -5, "digits:train[0:100]")
    assert (table["network"]["multipliers"], table["network"]["classes"]) == ([1, 2], 10)
    assert (table["objective"]["prediction"], table["training"]["flip"]) == ("v", True)
    assert table["image"] == {"channels": 1, "height": 16, "width": 16}


def test_larger_train_images_continues(run: Path):
    end = done("train", "digits", "--out", run, *TINY, "--set", "train_images=80")
    assert re.search(r"64 images.*0000000064", end.err)
    assert json.loads(done("show", run, "--json").out)["images_seen"] == 80


def test_validation_is_logged():
    keys = ("validation=digits:test[0:50]", "training.validate_images=32", "training.validation_calls=256")
    end = done("train", "digits", "--out", "run", *TINY, *(word for key in keys for word in ("--set", key)))
    lines = [json.loads(line) for line in Path("run/validation.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [32, 64]
    for line in lines:
        parts = sum(line[name]["value"] for name in ("prior", "steps", "decoder"))
        assert line["total"]["value"] == pytest.approx(parts)
    assert re.search(r"^64 images: [\d.]+ ± [\d.]+ bits/dim on digits:test\[0:50\]", end.err, re.MULTILINE)
    assert "validation.jsonl" in end.out


# ---- a user's own images --------------------------------------------------------------------------------------------


def test_photographs_of_mixed_sizes_train_with_size_and_fit_and_those_that_cannot_be_read_are_skipped(kinds: Path):
    shutil.copytree(kinds / "china", "mine")
    Path("mine/zero.png").touch()
    words = ("--data", "mine/", "--size", "16x24", "--fit", "resize", "--out", "run", "--set", "on_bad_image=skip")
    err = done("train", "small", *words, *SHORT).err
    assert held("run")["image"] == {"channels": 3, "height": 16, "width": 24}
    assert held("run")["fit"] == "resize"
    assert "Warning" not in err
    (line,) = (line for line in err.splitlines() if "zero.png" in line)
    assert re.fullmatch(r"ddpm: .*\b1 of 9 images .*zero\.png.*\.", line)
    done("train", "small", *words, "--data", "mine", *SHORT)  # the same images without the slash


def test_a_stray_see_through_photograph_is_refused_until_alpha_says_what_becomes_of_it(kinds: Path, here: Path):
    shutil.copytree(kinds / "china", "mine")
    Image.new("RGBA", (16, 16), (9, 9, 9, 0)).save("mine/stray.png")
    words = ("train", "small", "--data", "mine", "--size", "16", *SHORT)
    said = sentence(type_in(*words))
    assert "stray.png" in said
    assert "--alpha" in said
    recipe, _ = printed(done(*words, "--alpha", "white", "--dry-run").out)
    assert (recipe["alpha"], recipe["image"]["channels"]) == ("white", 3)
    assert not Path("runs").exists()


def test_class_folders_become_classes(kinds_run: Path):
    assert held(kinds_run)["network"]["classes"] == 2
    assert json.loads(done("show", kinds_run, "--json").out)["class_names"] == ["china", "flower"]


@pytest.mark.parametrize(("recipe", "source", "shape"), [("small", "cifar10-first4000.zip", (3, 32, 32)),
                                                         ("fashion-mnist", "fashion-mnist", (1, 28, 28))])  # fmt: skip
def test_real_data_train_a_few_steps(recipe: str, source: str, shape: tuple[int, int, int], data_root: Path):
    done("train", recipe, "--data", data_root / source, "--out", "run", *SHORT)
    assert held("run")["image"] == dict(zip(("channels", "height", "width"), shape, strict=True))
    assert held("run")["network"]["classes"] == (10 if recipe == "small" else 0)


# ---- the dry run ----------------------------------------------------------------------------------------------------


def printed(text: str) -> tuple[dict[str, object], dict[str, str]]:
    """The recipe and the estimate that a dry run prints; the sentences behind them are left out."""
    recipe, estimate, _ = text.rsplit("\n\n", 2)
    rows = dict(line.split(maxsplit=1) for line in estimate.splitlines())
    return tomllib.loads(recipe), rows


def contains(whole: dict[str, object], part: dict[str, object]) -> bool:
    """Whether everything that is set in a nested table is there, with the same value."""
    return all(
        contains(whole[key], value) if isinstance(value, dict) else whole.get(key) == value
        for key, value in part.items()
        if value is not None
    )


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in recipe_names()])
def test_dry_run_prints_every_shipped_recipe_and_its_cost(name: str, here: Path):
    out = done("train", name, "--dry-run", *(SHAPE if name in OPEN else ())).out
    recipe, rows = printed(out)
    assert contains(recipe, load_recipe(name).model_dump(mode="json"))
    assert set(recipe["image"]) == {"channels", "height", "width"}
    assert set(rows) == {"parameters", "multiply-adds", "memory", "speed", "time"}
    assert re.fullmatch(r"[\d,]+", rows["parameters"])
    assert rows["parameters"] == PARAMETERS.get(name, rows["parameters"])
    assert re.match(r"[\d,]+ .*GFLOP", rows["multiply-adds"])
    assert re.search(r" GB\b", rows["memory"])
    assert re.search(r"\b(s|min|h|days)\b", rows["time"])
    assert not re.search(r"\de[+-]\d", "".join(rows.values())), "numbers as a person reads them"
    said = out.rsplit("\n\n", 1)[1]
    assert "become recognisable" in said
    assert re.search("^loss: the (mean )?squared error", said, re.MULTILINE)
    assert list(here.iterdir()) == [], "a dry run leaves nothing behind"


def test_dry_run_without_geometry_names_both_ways_to_give_it(here: Path):
    said = sentence(type_in("train", "small", "--dry-run"))
    assert "--data" in said
    assert "--set" in said
    assert list(here.iterdir()) == []


def test_dry_run_prints_the_recipe_that_the_run_has_and_quotes_what_toml_would_misread(kinds: Path, here: Path):
    name = 'a "b" \\n é'
    shutil.copytree(kinds / "china", name)
    words = ("train", "small", "--data", name, "--size", "16x24", *SHORT, "--set", "image.channels=3")
    recipe, _ = printed(done(*words, "--dry-run").out)
    assert [entry.name for entry in here.iterdir()] == [name]
    assert recipe["data"] == name
    done(*words, "--out", "run")
    assert recipe == {key: value for key, value in held("run").items() if value is not None}


@pytest.mark.parametrize(("seconds", "text"), [(0.01, "<0.1 s"), (89, "89 s"), (91, "1.5 min"), (5399, "90 min"),
                                               (5401, "1.5 h"), (172799, "48 h"), (1e6, "12 days")])  # fmt: skip
def test_durations_are_words(seconds: float, text: str):
    from ddpm.base.progress import duration
    from ddpm.cli.console import giga

    assert duration(seconds) == text
    assert [giga(amount) for amount in (5.8e7, 1.24e10, 1.1171e12)] == ["0.058", "12.4", "1,117"]
