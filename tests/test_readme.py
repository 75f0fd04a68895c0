"""Every command and every line of Python in the README is run, in its order, on models so small that it takes seconds.

Folders, files and models that the README speaks of are made first; what is large in it is made small by `SMALLER`.
"""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image
from typer.testing import CliRunner

import ddpm
from ddpm.cli import app
from test_docs import PROJECT, blocks, commands, read

README = PROJECT / "README.md"
TINY = "train_images=16 batch_size=16 network.channels=32 network.blocks=1 process.steps=40"
SMALLER = (
    (r"^(sample .*)--seeds 0-\d+", r"\1--seeds 0-3"),
    (r"^(evaluate fid .*)--seeds 0-\d+", r"\1--seeds 0-63"),
    (r"^(evaluate memorisation .*)", r"\1 --seeds 0-15 --steps 10"),
    (r"^(evaluate likelihood .*)", r"\1 --calls 256 --solver-steps 1 --limit 4"),
    (r"^(evaluate codec .*)", r"\1 --limit 8"),
    (r"^(tune variance .*)", r"\1 --calls 400"),
    (r"^(tune ema .*)--samples \d+", r"\1--samples 64"),
    (r"^(tune codec .*)", r"\1 --fit-steps 20"),
    (r"--trials \d+ --samples \d+", "--trials 5 --samples 64"),
    (r"--size \d+", "--size 16"),
    (r"--steps 100\b", "--steps 20"),
)
WHERE = ("runs/demo", "models/fashion-mnist")
"""What `make demo` leaves, and what comes with the repository: one tiny model, tuned and with codec data."""


DIFFUSERS = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
"""A network of diffusers with the options of the published one, and fewer channels."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with everything that the README's commands find."""
    place = tmp_path_factory.mktemp("readme")
    random = np.random.default_rng(0)
    recipe = ddpm.recipe("digits", data="digits:train", **nested(TINY), device="cpu")
    run = ddpm.train(recipe, out=place / "run")
    model = ddpm.load(run, device="cpu")
    ddpm.tune_codec(model, ddpm.images("digits:train[0:64]"), fit_steps=20)
    for where in WHERE:
        shutil.copytree(run, place / where)
    for k in range(24):
        for name in (f"path/to/images/{'ab'[k % 2]}/{k}.png", f"path/to/fashion-mnist/test/{k}.png"):
            grey = "fashion" in name
            write(place / name, random.integers(0, 256, (8, 8) if grey else (20, 24, 3), np.uint8))
    write(place / "shirt.png", random.integers(0, 256, (8, 8), np.uint8))
    write(place / "photograph.png", random.integers(0, 256, (20, 30, 3), np.uint8))
    records = random.integers(0, 256, (20, 3073), np.uint8)
    records[:, 0] = np.arange(20) % 10
    (place / "path/to/cifar-10-batches-bin").mkdir()
    records.tofile(place / "path/to/cifar-10-batches-bin/data_batch_1.bin")
    network = UNet2DModel(**DIFFUSERS)
    DDPMPipeline(network, DDPMScheduler(num_train_timesteps=40)).save_pretrained(place / "path/to/ddpm-cifar10-32")
    return place


def nested(settings: str) -> dict[str, object]:
    from ddpm.cli.console import parse_changes

    return parse_changes(settings.split())


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def smaller(words: list[str]) -> list[str]:
    """The same command with less to do."""
    line = " ".join(words)
    for pattern, replacement in SMALLER:
        line = re.sub(pattern, replacement, line)
    words = line.split()
    if words[0] == "train":
        words += [part for setting in TINY.split() for part in ("--set", setting)]
    return words


def test_every_command_of_the_readme_runs(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    for words in commands(README):
        end = CliRunner().invoke(app, smaller(words), catch_exceptions=False)
        assert end.exit_code == 0, f"{' '.join(words)}: {end.output}"


def test_python_of_the_readme_runs(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    (block,) = blocks(read(README), "python")
    block = block.replace('train_images="50k"', f"**nested({TINY!r})").replace("range(256)", "range(64)")
    block = block.replace("tune_codec(model)", "tune_codec(model, fit_steps=20)")
    block = block.replace("trials=8, samples=128", "trials=5, samples=64")
    block = block.replace("tune_variance(model)", "tune_variance(model, calls=400)").replace(
        "rate=True", "rate=True, calls=256"
    )
    exec(compile(block, "README.md", "exec"), {"nested": nested})


@pytest.mark.slow
def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["digits.py", str(tmp_path), "--images", "256", "--channels", "16"])
    runpy.run_path(str(PROJECT / "examples" / "digits.py"), run_name="__main__")
    assert "bits/dim" in capsys.readouterr().out
    assert {"samples.png", "codec.png"} <= {file.name for file in tmp_path.iterdir()}
