"""The loss curve of a run as an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm.base.files import whole_file


def plot_loss(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw loss against images seen, both axes logarithmic; nothing is written for fewer than two points."""
    if len(metrics) < 2:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.loglog([line["images"] for line in metrics], [line["loss"] for line in metrics], linewidth=1.2)
    axes.set_xlabel("images seen")
    axes.set_ylabel("loss (mean squared error)")
    axes.grid(True, which="both", alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary)
