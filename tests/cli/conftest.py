"""Every test starts in an empty folder of its own; a few tiny models are trained once for all of them."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest
from commandline import FORTY, TINY, done
from PIL import Image
from torch import Tensor

from ddpm.networks import UNet


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def short_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run measures the speed on a twentieth of a second."""
    module = importlib.import_module("ddpm.training.cost")  # the package has a function of that name
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.05)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each network call of this process was about, from now on."""
    asked: list[int] = []
    plain = UNet.forward

    def counted(network: UNet, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        asked.append(len(x))
        return plain(network, x, time, labels)

    monkeypatch.setattr(UNet, "forward", counted)
    return asked


@pytest.fixture
def no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a network call of this process is a traceback, and exit 1."""

    def refused(*given: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(UNet, "forward", refused)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without classes, 1 x 8 x 8."""
    run = tmp_path_factory.mktemp("models") / "digits"
    done("train", "digits", "--out", run, *TINY)
    return run


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
def photos(tmp_path_factory: pytest.TempPathFactory, kinds: Path) -> Path:
    """The same photographs in one folder."""
    folder = tmp_path_factory.mktemp("photos")
    for file in kinds.glob("*/*"):
        (folder / f"{file.parent.name}-{file.name}").write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="session")
def photos_run(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A run without classes, 3 x 16 x 24, scaled by --size."""
    run = tmp_path_factory.mktemp("models") / "photos"
    done("train", "small", "--data", photos, "--size", "16x24", "--out", run, *TINY)
    return run


@pytest.fixture(scope="session")
def kinds_run(tmp_path_factory: pytest.TempPathFactory, kinds: Path) -> Path:
    """A run with the classes china and flower, 3 x 16 x 24."""
    run = tmp_path_factory.mktemp("models") / "kinds"
    done("train", "small", "--data", kinds, "--size", "16x24", "--out", run, *TINY)
    return run


@pytest.fixture(scope="session")
def forty_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without classes, 1 x 8 x 8, of forty levels: more than the last step may start from."""
    run = tmp_path_factory.mktemp("models") / "forty"
    done("train", "digits", "--out", run, *FORTY)
    return run


@pytest.fixture(scope="session")
def tuned_run(tmp_path_factory: pytest.TempPathFactory, forty_run: Path) -> Path:
    """The same run, its optimal variances measured on its training images."""
    run = tmp_path_factory.mktemp("models") / "tuned"
    shutil.copytree(forty_run, run)
    done("tune", run, "--variance")
    return run


@pytest.fixture(scope="session")
def guided_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ten classes that learned without them as well."""
    run = tmp_path_factory.mktemp("models") / "guided"
    taught = ("network.classes=10", "training.label_dropout=0.2", "train_images=320")
    done("train", "digits", "--out", run, *TINY, *(word for setting in taught for word in ("--set", setting)))
    return run


@pytest.fixture(scope="session")
def learned_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned its variances pixel by pixel."""
    run = tmp_path_factory.mktemp("models") / "learned"
    taught = ("--set", "process.variance=learned", "--set", "objective.loss=bound")
    done("train", "digits", "--out", run, *FORTY, *taught)
    return run


@pytest.fixture(scope="session")
def range_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned its variances as places between small and large."""
    run = tmp_path_factory.mktemp("models") / "range"
    taught = ("--set", "process.variance=range", "--set", "objective.loss=hybrid")
    done("train", "digits", "--out", run, *FORTY, *taught)
    return run
