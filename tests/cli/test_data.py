"""ddpm data: what is in a source, and what is wrong with it, before a step is taken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commandline import done
from PIL import Image

FIELDS = {
    "source",
    "kind",
    "images",
    "splits",
    "sizes",
    "modes",
    "channels",
    "classes",
    "duplicates",
    "bad",
    "suggestions",
    "policy",
}


def as_json(*words: str | Path) -> dict[str, object]:
    first, second = (done("data", *words, "--json") for _ in range(2))
    assert first.out == second.out, "--json is stable"
    assert first.err == ""
    return json.loads(first.out)


def test_digits_are_reported_by_split_and_class():
    table = as_json("digits")
    assert set(table) == FIELDS
    assert table["images"] == 1797
    assert table["splits"] == {"train": 1500, "test": 297}
    assert table["sizes"] == {"8x8": 1797}
    assert (table["modes"], table["channels"]) == ({"L": 1797}, 1)
    assert list(table["classes"]) == list("0123456789")
    assert table["bad"] == {}
    assert as_json("digits:test")["images"] == 297
    assert as_json("digits:train[10:30]")["images"] == 20


def test_folder_is_reported_with_everything_that_is_wrong_in_it(kinds: Path):
    for name in ("china", "flower"):
        Path("mine", name).mkdir(parents=True)
        for k in range(2):
            data = (kinds / name / f"{2 * k}.png").read_bytes()
            Path("mine", name, f"{k}.png").write_bytes(data)
    Path("mine/china/again.png").write_bytes(Path("mine/china/0.png").read_bytes())
    Path("mine/china/zero.png").touch()
    Path("mine/flower/cut.png").write_bytes(Path("mine/flower/0.png").read_bytes()[:200])
    Path("mine/flower/text.jpg").write_text("hello")
    Path("mine/notes.txt").write_text("not an image")
    table = as_json("mine")
    assert table["images"] == 8
    assert table["sizes"] == {"40x60": 3, "48x48": 2}
    assert table["classes"] == {"china": 4, "flower": 4}
    assert set(table["bad"]) == {"china/zero.png", "flower/cut.png", "flower/text.jpg"}
    assert table["duplicates"]["examples"] == [["china/0.png", "china/again.png"]]
    text = done("data", "mine").out
    for word in (*table["bad"], "china/again.png", "40x60 (3)", "RGB", "--size"):
        assert word in text


def test_modes_are_counted(here: Path):
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        Image.new(mode, (8, 8)).save(f"{mode}.png")
    assert set(as_json(".")["modes"]) == {"1", "L", "LA", "P", "RGB", "RGBA"}
    assert as_json(".")["channels"] == 4


@pytest.mark.parametrize("name", ["images.npy", "images.npz"])
def test_arrays_are_reported(name: str):
    images = np.zeros((3, 8, 16, 3), np.uint8)
    np.save(name, images) if name.endswith("npy") else np.savez(name, images=images, labels=[0, 2, 0])
    table = as_json(name)
    assert (table["images"], table["sizes"], table["channels"]) == (3, {"8x16": 3}, 3)
    assert table["classes"] == ({} if name.endswith("npy") else {"0": 2, "1": 0, "2": 1})


def test_suggested_size_is_one_that_the_small_recipe_takes(photos: Path):
    hint = next(hint for hint in as_json(photos)["suggestions"] if "--size" in hint)
    size = hint.split("--size ")[1].split()[0]
    done("train", "small", "--data", photos, "--size", size, "--dry-run")


def test_cifar_zip_and_fashion_folder_are_reported(data_root: Path):
    table = as_json(data_root / "cifar10-first4000.zip")
    assert (table["images"], table["sizes"], len(table["classes"])) == (4000, {"32x32": 4000}, 10)
    table = as_json(f"{data_root / 'fashion-mnist'}:test")
    assert (table["images"], table["sizes"], table["channels"]) == (10_000, {"28x28": 10_000}, 1)
