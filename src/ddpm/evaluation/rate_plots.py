"""Rate and distortion on disk: Fig. 5 of Ho et al. 2020 as a plot, every step as JSON and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm.base.files import whole_file
from ddpm.base.image_io import MADE_BY
from ddpm.evaluation.result_files import ResultFiles
from ddpm.likelihood.rate_distortion import RateDistortion

RATE_FILES = ("rate.png", "rate.json", "rate.csv")


def write_rate_distortion(profile: RateDistortion, files: ResultFiles, about: dict[str, Any]) -> None:
    """Write RATE_FILES; `about` goes into the JSON."""
    table = profile.table()
    content = {**about, "prior": float(profile.bits[0]), "total": float(profile.rate[0]), "steps": table}

    def rows(path: Path) -> None:
        with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, table[0].keys())
            writer.writeheader()
            writer.writerows(table)

    files.write(RATE_FILES[0], lambda path: plot_rate_distortion(profile, path))
    files.write(RATE_FILES[1], lambda path: write_json(content, path))
    files.write(RATE_FILES[2], rows)


def write_json(table: dict[str, Any], path: Path) -> None:
    """Write a table as JSON; NaN becomes null."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(without_nan(table), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def plot_rate_distortion(profile: RateDistortion, path: Path) -> None:
    """Distortion against time, rate against time, distortion against rate (Fig. 5)."""
    from matplotlib.figure import Figure

    time, rate, distortion = range(len(profile.levels) - 1, 0, -1), profile.rate[1:], profile.distortion[1:]
    curves = (
        (time, distortion, "reverse steps (T - t + 1)", "distortion (RMSE, grey levels)"),
        (time, rate, "reverse steps (T - t + 1)", "rate (bits per dimension)"),
        (rate, distortion, "rate (bits per dimension)", "distortion (RMSE, grey levels)"),
    )
    figure = Figure(figsize=(11, 3.4), dpi=100, layout="constrained")
    for axes, (x, y, across, up) in zip(figure.subplots(1, 3), curves, strict=True):
        axes.plot(x, y)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.set_ylim(bottom=0)
        axes.grid(True, alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, metadata=MADE_BY)


def plot_levels(bits: Sequence[float], path: Path) -> None:
    """Bits per dimension against the number of levels K, the horizontal axis logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.semilogx(range(1, len(bits) + 1), bits, marker="." if len(bits) < 20 else "")
    axes.set_xlabel("levels K, the best for the bound")
    axes.set_ylabel("bits per dimension, expected")
    axes.grid(True, which="both", alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, metadata=MADE_BY)


def without_nan(value: Any) -> Any:
    """JSON has no NaN: the standard error of a single call becomes null."""
    if isinstance(value, dict):
        return {key: without_nan(below) for key, below in value.items()}
    if isinstance(value, list):
        return [without_nan(below) for below in value]
    return None if isinstance(value, float) and value != value else value
