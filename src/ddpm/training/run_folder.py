"""The run folder: recipe, metrics, loss curve, sample grids and checkpoints in one visible place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from ddpm.base.fields import Fields, Whole, check_fields, has_fields
from ddpm.base.files import check_output, refusals, remove_unfinished, whole_file
from ddpm.base.tables import check_signed, parse_json, read_json, signed
from ddpm.data.sources import ImageSet
from ddpm.errors import InputError
from ddpm.model.checkpoint import LEFT
from ddpm.model.pruning import leave_newest
from ddpm.model.recipe import Recipe, changed, make_recipe, with_lengths
from ddpm.training.changes import AFTERWARDS, CHANGEABLE, FREE, differences, why_not
from ddpm.training.watch import RATE_SHARE, LineFields

OPTION, WATCH = "--allow-change", "training itself"
"""Who made a change."""


class ValidationFields(Fields):
    images: Whole
    total: dict[str, float | None]
    prior: dict[str, float | None]
    steps: dict[str, float | None]
    decoder: dict[str, float | None]


class _ChangeFields(Fields):
    images: Whole
    key: str
    before: Any = Field(alias="from")
    to: Any
    by: str


class _RunFields(Fields):
    recipe: dict[str, Any]
    data_fingerprint: str


FEW = 30  # points of a curve that are also marked one by one


@dataclass(frozen=True)
class Log:
    """A file with one JSON object a line, each with the images seen by then.

    fields  of a line
    """

    file: Path
    fields: type[Fields]

    def lines(self) -> list[dict[str, Any]]:
        """The lines so far; what a crash or an edit left unreadable is left out."""
        if not self.file.is_file():
            return []
        found = map(_json, self.file.read_text(encoding="utf-8", errors="replace").splitlines())
        return [line for line in found if isinstance(line, dict) and has_fields(line, self.fields)]

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        with refusals(self.file, "written"), self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def forget_after(self, images_seen: int) -> None:
        """Drop the lines of a future that was never saved."""
        self.write([line for line in self.lines() if line["images"] <= images_seen])

    def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Have these lines and no others."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
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
        """images, loss, learning_rate, gradient_norm, prediction_std, images_per_second, and what watch.py adds."""
        return Log(self.path / "metrics.jsonl", LineFields)

    @property
    def validation(self) -> Log:
        """images, and the bound on held-out images as total, prior, steps and decoder."""
        return Log(self.path / "validation.jsonl", ValidationFields)

    @property
    def changes(self) -> Log:
        """The keys that changed: images, key, from, to, by (OPTION or WATCH), and why, where training did it itself."""
        return Log(self.path / "changes.jsonl", _ChangeFields)

    def sample_file(self, images_seen: int) -> Path:
        """The sample grid drawn at this point."""
        return self.path / "samples" / f"{images_seen:010d}.png"

    def checkpoint(self, images_seen: int) -> Path:
        """The checkpoint folder of this point."""
        return self.path / "checkpoints" / f"{images_seen:010d}"

    def check(self, recipe: Recipe, images: ImageSet, *, allow_change: bool = False) -> Recipe:
        """Refuse a folder that holds another run. Nothing is written.

        Of the recipe, what changes nothing of what is learned may differ (training.changes), train_images may grow, and
        data may be spelled otherwise if its fingerprint is the same. `allow_change` lets more keys change.

        returns  the recipe with its lengths filled in: the warm-up is the one that the run here began with, so that a
                 longer run passes through the states of a shorter one
        """
        check_output(self.path, folder=True)
        for name in ("checkpoints", "samples"):
            check_output(self.path / name, folder=True)
        for name in ("recipe.json", "metrics.jsonl", "validation.jsonl", "changes.jsonl", "loss.png"):
            check_output(self.path / name, folder=False)
        if self.recipe_file.is_file():
            return self._agree(recipe, images, allow_change)
        if self.path.is_dir() and any(not entry.name.startswith(".") for entry in self.path.iterdir()):
            raise InputError(f"'{self.path}' is not empty and holds no run: choose an empty or a new folder.")
        return with_lengths(recipe)

    def begin(self, recipe: Recipe, images: ImageSet, images_seen: int) -> list[str]:
        """Write recipe.json, and forget what lies beyond the images seen; returns sentences about where the run is.

        A run that was killed may have left files unfinished. Checkpoints beyond are of a run that is continued from
        before its cool-down.
        """
        for folder in (self.path, self.path / "samples"):
            remove_unfinished(folder)
        table = {"recipe": recipe.model_dump(mode="json"), "data_fingerprint": images.fingerprint}
        with whole_file(self.recipe_file) as temporary:
            temporary.write_text(json.dumps(signed(table), indent=2) + "\n", encoding="utf-8")
        left = leave_newest(self.path, images_seen)
        self.forget_after(images_seen)
        if left is not None:
            return [
                f"The learning rate had fallen already: the run goes on from {images_seen:,} images, before that. The "
                f"model of {int(left.name.split('-')[1]):,} images lies in '{left}'."
            ]
        if images_seen >= recipe.train_images:
            return [f"'{self.path}' is complete at {images_seen:,} images; a larger train_images continues."]
        return []

    def record_changes(self, old: Recipe, new: Recipe, images_seen: int) -> list[str]:
        """Write down which keys differ from those of the checkpoint that a run goes on from; returns sentences."""
        found = [
            {"images": images_seen, "key": key, "from": before, "to": after, "by": OPTION}
            for key, (before, after) in differences(old, new).items()
            if key in CHANGEABLE
        ]
        lines = self.changes.lines()
        kept = [line for line in lines if line["images"] < images_seen or line["by"] != OPTION or line in found]
        added = [line for line in found if line not in kept]
        rates = {line["to"] for line in added if line["key"] == "learning_rate"}
        halved = (n for n, line in enumerate(kept) if line["by"] == WATCH and line["from"] in rates)
        place = next(halved, len(kept))  # a rate that was halved was chosen before that
        wanted = [*kept[:place], *added, *kept[place:]]
        if wanted != lines:
            self.changes.write(wanted)
        return [
            f"{line['key']} = {line['to']} from here on, {line['from']} before{AFTERWARDS.get(line['key'], '')}."
            for line in found
        ]

    def record_going_back(self, images_seen: int, rate: float, why: str) -> None:
        """Write down that the run goes on from there with a share of its learning rate."""
        line = {"images": images_seen, "key": "learning_rate", "from": rate, "to": RATE_SHARE * rate, "by": WATCH}
        self.changes.append({**line, "why": why})

    def rate_share(self, recipe: Recipe) -> float:
        """The share of the recipe's learning rate that is used: less than 1 after the run went back at that rate."""
        lines = [line for line in self.changes.lines() if line["key"] == "learning_rate"]
        went_back = bool(lines) and lines[-1]["by"] == WATCH and lines[-1]["from"] == recipe.learning_rate
        return RATE_SHARE if went_back else 1.0

    def plot_loss(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Draw loss against images seen into loss.png, both axes logarithmic; without a loss nothing is written."""
        lines = [line for line in lines if line["loss"] is not None]
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
        """Drop metrics, validation, changes and grids of a future that was never saved."""
        self.metrics.forget_after(images_seen)
        for log in (self.validation, self.changes):
            if log.file.is_file():
                log.forget_after(images_seen)
        for grid in (self.path / "samples").glob("*.png"):
            if re.fullmatch(r"\d{10}", grid.stem) and int(grid.stem) > images_seen:
                grid.unlink()

    def _agree(self, recipe: Recipe, images: ImageSet, allow_change: bool) -> Recipe:
        table = read_json(self.recipe_file)
        check_signed(table, self.recipe_file)
        check_fields(table, _RunFields, self.recipe_file)
        held = make_recipe(table["recipe"], origin=f"'{self.recipe_file}'")
        if recipe.training.warmup_images is None:
            recipe = changed(recipe, {"training": {"warmup_images": held.training.warmup_images}})
        recipe = with_lengths(recipe)
        same_data = table["data_fingerprint"] == images.fingerprint
        for key, (old, new) in differences(held, recipe).items():
            if (key in FREE and (key != "train_images" or new > old)) or (key == "data" and same_data):
                continue
            holds = f"'{self.path}' holds a run with {key} = {old}, not {new};"
            if (reason := why_not(key, old, new)) is not None:
                raise InputError(f"{holds} {reason}, so it cannot change: another --out starts a new run.")
            if not allow_change:
                raise InputError(f"{holds} --allow-change goes on with it, another --out starts a new run.")
        if not same_data:
            raise InputError(f"the data in '{images.name}' changed since '{self.path}' was begun; use another --out.")
        return recipe


def with_changes(described: dict[str, Any]) -> dict[str, Any]:
    """What model.description.describe says, and `changes`: the lines of RunFolder.changes up to that checkpoint; none
    of one that training went back from, since the lines are those of the run that went on."""
    folder, seen = Path(described["checkpoint"]), described["images_seen"]
    of_run = folder.parent.name == "checkpoints" and not folder.name.startswith(LEFT)
    lines = RunFolder(folder.parents[1]).changes.lines() if of_run else []
    return {**described, "changes": [line for line in lines if line["images"] <= seen]}


def _json(text: str) -> object:
    try:
        return parse_json(text)
    except ValueError:
        return None
