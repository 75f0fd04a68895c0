"""The files of a report: destinations are checked before the work, and one that cannot be written loses no other."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ddpm.base.files import check_output
from ddpm.errors import InputError


@dataclass(frozen=True)
class ResultFiles:
    """Files of a folder that the results of a long work go to.

    folder   that can be written to, see model.checkpoint.results_folder
    names    of the files; InputError for one whose place is taken by a folder
    written  so far
    lost     what a file that could not be written was refused with, a sentence each
    """

    folder: Path
    names: Sequence[str]
    written: list[Path] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in self.names:
            check_output(self.folder / name, folder=False)

    def write(self, name: str, make: Callable[[Path], object]) -> None:
        """Have a file made; where the operating system refuses it that is a warning, and `lost` keeps it."""
        assert name in self.names, "destinations are checked before the work"
        try:
            make(self.folder / name)
        except InputError as error:
            self.lost.append(str(error))
            warnings.warn(str(error), stacklevel=4)
        else:
            self.written.append(self.folder / name)
