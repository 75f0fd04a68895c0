"""Every test starts in an empty folder of its own; a few tiny models are made once for all of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commandline import TINY, done
from PIL import Image

from ddpm.networks.unet import UNet


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def short_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run measures the speed on a twentieth of a second."""
    monkeypatch.setattr("ddpm.training.cost.PROBE_SECONDS", 0.05)


@pytest.fixture
def no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a network call of this process is a traceback, and exit 1."""

    def refused(*given: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(UNet, "forward", refused)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without classes, 1 x 8 x 8; not to be changed."""
    run = tmp_path_factory.mktemp("models") / "digits"
    done("train", "digits", "--out", run, *TINY)
    return run


@pytest.fixture
def run(digits_run: Path, here: Path) -> Path:
    """A copy of it, to change: the folder run."""
    shutil.copytree(digits_run, "run")
    return Path("run")


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in two folders, china and flower: crops of scikit-learn's sample images in four sizes, all RGB."""
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("kinds")
    sizes = [(40, 60), (60, 40), (48, 48), (44, 66)]
    for name, photograph in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir()
        for k in range(8):
            (height, width), top, left = sizes[k % 4], 40 * k, 60 * k
            crop = Image.fromarray(photograph[top : top + height, left : left + width])
            crop.save(folder / name / f"{k}.{'jpg' if k % 2 else 'png'}")
    return folder


@pytest.fixture(scope="session")
def kinds_run(tmp_path_factory: pytest.TempPathFactory, kinds: Path) -> Path:
    """A run with the classes china and flower, 3 x 16 x 24, scaled by --size."""
    run = tmp_path_factory.mktemp("models") / "kinds"
    done("train", "small", "--data", kinds, "--size", "16x24", "--out", run, *TINY, "--set", "train_images=16")
    return run


@pytest.fixture(scope="session")
def coded(tmp_path_factory: pytest.TempPathFactory, digits_run: Path) -> Path:
    """The run of digits with its codec data; not to be changed."""
    run = tmp_path_factory.mktemp("coded") / "digits"
    shutil.copytree(digits_run, run)
    done("tune", "codec", run, "--fit-steps", "20", "--data", "digits:train[0:64]")
    return run
