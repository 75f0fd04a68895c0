"""What a run shows in its first minutes: its previews side by side, each with its time and the images seen.

    python benchmarks/first_minutes.py digits --data digits
    python benchmarks/first_minutes.py fashion-mnist --data fashion-mnist --set train_images=100k
    python benchmarks/first_minutes.py small --data 'data/cifar10-first4000.zip[0:3500]' --set train_images=40k

Trains runs/first-minutes/RECIPE from nothing, with all that `ddpm train` does besides, and writes
results/first-minutes-RECIPE.json and .png. The seconds are those of the training's own log: reading the images and
building the network come before.
"""

from __future__ import annotations

import argparse
import shutil
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from record import RESULTS, write_result

import ddpm
from ddpm.base.progress import duration
from ddpm.cli.console import parse_changes
from ddpm.training.run_folder import RunFolder

RUNS = Path("runs/first-minutes")
MOST = 8  # previews in a strip: the last ones that double


def seconds_by_images(lines: list[dict[str, Any]]) -> dict[int, float]:
    """When each line of the log was written, by the images seen: its speed is that since the line before."""
    seen = [line["images"] for line in lines]
    took = [
        (now - before) / line["images_per_second"] for before, now, line in zip([0, *seen], seen, lines, strict=False)
    ]
    return dict(zip(seen, accumulate(took), strict=True))


def chosen(images: list[int]) -> list[int]:
    """The last preview, and going back from it those that come at about half the images each."""
    kept = [images[-1]]
    while len(kept) < MOST and (before := [n for n in images if n <= 0.55 * kept[-1]]):
        kept.append(before[-1])
    return kept[::-1]


def strip(folder: RunFolder, times: dict[int, float], path: Path) -> None:
    """The previews of these times, side by side."""
    figure = Figure(figsize=(1.6 * len(times), 1.95), dpi=110, layout="constrained")
    for axes, (images, seconds) in zip(figure.subplots(1, len(times)), times.items(), strict=True):
        axes.imshow(Image.open(folder.sample_file(images)), cmap="gray", interpolation="nearest")
        axes.set_title(f"{duration(seconds)}, {images:,}", fontsize=7)
        axes.axis("off")
    figure.savefig(path)


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("recipe")
    parser.add_argument("--data", required=True)
    parser.add_argument("--set", action="append", default=[], help="a key of the recipe and its value, KEY=VALUE")
    options = parser.parse_args()
    folder = RunFolder(RUNS / options.recipe)
    shutil.rmtree(folder.path, ignore_errors=True)
    ddpm.train(ddpm.recipe(options.recipe, data=options.data, **parse_changes(options.set)), out=folder.path)
    lines = folder.metrics.lines()
    when = seconds_by_images(lines)
    previews = sorted(int(file.stem) for file in (folder.path / "samples").glob("*.png"))
    times = {images: when[min(n for n in when if n >= min(images, max(when)))] for images in chosen(previews)}
    strip(folder, times, RESULTS / f"first-minutes-{options.recipe}.png")
    write_result(
        f"first-minutes-{options.recipe}",
        {
            "recipe": ddpm.load(folder.path).recipe.model_dump(mode="json"),
            "previews": [{"images": images, "seconds": round(seconds, 1)} for images, seconds in times.items()],
            "loss": [[line["images"], round(line["loss"], 5)] for line in lines[:: max(1, len(lines) // 50)]],
        },
        seed=0,
    )


if __name__ == "__main__":
    main()
