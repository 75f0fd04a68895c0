"""The run folder: recipe, metrics, loss curve, sample grids and checkpoints in one visible place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm.base.files import check_output, whole_file
from ddpm.base.tables import check_signed, signed
from ddpm.data.sources import ImageSet
from ddpm.errors import InputError
from ddpm.model.recipe import Recipe, make_recipe

METRICS = frozenset({"images", "loss", "learning_rate", "images_per_second"})
VALIDATION = frozenset({"images", "total", "prior", "steps", "decoder"})
FEW = 30  # points of a curve that are also marked one by one


@dataclass(frozen=True)
class Log:
    """A file with one JSON object a line, each with the images seen by then.

    keys  that every line has
    """

    file: Path
    keys: frozenset[str]

    def lines(self) -> list[dict[str, Any]]:
        """The lines so far; what a crash or an edit left unreadable is left out."""
        if not self.file.is_file():
            return []
        found = map(_json, self.file.read_text(encoding="utf-8", errors="replace").splitlines())
        return [line for line in found if isinstance(line, dict) and line.keys() >= self.keys]

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def forget_after(self, images_seen: int) -> None:
        """Drop the lines of a future that was never saved."""
        text = "".join(json.dumps(line) + "\n" for line in self.lines() if line["images"] <= images_seen)
        with whole_file(self.file) as temporary:
            temporary.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class RunFolder:
    """Paths below one run, and the small files there."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        """The full resolved recipe, and which data it met."""
        return self.path / "recipe.json"

    @property
    def metrics(self) -> Log:
        """images, loss, learning_rate, images_per_second."""
        return Log(self.path / "metrics.jsonl", METRICS)

    @property
    def validation(self) -> Log:
        """images, and the bound on held-out images as total, prior, steps and decoder."""
        return Log(self.path / "validation.jsonl", VALIDATION)

    def sample_file(self, images_seen: int) -> Path:
        """The sample grid drawn at this point."""
        return self.path / "samples" / f"{images_seen:010d}.png"

    def checkpoint(self, images_seen: int) -> Path:
        """The checkpoint folder of this point."""
        return self.path / "checkpoints" / f"{images_seen:010d}"

    def check(self, recipe: Recipe, images: ImageSet) -> None:
        """Refuse a folder that holds another run. Nothing is written.

        Of the recipe, train_images may grow, device may differ, and data may be spelled otherwise if its fingerprint
        is the same.
        """
        check_output(self.path, folder=True)
        if self.recipe_file.is_file():
            self._agree(recipe, images)
        elif self.path.is_dir() and any(not entry.name.startswith(".") for entry in self.path.iterdir()):
            raise InputError(f"'{self.path}' is not empty and holds no run: choose an empty or a new folder.")

    def begin(self, recipe: Recipe, images: ImageSet) -> None:
        """Write recipe.json."""
        table = {"recipe": recipe.model_dump(mode="json"), "data_fingerprint": images.fingerprint}
        with whole_file(self.recipe_file) as temporary:
            temporary.write_text(json.dumps(signed(table), indent=2) + "\n", encoding="utf-8")

    def plot_loss(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Draw loss against images seen into loss.png, both axes logarithmic; without lines nothing is written."""
        if not lines:
            return
        from matplotlib.figure import Figure

        figure, marker = Figure(figsize=(6, 3.6), dpi=110), "." if len(lines) <= FEW else None
        axes = figure.add_axes((0.19, 0.14, 0.78, 0.83))
        axes.loglog([line["images"] for line in lines], [line["loss"] for line in lines], linewidth=1.2, marker=marker)
        axes.set_xlabel("images seen")
        axes.set_ylabel("loss")
        axes.grid(True, which="both", alpha=0.3)
        with whole_file(self.path / "loss.png") as temporary:
            figure.savefig(temporary)

    def forget_after(self, images_seen: int) -> None:
        """Drop metrics, validation and grids of a future that was never saved."""
        self.metrics.forget_after(images_seen)
        if self.validation.file.is_file():
            self.validation.forget_after(images_seen)
        for grid in (self.path / "samples").glob("*.png"):
            if re.fullmatch(r"\d{10}", grid.stem) and int(grid.stem) > images_seen:
                grid.unlink()

    def _agree(self, recipe: Recipe, images: ImageSet) -> None:
        table: Any = _json(self.recipe_file.read_text(encoding="utf-8", errors="replace"))
        check_signed(table, self.recipe_file)
        held, new = make_recipe(table["recipe"], origin=f"'{self.recipe_file}'"), _flat(recipe.model_dump())
        same_data = table["data_fingerprint"] == images.fingerprint
        for key, old in _flat(held.model_dump()).items():
            if old == new[key] or key == "device" or (key == "data" and same_data):
                continue
            if key != "train_images":
                raise InputError(
                    f"'{self.path}' holds a run with {key} = {old}, not {new[key]}; another --out starts a new run."
                )
            if new[key] < old:
                raise InputError(
                    f"'{self.path}' holds a run with {key} = {old}: {new[key]} is less, choose {old} or more."
                )
        if not same_data:
            raise InputError(f"the data in '{images.name}' changed since '{self.path}' was begun; use another --out.")


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found
