"""The run folder: recipe, metrics, sample grids and checkpoints in one visible place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm.base.files import check_output, check_signed, signed, whole_file
from ddpm.data import ImageSet
from ddpm.errors import InputError
from ddpm.model.recipe import Recipe, make_recipe

METRICS = {"images", "loss", "learning_rate", "images_per_second"}
VALIDATION = {"images", "total", "prior", "steps", "decoder"}


@dataclass(frozen=True)
class RunFolder:
    """Paths below one run, and the small files there."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        """The full resolved recipe, and which data it met."""
        return self.path / "recipe.json"

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line: images, loss, learning_rate, images_per_second."""
        return self.path / "metrics.jsonl"

    @property
    def validation_file(self) -> Path:
        """One JSON object a line: images, and the bound on held-out images as total, prior, steps and decoder."""
        return self.path / "validation.jsonl"

    @property
    def loss_plot(self) -> Path:
        """The loss curve."""
        return self.path / "loss.png"

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
            raise InputError(f"'{self.path}' is not empty and holds no run; an empty or new folder would fit.")

    def begin(self, recipe: Recipe, images: ImageSet) -> None:
        """Write recipe.json."""
        table = {"recipe": recipe.model_dump(mode="json"), "data_fingerprint": images.fingerprint}
        with whole_file(self.recipe_file) as temporary:
            temporary.write_text(json.dumps(signed(table), indent=2) + "\n", encoding="utf-8")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl so far; what a crash or an edit left unreadable is left out."""
        return _lines(self.metrics_file, METRICS)

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        _append(self.metrics_file, line)

    def validation(self) -> list[dict[str, Any]]:
        """The lines of validation.jsonl so far, likewise."""
        return _lines(self.validation_file, VALIDATION)

    def append_validation(self, line: Mapping[str, Any]) -> None:
        """Add one line to validation.jsonl."""
        _append(self.validation_file, line)

    def forget_after(self, images_seen: int) -> None:
        """Drop metrics, validation and grids of a future that was never saved."""
        _keep(self.metrics_file, [line for line in self.metrics() if line["images"] <= images_seen])
        if self.validation_file.is_file():
            _keep(self.validation_file, [line for line in self.validation() if line["images"] <= images_seen])
        for grid in (self.path / "samples").glob("*.png"):
            if re.fullmatch(r"\d{10}", grid.stem) and int(grid.stem) > images_seen:
                grid.unlink()

    def _agree(self, recipe: Recipe, images: ImageSet) -> None:
        table: Any = _json(self.recipe_file.read_text(encoding="utf-8", errors="replace"))
        check_signed(table, self.recipe_file)
        held = make_recipe(table["recipe"], origin=f"'{self.recipe_file}'")
        for key, (old, new) in _differences(held.model_dump(), recipe.model_dump()).items():
            if key == "train_images" and new < old:
                raise InputError(f"'{self.path}' holds a run with train_images = {old}; {new} would go back.")
            same_data = key == "data" and table["data_fingerprint"] == images.fingerprint
            if key not in ("train_images", "device") and not same_data:
                raise InputError(
                    f"'{self.path}' holds a run with {key} = {old}, not {new}; another --out starts a new run."
                )
        if table["data_fingerprint"] != images.fingerprint:
            raise InputError(f"the data in '{images.name}' changed since '{self.path}' was begun; use another --out.")


def _lines(file: Path, keys: set[str]) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in map(_json, lines) if isinstance(line, dict) and line.keys() >= keys]


def _append(file: Path, line: Mapping[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def _keep(file: Path, lines: list[dict[str, Any]]) -> None:
    with whole_file(file) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for key, value in old.items():
        if isinstance(value, Mapping):
            found |= _differences(value, new[key], f"{prefix}{key}.")
        elif value != new[key]:
            found[f"{prefix}{key}"] = (value, new[key])
    return found
