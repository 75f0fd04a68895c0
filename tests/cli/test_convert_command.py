"""ddpm convert: a diffusers folder becomes a checkpoint that the other commands take."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commandline import done, sentence, snapshot, type_in
from PIL import Image

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
def copy(published: Path, here: Path) -> Path:
    """The same, to damage."""
    shutil.copytree(published, "theirs")
    return Path("theirs")


def test_converted_model_is_shown_and_drawn_from(published: Path, here: Path):
    end = done("convert", published, "new/ours")
    assert end.out == "Converted to new/ours; next: ddpm sample new/ours --out samples.png\n"
    assert sorted(snapshot(here)) == ["new", "new/ours", "new/ours/config.json", "new/ours/model.safetensors"]
    table = json.loads(done("show", "new/ours", "--json").out)
    assert table["schedule"]["steps"] == 10
    assert table["recipe"]["process"]["variance"] == "large"
    done("sample", "new/ours", "--seeds", "0-1", "--out", "pictures")
    image = Image.open("pictures/000001.png")
    assert (image.mode, image.size) == ("RGB", (8, 8))


def test_network_that_leaves_the_size_open_needs_size(copy: Path):
    config = copy / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": None}))
    assert "--size" in sentence(type_in("convert", copy, "ours"))
    assert not Path("ours").exists()
    done("convert", copy, "ours", "--size", "16x24")
    image = json.loads(done("show", "ours", "--json").out)["recipe"]["image"]
    assert image == {"channels": 3, "height": 16, "width": 24}


def test_assumption_is_said_on_stderr(copy: Path):
    shutil.rmtree(copy / "scheduler")
    end = done("convert", copy, "ours")
    assert "scheduler" in end.err
    assert end.out.count("\n") == 1


def test_converting_twice_in_one_process_works(published: Path):
    for name in ("one", "two"):
        done("convert", published, name)
        done("sample", name, "--seeds", "0", "--steps", "1", "--out", "a.png")


def test_destination_that_exists_is_refused_and_kept(published: Path, here: Path, digits_run: Path):
    Path("file").write_text("mine")
    before = snapshot(here), snapshot(digits_run)
    for dst in (Path("file"), Path("file/below"), digits_run, Path(".")):
        assert str(dst.parts[0] if dst.parts else dst) in sentence(type_in("convert", published, dst))
    assert (snapshot(here), snapshot(digits_run)) == before


@pytest.mark.parametrize("src", ["nowhere", "empty", "run"])
def test_source_that_is_no_diffusers_folder_is_refused(src: str, here: Path, digits_run: Path):
    Path("empty").mkdir()
    path = digits_run / "checkpoints" / "0000000064" if src == "run" else Path(src)
    before = snapshot(here)
    assert str(path) in sentence(type_in("convert", path, "ours"))
    assert snapshot(here) == before


def test_option_that_cannot_be_expressed_is_named(copy: Path, here: Path):
    config = copy / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"flip_sin_to_cos": True}))
    before = snapshot(here)
    said = sentence(type_in("convert", copy, "ours"))
    assert "flip_sin_to_cos" in said
    assert "true" in said
    assert snapshot(here) == before


@pytest.mark.parametrize("file", ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"])
def test_damaged_folder_is_exit_4(file: str, copy: Path, here: Path):
    data = (copy / file).read_bytes()
    (copy / file).write_bytes(data[: len(data) // 2])
    before = snapshot(here)
    assert str(copy / file) in sentence(type_in("convert", copy, "ours"), 4)
    assert snapshot(here) == before


def test_converted_model_has_only_averaged_weights_and_no_training_images(published: Path):
    done("convert", published, "ours")
    said = sentence(type_in("sample", "ours", "--weights", "raw", "--seeds", "0", "--out", "a.png"))
    assert "raw" in said
    assert "averaged" in said
    said = sentence(type_in("evaluate", "ours", "--data", "digits:test", "--metric", "neighbours", "--samples", "1"))
    assert "--training-data" in said
