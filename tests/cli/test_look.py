"""ddpm data, ddpm show and ddpm convert: what is in a source, what a model is, and models of others."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from commandline import done, sentence, snapshot, type_in
from PIL import Image

SOURCE_FIELDS = {"source", "kind", "images", "splits", "sizes", "modes", "channels", "classes", "duplicates", "bad",
                 "suggestions", "policy", "summary", "left_out", "levels", "alpha", "see_through"}  # fmt: skip
MODEL_FIELDS = {"checkpoint", "checkpoints", "images_seen", "parameters", "class_names", "data_fingerprint", "sha256",
                "weights", "chosen", "side_files", "by_checkpoint", "changes", "schedule", "recipe"}  # fmt: skip


def as_json(command: str, *words: str | Path) -> dict[str, object]:
    first, second = (done(command, *words, "--json") for _ in range(2))
    assert first.out == second.out, "--json is stable"
    assert first.err == ""
    return json.loads(first.out)


# ---- data -----------------------------------------------------------------------------------------------------------


def test_digits_are_reported_by_split_and_class():
    table = as_json("data", "digits")
    assert set(table) == SOURCE_FIELDS
    assert table["images"] == 1797
    assert table["splits"] == {"train": 1500, "test": 297}
    assert table["sizes"] == {"8x8": 1797}
    assert (table["modes"], table["channels"]) == ({"L": 1797}, 1)
    assert list(table["classes"]) == list("0123456789")
    assert table["bad"] == {}
    assert as_json("data", "digits:train[10:30]")["images"] == 20


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
    table = as_json("data", "mine")
    assert table["images"] == 8
    assert table["sizes"] == {"40x60": 3, "48x48": 2}
    assert table["classes"] == {"china": 4, "flower": 4}
    assert set(table["bad"]) == {"china/zero.png", "flower/cut.png", "flower/text.jpg"}
    assert table["duplicates"]["examples"] == [["china/0.png", "china/again.png"]]
    text = done("data", "mine").out
    for word in (*table["bad"], "china/again.png", "40x60 (3)", "RGB", "--size"):
        assert word in text
    hint = next(hint for hint in table["suggestions"] if "--size" in hint)
    shutil.rmtree("mine/flower")
    Path("mine/china/zero.png").unlink()
    size = hint.split("--size ")[1].split()[0].rstrip(".,;")
    done("train", "small", "--data", "mine", "--size", size, "--dry-run", "--set", "batch_size=1")


def test_modes_are_counted_and_arrays_are_reported(here: Path):
    Path("modes").mkdir()
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        Image.new(mode, (8, 8)).save(f"modes/{mode}.png")
    table = as_json("data", "modes")
    assert (set(table["modes"]), table["channels"]) == ({"1", "L", "LA", "P", "RGB", "RGBA"}, 4)
    images = np.zeros((3, 8, 16, 3), np.uint8)
    np.save("images.npy", images)
    np.savez("images.npz", images=images, labels=[0, 2, 0])
    for name, classes in (("images.npy", {}), ("images.npz", {"0": 2, "2": 1})):
        table = as_json("data", name)
        assert (table["images"], table["sizes"], table["channels"]) == (3, {"8x16": 3}, 3)
        assert table["classes"] == classes


def test_cifar_zip_and_fashion_folder_are_reported(data_root: Path):
    table = as_json("data", data_root / "cifar10-first4000.zip")
    assert (table["images"], table["sizes"], len(table["classes"])) == (4000, {"32x32": 4000}, 10)
    table = as_json("data", f"{data_root / 'fashion-mnist'}:test")
    assert (table["images"], table["sizes"], table["channels"]) == (10_000, {"28x28": 10_000}, 1)


# ---- show -----------------------------------------------------------------------------------------------------------


def test_show_says_everything_about_a_run_as_json_and_for_a_person(kinds_run: Path):
    table, text = as_json("show", kinds_run), done("show", kinds_run).out
    assert set(table) == MODEL_FIELDS
    assert [Path(found).name for found in table["checkpoints"]] == ["0000000016"]
    assert table["checkpoint"] == table["checkpoints"][-1]
    assert (table["images_seen"], table["class_names"]) == (16, ["china", "flower"])
    assert set(table["sha256"]) == {"model.safetensors", "training.pt"}
    assert table["schedule"]["steps"] == 12
    assert table["recipe"] == json.loads((kinds_run / "recipe.json").read_text())["recipe"]
    assert f"parameters    {table['parameters']:,}\n" in text
    assert (table["weights"], table["chosen"]) == (["ema", "raw"], "ema")
    assert "weights       ema (used), raw; SHA-256 " in text
    for fact in ("china, flower", "3 x 16 x 24", table["sha256"]["model.safetensors"], *table["checkpoints"]):
        assert fact in text


def test_text_ends_in_the_recipe_as_toml_also_of_an_older_checkpoint(digits_run: Path):
    path = digits_run / "checkpoints" / "0000000032"
    recipe = tomllib.loads(done("show", path).out.split("\n\n", 1)[1])
    assert recipe == {key: value for key, value in as_json("show", path)["recipe"].items() if value is not None}
    assert as_json("show", path)["images_seen"] == 32
    older, newest = as_json("show", digits_run)["checkpoints"]
    assert done("show", digits_run).out.startswith(f"checkpoint    {newest}\n              {older}\nimages ")


# ---- convert --------------------------------------------------------------------------------------------------------

NET = {
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": (16, 32),
    "center_input_sample": False,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 1,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 8,
    "out_channels": 3,
    "sample_size": 8,
    "time_embedding_type": "positional",
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline as diffusers writes it."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    folder = tmp_path_factory.mktemp("published") / "ddpm-tiny"
    scheduler = DDPMScheduler(num_train_timesteps=10, variance_type="fixed_large")
    DDPMPipeline(UNet2DModel(**NET), scheduler).save_pretrained(folder)
    return folder


@pytest.fixture
def theirs(published: Path, here: Path) -> Path:
    """The same, to damage."""
    shutil.copytree(published, "theirs")
    return Path("theirs")


def test_converted_model_is_shown_and_drawn_from(published: Path, here: Path):
    for name in ("new/ours", "again"):  # twice in one process
        end = done("convert", published, name)
        assert end.out.count("\n") == 1
    assert sorted(snapshot(here / "new")) == ["ours", "ours/config.json", "ours/model.safetensors"]
    table = as_json("show", "new/ours")
    assert (table["schedule"]["steps"], table["recipe"]["process"]["variance"]) == (10, "large")
    typed = done("convert", published, "third").out.split("next: ddpm ")[1].split()
    done(*typed, "--seeds", "0-1", "--steps", "2")
    assert Image.open("samples.png").mode == "RGB"
    assert "raw" in sentence(type_in("sample", "third", "--weights", "raw", "--out", "a.png"))
    np.save("noise.npy", np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8))
    words = ("third", "--data", "noise.npy", "--seeds", "0")
    assert "--training-data" in sentence(type_in("evaluate", "memorisation", *words))


def test_network_that_leaves_the_size_open_needs_size_and_assumptions_are_said(theirs: Path):
    config = theirs / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": None}))
    shutil.rmtree(theirs / "scheduler")
    assert "--size" in sentence(type_in("convert", theirs, "ours"))
    assert not Path("ours").exists()
    end = done("convert", theirs, "ours", "--size", "16x24")
    assert "scheduler" in end.err
    assert as_json("show", "ours")["recipe"]["image"] == {"channels": 3, "height": 16, "width": 24}


def test_what_cannot_be_converted_is_named_and_nothing_is_written(theirs: Path, here: Path, digits_run: Path):
    Path("file").write_text("mine")
    before = snapshot(here), snapshot(digits_run)
    for src, dst, named in (
        (theirs, Path("file"), "file"),
        (theirs, digits_run, str(digits_run)),
        (theirs, Path(), "."),
        (Path("nowhere"), Path("ours"), "nowhere"),
        (digits_run / "checkpoints" / "0000000064", Path("ours"), str(digits_run)),
    ):
        assert named in sentence(type_in("convert", src, dst))
        assert (snapshot(here), snapshot(digits_run)) == before
    config = theirs / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"flip_sin_to_cos": True}))
    assert "flip_sin_to_cos" in sentence(type_in("convert", theirs, "ours"))
    config.write_text(config.read_text()[:100])
    assert str(config) in sentence(type_in("convert", theirs, "ours"), 4)
    assert not Path("ours").exists()


# ---- what depends on what -------------------------------------------------------------------------------------------


def test_show_lists_the_side_files_of_every_checkpoint_and_the_dpc_files_that_need_it(coded: Path):
    shutil.copytree(coded, "run")
    older, newest = sorted(Path("run/checkpoints").iterdir())
    (newest / "codec-averaged.json").rename(older / "codec-averaged.json")
    (newest / "variance-averaged.json").write_text("{}")
    fingerprint = json.loads((older / "codec-averaged.json").read_text())["own_sha256"][:8]
    text = done("show", "run").out
    assert f"tuned         {newest}/variance-averaged.json\n" in text
    assert f"{older}/codec-averaged.json: .dpc files with fingerprint {fingerprint} need this checkpoint\n" in text
    assert as_json("show", "run")["by_checkpoint"] == [
        {"checkpoint": str(older), "side_files": {str(older / "codec-averaged.json"): fingerprint}},
        {"checkpoint": str(newest), "side_files": {str(newest / "variance-averaged.json"): None}},
    ]


def test_prune_shows_what_it_removes_and_a_damaged_run_folder_is_refused(coded: Path):
    shutil.copytree(coded, "run")
    newest = max(Path("run/checkpoints").iterdir())
    assert done("prune", "run").out == "0 removed, 2 left\n"
    assert "newest" in sentence(type_in("prune", "run", newest.name))
    assert "'nowhere'" in sentence(type_in("prune", "nowhere"))
    assert done("prune", "run", "32").out.startswith("removed  run/checkpoints/0000000032: named\n")
    assert [entry.name for entry in Path("run/checkpoints").iterdir()] == [newest.name]
