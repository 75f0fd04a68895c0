"""Which checkpoints of a run go. Training keeps the newest two, those with codec data, because `.dpc` files need them,
and the newest from before the cool-down, because a longer run goes on from it.

What training goes back from goes too, but for checkpoints with codec data, and the model of a run that is continued
from before its cool-down: they get another name, from which no training goes on.

The other side files (tuned timesteps, measured variances) keep no checkpoint. They are about its weights alone, no
file outside the run needs them, and they go with it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddpm.base.files import UNFINISHED, only_process, refusals, remove_tree
from ddpm.errors import InputError
from ddpm.model.checkpoint import LEFT, checkpoints, every_checkpoint
from ddpm.model.continuing import config_of, newest_before_cooldown
from ddpm.model.sidecar import codec_files, codec_in_hand, fingerprint

KEPT = 2


@dataclass(frozen=True)
class Pruned:
    """A checkpoint that was older than the newest two, or named: whether it went, and the reason as a phrase."""

    checkpoint: str
    removed: bool
    why: str


@dataclass(frozen=True)
class PruneReport:
    """What `ddpm.prune` returns: a row for each checkpoint that was looked at, oldest first, and how many are left."""

    checkpoints: tuple[Pruned, ...]
    left: int

    def table(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a person."""
        rows = [f"{'removed' if row.removed else 'kept'}  {row.checkpoint}: {row.why}" for row in self.checkpoints]
        gone = sum(row.removed for row in self.checkpoints)
        return [*rows, f"{gone} removed, {self.left} left"]


def prune_run(run: Path, named: Sequence[str] = (), *, codec: bool = False) -> PruneReport:
    """Remove checkpoints of a run and say which and why.

    named  these and no others, whatever lies beside them; none: all but the newest two, and those that are wanted
    codec  without names: also those with codec data, whose .dpc files cannot be read after that

    Errors (InputError): no run, a name it does not have, its newest checkpoint, another process that writes to it.
    """
    found = checkpoints(run)
    if not found:
        raise InputError(f"'{run}' is no run with checkpoints: name a run folder.")
    every = every_checkpoint(run)
    chosen = [_named(every, name, run) for name in named]
    rows = []
    with only_process(run):
        start = newest_before_cooldown(run)
        for folder in (
            [one for one in every if one in chosen] if chosen else every[: len(every) - min(KEPT, len(found))]
        ):
            needed, wanted = _needed_by(folder), _wanted(folder, start)
            goes = bool(chosen) or (not wanted and (codec or not needed))
            why = wanted or needed or ("named" if chosen else f"older than the newest {KEPT}, without codec data")
            rows.append(Pruned(str(folder), goes, why))
            if goes:
                _set_aside(folder)
        _clear(run)
    return PruneReport(tuple(rows), len(every) - sum(row.removed for row in rows))


def prune(run: Path) -> None:
    """What training removes: all that nothing keeps, and what an interrupted write left behind."""
    older = [folder for folder in checkpoints(run)[:-KEPT] if not _needed_by(folder)]
    start = newest_before_cooldown(run) if older else None
    for folder in older:
        if folder != start:
            _set_aside(folder)
    _clear(run)


def forget_checkpoints(run: Path, after: int) -> None:
    """Remove a run's checkpoints of more than so many images, the newest first, because training goes back."""
    for folder in reversed(_beyond(run, after)):
        _forget(folder)
    _clear(run)


def leave_newest(run: Path, after: int) -> Path | None:
    """The same, but the newest stays under another name, which is returned; None if there is none of more images.

    It goes last: what a run goes on from is judged by the newest, so one that is killed in here goes back again.
    """
    beyond = _beyond(run, after)
    for folder in beyond[:-1]:
        _forget(folder)
    return _leave(beyond[-1]) if beyond else None


def _beyond(run: Path, after: int) -> list[Path]:
    return [folder for folder in checkpoints(run) if int(folder.name) > after]


def _forget(folder: Path) -> None:
    """Remove a checkpoint that training went back from, unless .dpc files need it."""
    if _needed_by(folder):
        _leave(folder)
    else:
        _set_aside(folder)


def _leave(folder: Path) -> Path:
    """Give a checkpoint a name from which no training goes on."""
    names = (f"{LEFT}{folder.name}{f'-{k}' * (k > 1)}" for k in itertools.count(1))
    left = next(path for path in map(folder.with_name, names) if not path.exists())
    with refusals(folder, "moved"):
        os.rename(folder, left)
    return left


def _wanted(folder: Path, start: Path | None) -> str:
    """A phrase about what a checkpoint is for, codec data aside; "" if it is merely old.

    start  the run's newest from before its cool-down
    """
    if folder == start:
        return "the newest from before the cool-down, a longer run goes on from it"
    config = config_of(folder) if folder.name.startswith(LEFT) else None
    finished = config is not None and config.images_seen >= config.recipe.train_images
    return "the model of a finished run, which a longer one continued" if finished else ""


def _needed_by(folder: Path) -> str:
    """A phrase about the .dpc files that need a checkpoint; "" if there can be none."""
    prints = [fingerprint(file) or f"of {file.name}, which is damaged," for file in codec_files(folder)]
    if prints:
        return f".dpc files with fingerprint {' or '.join(prints)} need it"
    return "its codec data are being made" if codec_in_hand(folder) else ""


def _named(found: Sequence[Path], name: str, run: Path) -> Path:
    """The checkpoint that a user means by its name, with or without zeros before, or its path."""
    wanted = Path(name).name
    folder = next((one for one in found if wanted and wanted.lstrip("0") == one.name.lstrip("0")), None)
    if folder is None:
        raise InputError(f"'{run}' has no checkpoint '{name}'; it has {', '.join(one.name for one in found)}.")
    if folder == found[-1]:
        raise InputError(f"'{folder}' is the newest checkpoint of '{run}', which stays: name older ones.")
    return folder


def _set_aside(folder: Path) -> None:
    """Make a checkpoint one that is not whole, in one step; _clear removes it."""
    with refusals(folder, "removed"):
        os.rename(folder, folder.with_name(f"{UNFINISHED}{folder.name}"))


def _clear(run: Path) -> None:
    for leftover in (run / "checkpoints").glob(f"{UNFINISHED}*"):
        with refusals(leftover, "removed"):
            remove_tree(leftover)
