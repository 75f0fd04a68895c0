"""A run that is shorter than the interval of its log lines still says its loss and leaves a curve, resumed or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ddpm.model.checkpoint import read_config, read_training
from ddpm.model.recipe import make_recipe
from ddpm.training.loop import train
from ddpm.training.run_folder import RunFolder
from scorings import RECIPE, Watching, image_set, merged, pixels

IMAGES = image_set(pixels(20, (1, 4, 4)))


def run(folder: Path, images: int, log_images: int = 1000) -> tuple[RunFolder, str]:
    """Train to so many images in batches of 8; the folder, and the last sentence."""
    heard = Watching()
    changes = {"train_images": images, "training": {"log_images": log_images}}
    train(make_recipe(merged(RECIPE, changes)), IMAGES, folder, progress=heard)
    return RunFolder(folder), heard.sentences[-1]


def points(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, float]]]:
    """What is plotted from now on."""
    plotted: list[list[tuple[int, float]]] = []
    plain = RunFolder.plot_loss

    def plot(folder, lines):
        plotted.append([(line["images"], line["loss"]) for line in lines])
        plain(folder, lines)

    monkeypatch.setattr(RunFolder, "plot_loss", plot)
    return plotted


def test_it_says_the_mean_loss_of_its_steps_and_plots_every_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plotted = points(monkeypatch)
    whole, said = run(tmp_path / "whole", 24)
    folder = whole.checkpoint(24)
    losses = read_training(folder, read_config(folder))["losses"]
    assert said == f"loss {np.mean(losses):.4f} at 24 images."
    assert plotted == [[(8, losses[0]), (16, losses[1]), (24, losses[2])]]
    assert whole.metrics.lines() == []
    run(tmp_path / "pieces", 8)
    pieces, again = run(tmp_path / "pieces", 24)
    assert (again, plotted[-1]) == (said, plotted[0])
    assert (pieces.path / "loss.png").read_bytes() == (whole.path / "loss.png").read_bytes()


@pytest.mark.parametrize(("log_images", "seen"), [(24, [24]), (16, [16, 24]), (8, [8, 16, 24])])
def test_one_log_line_is_plotted_with_the_steps_after_it_and_more_stand_alone(
    log_images: int, seen: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plotted = points(monkeypatch)
    done, said = run(tmp_path / "run", 24, log_images)
    assert [images for images, _ in plotted[-1]] == seen
    assert (done.path / "loss.png").is_file()
    assert said == f"loss {plotted[-1][-1][1]:.4f} at 24 images."


def test_an_interval_without_a_finite_loss_is_left_out_of_the_curve(tmp_path: Path):
    none = [{"images": 8, "loss": None}]
    RunFolder(tmp_path).plot_loss(none)
    assert not (tmp_path / "loss.png").exists()
    RunFolder(tmp_path).plot_loss([*none, {"images": 16, "loss": 1.0}])
    assert (tmp_path / "loss.png").is_file()
