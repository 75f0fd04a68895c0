"""Publish a finished Fashion-MNIST run: models/fashion-mnist, and what it reaches, in results/.

    ddpm train fashion-mnist --data fashion-mnist --out runs/fashion-mnist
    python benchmarks/fashion_mnist.py runs/fashion-mnist --data fashion-mnist

Writes models/fashion-mnist (the weights that `ddpm tune ema` chose, as its EMA), results/fashion-mnist.json (loss
curve, speed, error by level on test images), results/fashion-mnist-loss.png, -error.png and -samples.png (seeds 0 to
63, all 1,000 levels).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from record import RESULTS, write_result

import ddpm
from ddpm.base.seeding import generator
from ddpm.base.units import images_to_x
from ddpm.diffusion.objectives import simple_loss
from ddpm.model.checkpoint import MODEL_FILE, find_checkpoint, read_config, read_weights, write_checkpoint
from ddpm.model.chosen import chosen_kind
from ddpm.model.model import Model
from ddpm.training.run_folder import RunFolder

NAME = "fashion-mnist"
LEVELS = [1, 2, 5, *range(10, 100, 10), *range(100, 1001, 50)]
IMAGES_PER_LEVEL = 1_000


def publish(run: str) -> Path:
    """Copy a run's newest checkpoint to models/, the weights alone that `ddpm tune ema` chose."""
    folder = find_checkpoint(Path(run))
    config = read_config(folder)
    target = RESULTS.parent / "models" / NAME
    shutil.rmtree(target, ignore_errors=True)
    write_checkpoint(
        target,
        recipe=config.recipe,
        weights={"ema": read_weights(folder, config, chosen_kind(folder, config.sha256[MODEL_FILE]))},
        class_names=config.class_names,
        images_seen=config.images_seen,
        data_fingerprint=config.data_fingerprint,
    )
    return target


@torch.no_grad()
def error_by_level(model: Model, images: np.ndarray, *, seed: int) -> dict[int, tuple[float, float]]:
    """Mean squared error of the predicted noise at each level, with its standard error, on the same images."""
    x0 = images_to_x(torch.from_numpy(images))
    found = {}
    for level in LEVELS:
        noise = torch.from_numpy(generator("error by level", seed, level).standard_normal(x0.shape, np.float32))
        t = torch.full((len(x0),), level)
        errors = simple_loss(model.denoiser, x0, t, noise=noise).double()
        found[level] = (float(errors.mean()), float(errors.std() / len(errors) ** 0.5))
    return found


def plot(errors: dict[int, tuple[float, float]], path: Path) -> None:
    """Error against level, the vertical axis logarithmic."""
    figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.semilogy(list(errors), [mean for mean, _ in errors.values()], marker=".")
    axes.set_xlabel("level t")
    axes.set_ylabel("mean squared error of the predicted noise")
    axes.grid(True, which="both", alpha=0.3)
    figure.savefig(path)


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--data", required=True, help="the IDX folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--training-commit", help="the commit that trained, if it is not the one that evaluates")
    parser.add_argument("--training-note", help="anything a reader should know of the training, as its conditions")
    options = parser.parse_args()
    target = publish(options.run)
    model = ddpm.load(target)
    test = ddpm.images(f"{options.data}:test").array(range(IMAGES_PER_LEVEL))
    errors = error_by_level(model, test, seed=options.seed)
    metrics: list[dict[str, Any]] = RunFolder(Path(options.run)).metrics.lines()
    thinned = metrics[:: max(1, len(metrics) // 100)]
    ddpm.save_grid(ddpm.sample(model, seeds=range(64)), RESULTS / f"{NAME}-samples.png")
    plot(errors, RESULTS / f"{NAME}-error.png")
    shutil.copy(Path(options.run, "loss.png"), RESULTS / f"{NAME}-loss.png")
    write_result(
        NAME,
        {
            "training_command": f"ddpm train {NAME} --data {options.data} --out {options.run}",
            "images_seen": model.images_seen,
            "training_commit": options.training_commit,
            "training_note": options.training_note,
            "training_seed": model.recipe.seed,
            "training_images_per_second_median": statistics.median(line["images_per_second"] for line in metrics),
            "loss_curve": [[line["images"], round(line["loss"], 5)] for line in thinned],
            "test_images_per_level": len(test),
            "eps_error_by_level": {level: [round(mean, 6), round(se, 6)] for level, (mean, se) in errors.items()},
        },
        seed=options.seed,
    )


if __name__ == "__main__":
    main()
