"""Checkpoints: a folder with everything about one model, either whole or not there.

    model.safetensors   weights, each name under "averaged/" (the EMA) or "raw/"
    config.json         format version, resolved recipe, class names, images seen, data fingerprint, each file's SHA-256
    training.pt         optimiser and counters (tensors and plain containers), only in a run that can be continued

A checkpoint is written under a temporary name, synced and renamed, so a reader never meets half of one. Reading one
runs no code from it.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor

from ddpm.base.fields import Fields, Whole, check_fields
from ddpm.base.files import UNFINISHED, cannot, check_output, file_sha256, refusals, remove_tree, sync
from ddpm.base.tables import check_signed, read_json, signed
from ddpm.base.tensor_files import is_plain, not_finite, read_pickled, read_safetensors
from ddpm.errors import DamagedFile, InputError
from ddpm.model.model import Model, build_network, resolve_device
from ddpm.model.recipe import Recipe, make_recipe
from ddpm.model.sidecar import STORED, codec_files, fingerprint, side_files

LONGEST_NAME = 20  # characters of a folder's name in its temporary one
FORMAT = "ddpm checkpoint"
FORMAT_VERSION = 1
WEIGHTS = tuple(STORED)
LINEAR = "linear"
"""The model without a network that comes with the package."""
PACKAGED = Path(str(resources.files("ddpm") / LINEAR))
LEFT = "left-"
MODEL_FILE, CONFIG_FILE, TRAINING_FILE = "model.safetensors", "config.json", "training.pt"


class _ConfigFields(Fields):
    format_version: Annotated[int, Field(ge=1, le=FORMAT_VERSION)]
    recipe: dict[str, Any]
    class_names: list[str]
    images_seen: Whole
    data_fingerprint: str
    sha256: dict[str, str]


@dataclass(frozen=True)
class Config:
    """The content of config.json; see the module's text."""

    recipe: Recipe
    class_names: tuple[str, ...]
    images_seen: int
    data_fingerprint: str
    sha256: Mapping[str, str]

    def as_json(self) -> str:
        """The file's text."""
        table = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "images_seen": self.images_seen,
            "class_names": list(self.class_names),
            "data_fingerprint": self.data_fingerprint,
            "sha256": dict(self.sha256),
            "recipe": self.recipe.model_dump(mode="json"),
        }
        return json.dumps(signed(table), indent=2) + "\n"


def write_checkpoint(
    folder: Path,
    *,
    recipe: Recipe,
    weights: Mapping[str, Mapping[str, Tensor]],
    class_names: tuple[str, ...] = (),
    images_seen: int = 0,
    data_fingerprint: str = "",
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint whole or not at all; the folder must not exist.

    weights   "ema" and perhaps "raw", each a network's state dict
    training  what a run needs beyond the weights to continue
    """
    temporary = folder.parent / f"{UNFINISHED}{folder.name[:LONGEST_NAME]}"
    with refusals(folder, "written"):
        remove_tree(temporary)
    flat = {
        f"{STORED[kind]}/{name}": tensor.contiguous()
        for kind, state in weights.items()
        for name, tensor in state.items()
    }
    try:
        temporary.mkdir(parents=True)
        (temporary / MODEL_FILE).write_bytes(safetensors.torch.save(flat))
        if training is not None:
            _write_training(training, temporary / TRAINING_FILE)
        hashes = {file.name: file_sha256(file) for file in sorted(temporary.iterdir())}
        config = Config(recipe, class_names, images_seen, data_fingerprint, hashes)
        (temporary / CONFIG_FILE).write_text(config.as_json(), encoding="utf-8")
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        os.rename(temporary, folder)
        sync(folder.parent)
    except OSError as error:
        with suppress(OSError):
            remove_tree(temporary)
        raise cannot(folder, "written", error) from None


def _write_training(training: Mapping[str, Any], path: Path) -> None:
    """Through memory, because PyTorch's own writer hides the operating system's error."""
    buffer = io.BytesIO()
    torch.save(dict(training), buffer)
    path.write_bytes(buffer.getbuffer())


def checkpoints(run: Path) -> list[Path]:
    """The finished checkpoints of a run folder, oldest first."""
    return sorted((entry for entry in _entries(run) if entry.name.isdecimal()), key=lambda entry: int(entry.name))


def left_checkpoints(run: Path) -> list[Path]:
    """Checkpoints that training went back from, and that stay all the same; see pruning.py."""
    return sorted(entry for entry in _entries(run) if entry.name.startswith(LEFT))


def every_checkpoint(run: Path) -> list[Path]:
    """All that are whole, those first that training went back from."""
    return left_checkpoints(run) + checkpoints(run)


def _entries(run: Path) -> list[Path]:
    """Folders in a run's folder of checkpoints, none if there is no such; InputError if it cannot be read."""
    folder = run / "checkpoints"
    with refusals(folder, "read"), suppress(FileNotFoundError, NotADirectoryError):
        return [folder / name for name in os.listdir(folder) if (folder / name).is_dir()]
    return []


def is_run(path: str | Path) -> bool:
    """Whether a path is a run or a checkpoint, whole or not, or the model that comes with the package."""
    folder = resolved(path)
    return any((folder / mark).exists() for mark in (CONFIG_FILE, "recipe.json", "checkpoints"))


def resolved(path: str | Path) -> Path:
    """The folder that a user names: "linear" is the model that comes with the package, unless such a folder is here."""
    folder = Path(path)
    return PACKAGED if str(path) == LINEAR and not folder.is_dir() else folder


def check_tunable(source: str | Path) -> None:
    """Refuse to write beside a checkpoint that cannot be written to, or that comes with the package."""
    if Path(source) == PACKAGED:
        raise InputError(
            f"'{LINEAR}' comes with the package and cannot be changed: make a model of its kind with "
            f"`ddpm tune codec {LINEAR} --data SRC --out DIR`."
        )
    check_output(source, folder=True)


def results_folder(source: str | Path, out: str | Path | None) -> Path:
    """Where a model's results go: `out`, or evaluation/ in its run; InputError if it cannot be written to."""
    folder = Path(source)
    if out is None and folder == PACKAGED:
        raise InputError(f"'{LINEAR}' comes with the package: name a folder for its results with --out.")
    run = folder.parents[1] if folder.parent.name == "checkpoints" else folder
    return check_output(run / "evaluation" if out is None else out, folder=True)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint a user means: the folder itself, or a run folder's newest."""
    path = resolved(path)
    if not path.is_dir():
        raise InputError(f"there is no folder '{path}': name a run folder, a checkpoint or '{LINEAR}'.")
    if (path / CONFIG_FILE).is_file():
        return path
    found = checkpoints(path)
    if not found:
        raise InputError(f"'{path}' holds no checkpoint (no {CONFIG_FILE}, no checkpoints/ folder with one in it).")
    return found[-1]


def read_config(folder: Path) -> Config:
    """Read and check config.json of a checkpoint folder; old versions are understood, newer ones refused."""
    path = folder / CONFIG_FILE
    table = read_json(path)
    if table is None:
        raise InputError(f"'{folder}' is not a checkpoint: it has no {CONFIG_FILE}.")
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise InputError(f"'{path}' is not the configuration of a ddpm checkpoint; `ddpm convert` reads other layouts.")
    version = table.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise InputError(
            f"'{path}' has format version {version}, this ddpm reads {FORMAT_VERSION}: install a newer ddpm."
        )
    check_signed(table, path)
    check_fields(table, _ConfigFields, path)
    recipe = make_recipe(table["recipe"], origin=f"'{path}'")
    left_open = (*recipe.image.model_dump().values(), recipe.network.classes, recipe.network.attention_levels)
    if MODEL_FILE not in table["sha256"] or None in left_open:
        raise DamagedFile(f"'{path}' is damaged: it does not say the {MODEL_FILE}'s SHA-256 or the whole recipe.")
    if len(table["class_names"]) != recipe.network.classes:
        raise DamagedFile(
            f"'{path}' is damaged: it names {len(table['class_names'])} classes, and network.classes is "
            f"{recipe.network.classes}."
        )
    return Config(recipe, tuple(table["class_names"]), table["images_seen"], table["data_fingerprint"], table["sha256"])


def read_weights(folder: Path, config: Config, kind: str) -> dict[str, Tensor]:
    """A network's state dict from a checkpoint, on the CPU, its hash checked; of its shapes, all values finite."""
    path = _checked(folder / MODEL_FILE, config)
    found = read_safetensors(path, f"{STORED[kind]}/")
    if not found:
        raise InputError(f"'{path}' holds no {kind} weights.")
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in build_network(config.recipe).state_dict().items()}
    if found.keys() != shapes.keys() or not all(is_plain(found[name], shape) for name, shape in shapes.items()):
        raise DamagedFile(f"the weights in '{path}' are not of the network in {CONFIG_FILE}.")
    if complaint := not_finite(found):
        raise DamagedFile(f"'{path}' holds no usable weights: {complaint}.")
    return found


def read_training(folder: Path, config: Config) -> dict[str, Any]:
    """The `training` that write_checkpoint was given."""
    if TRAINING_FILE not in config.sha256:
        raise InputError(f"'{folder}' holds no training state ({TRAINING_FILE}): it can be sampled, not continued.")
    path = _checked(folder / TRAINING_FILE, config)
    found = read_pickled(path)
    if not isinstance(found, dict):
        raise DamagedFile(f"'{path}' is not a training state.")
    return found


def load_model(path: str | Path, *, weights: str = "ema", device: str = "auto") -> Model:
    """Read a model from a run folder (its newest checkpoint) or a checkpoint folder.

    weights  "ema" or "raw"
    device   "auto", "cpu", "cuda", ...
    """
    if weights not in WEIGHTS:
        raise InputError(f"weights must be {' or '.join(WEIGHTS)}, not '{weights}'.")
    folder = find_checkpoint(Path(path))
    config = read_config(folder)
    state = read_weights(folder, config, weights)
    network = build_network(config.recipe)
    network.load_state_dict(state)
    network = network.to(resolve_device(device)).eval().requires_grad_(False)
    return Model(
        config.recipe,
        network,
        config.class_names,
        images_seen=config.images_seen,
        data_fingerprint=config.data_fingerprint,
        weights=weights,
        source=str(folder),
        weights_sha256=config.sha256[MODEL_FILE],
    )


def describe(run: str | Path) -> dict[str, Any]:
    """A model as plain values: checkpoint, checkpoints, images_seen, parameters, class_names, schedule,
    data_fingerprint, sha256 of its files, side_files, by_checkpoint, recipe. Its weights are not read.

    by_checkpoint has a row for each checkpoint: its side files, those of the codec with their fingerprint (None if the
    file is damaged), which says that .dpc files need this checkpoint.
    """
    folder = find_checkpoint(Path(run))
    config = read_config(folder)
    schedule = config.recipe.process.make_schedule()
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_network(config.recipe).parameters())
    return {
        "checkpoint": str(folder),
        "checkpoints": [str(found) for found in checkpoints(Path(run))],
        "images_seen": config.images_seen,
        "parameters": parameters,
        "class_names": list(config.class_names),
        "data_fingerprint": config.data_fingerprint,
        "sha256": dict(config.sha256),
        "side_files": [str(file) for file in side_files(folder)],
        "by_checkpoint": [_beside(found) for found in every_checkpoint(Path(run)) or [folder]],
        "schedule": {"steps": schedule.steps, "alpha_bar_end": float(schedule.alpha_bar[-1])},
        "recipe": config.recipe.model_dump(mode="json"),
    }


def _beside(folder: Path) -> dict[str, Any]:
    codec = codec_files(folder)
    files = {str(file): fingerprint(file) if file in codec else None for file in side_files(folder)}
    return {"checkpoint": str(folder), "side_files": files}


def _checked(path: Path, config: Config) -> Path:
    if not path.is_file():
        raise DamagedFile(f"'{path}' is missing.")
    if file_sha256(path) != config.sha256.get(path.name):
        raise DamagedFile(f"'{path}' is cut short or damaged: its SHA-256 is not the one in {CONFIG_FILE}.")
    return path
