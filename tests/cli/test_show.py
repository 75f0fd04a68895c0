"""ddpm show: what a model is."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from commandline import done

FIELDS = {
    "checkpoint",
    "checkpoints",
    "images_seen",
    "parameters",
    "class_names",
    "data_fingerprint",
    "sha256",
    "side_files",
    "schedule",
    "recipe",
}


def as_json(path: Path) -> dict[str, object]:
    first, second = (done("show", path, "--json") for _ in range(2))
    assert first.out == second.out, "--json is stable"
    assert first.err == ""
    return json.loads(first.out)


def test_json_says_everything_about_a_run(kinds_run: Path):
    table = as_json(kinds_run)
    assert set(table) == FIELDS
    assert [Path(found).name for found in table["checkpoints"]] == ["0000000032", "0000000064"]
    assert table["checkpoint"] == table["checkpoints"][-1]
    assert table["images_seen"] == 64
    assert table["class_names"] == ["china", "flower"]
    assert set(table["sha256"]) == {"model.safetensors", "training.pt"}
    assert table["schedule"]["steps"] == 12
    assert table["recipe"] == json.loads((kinds_run / "recipe.json").read_text())["recipe"]


def test_text_says_it_for_a_person(kinds_run: Path):
    text = done("show", kinds_run).out
    table = as_json(kinds_run)
    assert f"parameters    {table['parameters']:,}\n" in text
    assert "china, flower" in text
    assert "3 x 16 x 24" in text
    assert table["sha256"]["model.safetensors"] in text
    assert all(found in text for found in table["checkpoints"])


@pytest.mark.parametrize("older", [False, True])
def test_text_ends_in_the_recipe_as_toml(older: bool, digits_run: Path):
    path = digits_run / "checkpoints" / "0000000032" if older else digits_run
    text = done("show", path).out
    recipe = tomllib.loads(text.split("\n\n", 1)[1])
    wanted = {key: value for key, value in as_json(path)["recipe"].items() if value is not None}
    assert recipe == wanted
    assert as_json(path)["images_seen"] == (32 if older else 64)
