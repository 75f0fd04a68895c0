"""Side files: JSON beside a checkpoint, with the SHA-256 of its own content and of the weights it is about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from filelock import Timeout

from ddpm.base.fields import Fields, check_fields
from ddpm.base.files import locked, whole_file
from ddpm.base.tables import check_signed, read_json, read_signed, signed
from ddpm.errors import DamagedFile, InputError, WrongModel

EMA, RAW = "ema", "raw"
"""Kinds of weights: the main average, and what is trained; of_length names the others."""
AVERAGED = "averaged"
"""The EMA on disk."""
ALL = "all"
"""Whose weights a side file is about that is about all of them."""
CHOICE = "ema"
"""The name of the side file that says which kind of weights is used, see chosen.py."""
CODEC = "codec"
KINDS = (CODEC, "levels", "variance")
"""First words of the names of the others."""
FINGERPRINT_BYTES = 4
"""Of the SHA-256 of codec data, that stand in every .dpc file made with them."""


def of_length(length: float) -> str:
    """The kind of the average of a relative length, see training.averages: ema-0.05."""
    return f"{EMA}-{length}"


def stored(kind: str) -> str:
    """What a kind of weights is called on disk, before the names of tensors and in those of side files."""
    return kind.replace(EMA, AVERAGED, 1) if kind.startswith(EMA) else kind


def kind_of(stored: str) -> str:
    """The other way: the kind of "averaged-0.05" is "ema-0.05"."""
    return stored.replace(AVERAGED, EMA, 1) if stored.startswith(AVERAGED) else stored


def side_files(folder: Path) -> list[Path]:
    """All that lie beside a checkpoint."""
    patterns = (f"{CHOICE}.json", *(f"{kind}-*.json" for kind in KINDS))
    return [file for pattern in patterns for file in sorted(folder.glob(pattern))]


def codec_files(folder: Path) -> list[Path]:
    """The codec data beside a checkpoint: .dpc files that were made with it cannot be read without it."""
    return sorted(folder.glob(f"{CODEC}-*.json"))


def fingerprint(file: Path) -> str | None:
    """What .dpc files made with some codec data call them; None if the file is damaged."""
    try:
        table = read_json(file)
        check_signed(table, file)
    except DamagedFile:
        return None
    return str(table["own_sha256"][: 2 * FINGERPRINT_BYTES])


def codec_in_hand(folder: Path) -> bool:
    """Whether a process is making codec data for a checkpoint."""
    try:
        for lock in folder.glob(f".{CODEC}-*.lock"):
            with locked(lock, wait=False):
                pass
    except Timeout:
        return True
    return False


class Weights(Protocol):
    """Whose side files are meant: a model, or the part of its config.json that names its weights."""

    @property
    def source(self) -> str:
        """The checkpoint folder."""
        ...

    @property
    def weights(self) -> str:
        """Their kind: "ema", "raw", "ema-0.05"."""
        ...

    @property
    def weights_sha256(self) -> str:
        """Of the file that holds them."""
        ...


class StoredWeights(NamedTuple):
    """Weights in a checkpoint that are named and not read, see Weights."""

    source: str
    weights: str
    weights_sha256: str


class SideFields(Fields):
    """What every side file holds."""

    weights: str
    weights_sha256: str


@dataclass(frozen=True)
class Sidecar:
    """One kind of side file.

    stem         of its name: codec-averaged.json for the EMA, codec-raw.json for the raw weights
    format_name  its "format"
    command      that makes it: `ddpm tune COMMAND RUN`
    version      of its layout, the newest that is read
    fields       that its table must have
    of_all       whether it is one file about all weights of a checkpoint, STEM.json
    """

    stem: str
    format_name: str
    command: str
    version: int = 1
    fields: type[SideFields] = SideFields
    of_all: bool = False

    def path(self, of: Weights) -> Path:
        """Its path."""
        return Path(of.source) / f"{self.stem}{'' if self.of_all else f'-{stored(of.weights)}'}.json"

    def kinds(self, folder: Path) -> list[str]:
        """The kinds of a checkpoint's weights that there is such a file for."""
        names = (file.stem for file in folder.glob(f"{self.stem}-*.json"))
        return sorted(kind_of(name.removeprefix(f"{self.stem}-")) for name in names)

    def made_by(self, of: Weights) -> str:
        """The command line that makes it."""
        usual = self.of_all or (of.weights == EMA and not Path(of.source, f"{CHOICE}.json").exists())
        return f"`ddpm tune {self.command} {of.source}{'' if usual else f' --weights {of.weights}'}`"

    def write(self, of: Weights, table: Mapping[str, Any]) -> Path:
        """Store a table, signed, with its format and whose weights it is about; returns the file.

        Errors: the checkpoint was removed meanwhile, or the file cannot be written (InputError).
        """
        self._check_there(of)
        named = {"format": self.format_name, "format_version": self.version, **self._whose(of), **table}
        with whole_file(self.path(of)) as temporary:
            temporary.write_text(json.dumps(signed(named)) + "\n", encoding="utf-8")
        return self.path(of)

    def read(self, of: Weights) -> dict[str, Any] | None:
        """The stored table, None if there is none.

        Errors: of other weights (WrongModel), damaged (DamagedFile), of a newer format (InputError).
        """
        path, advice = self.path(of), f"{self.made_by(of)} makes a new one"
        table = read_signed(path, self.format_name, self.version, advice=advice)
        if table is None:
            return None
        check_fields(table, SideFields, path, advice)
        if any(table[key] != value for key, value in self._whose(of).items()):
            raise WrongModel(f"'{path}' was measured on other weights than those beside it; {advice}.")
        check_fields(table, self.fields, path, advice)
        return table

    def _whose(self, of: Weights) -> dict[str, str]:
        return {"weights": ALL if self.of_all else stored(of.weights), "weights_sha256": of.weights_sha256}

    def damaged(self, of: Weights, complaint: str) -> DamagedFile:
        """The error for a table whose fields contradict each other or the model."""
        return DamagedFile(f"'{self.path(of)}' is damaged: {complaint}; {self.made_by(of)} makes a new one.")

    def lock(self, of: Weights) -> AbstractContextManager[Any]:
        """Wait until no other process writes it. Training keeps a checkpoint while codec data are made."""
        self._check_there(of)
        path = self.path(of)
        return locked(path.with_name(f".{path.name}.lock"), wait=True)

    def _check_there(self, of: Weights) -> None:
        """Training that goes on removes old checkpoints; a side file must not make a new folder of its name."""
        if not Path(of.source).is_dir():
            raise InputError(f"'{of.source}' was removed meanwhile: choose a checkpoint that stays.")
