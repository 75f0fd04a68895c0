"""Drawing a picture a seed onto the disk, so that it can stop and go on: into a folder of PNGs, or into one array.

    DIR/              see kept.py
    FILE.npz          arr_0 uint8 (N, H, W, C) in the order of the seeds, arr_1 int64 (N,) classes if the model takes
                      any, seeds int64 (N,), protocol as JSON; arr_0 and arr_1 are as in ADM's sample files
    FILE.npz.parts/   its batches until all are there, and how they were drawn

A batch is put down whole before its PNGs are written, so what a drawing that was killed has left to draw are whole
batches. The same command therefore cuts the same ones and ends in the same pixels as if it had never been stopped: a
network's sums depend on the batch in their last bits.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from ddpm.checkpoint import is_run
from ddpm.errors import DamagedFile, DdpmError, InputError
from ddpm.files import UNFINISHED, check_output, whole_file, writable_folder
from ddpm.kept import check_protocol, protocol_of, seeds_in, write_protocol
from ddpm.model import Model
from ddpm.pictures import save_folder
from ddpm.samplers import Plan, Sampling

BATCH_FILE = ".batch.npz"  # in a folder of PNGs: drawn, and not all of its PNGs are written yet
UNREADABLE = (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, OSError, RuntimeError)


@dataclass(frozen=True, eq=False)
class Drawing(ABC):
    """Pictures that were asked for, and where they go; what is there already is not drawn again.

    model, sampling  what draws them, and how
    seeds            one picture each; a seed may come twice
    out              the folder, or the file
    """

    model: Model
    sampling: Sampling
    seeds: Sequence[int]
    out: Path

    @cached_property
    def plan(self) -> Plan:
        """What the sampling comes to, made once: levels that are placed meanwhile change nothing."""
        return self.model.plan(self.sampling)

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """How the pictures are drawn, as JSON gives it back."""
        return dict(json.loads(json.dumps(self.model.protocol(self.plan))))

    @abstractmethod
    def missing(self) -> list[int]:
        """The seeds still to draw, each once; InputError if other pictures lie there or nothing can be written."""

    def draw(self, *, batch_size: int = 64, on_step: Callable[[int], None] = lambda pictures: None) -> None:
        """Draw what is missing. Options as in Model.draw_batches."""
        with _alone(self._folder):
            missing = self.missing()
            if protocol_of(self._folder) != self.protocol:
                write_protocol(self._folder, self.protocol)
            options: dict[str, Any] = {"batch_size": batch_size, "on_step": on_step}
            for batch in self.model.draw_batches(missing, self.plan, **options) if missing else ():
                self._put(*batch)
            self._finish()

    @property
    @abstractmethod
    def _folder(self) -> Path:
        """Where batches are put down."""

    @abstractmethod
    def _put(self, seeds: Sequence[int], pictures: Tensor) -> None:
        """Put a batch down."""

    @abstractmethod
    def _finish(self) -> None:
        """All batches are there."""

    def _without(self, there: set[int], *, advice: str) -> list[int]:
        """The seeds that are not among those there; InputError unless these were drawn by the same protocol."""
        writable_folder(self._folder)
        if there:
            check_protocol(self._folder, self.protocol, advice=advice)
        return [seed for seed in dict.fromkeys(self.seeds) if seed not in there]


class FolderDrawing(Drawing):
    """Into a folder of PNGs named by their seeds. More may be added at any time, as long as they are drawn alike."""

    def missing(self) -> list[int]:
        """See Drawing."""
        if is_run(self.out):
            raise InputError(f"'{self.out}' is a run and no folder for pictures; '{self.out / 'pictures'}' would fit.")
        there = seeds_in(check_output(self.out, folder=True))
        if self._batch.is_file():
            try:
                there.update(_read(self._batch, "seeds")[0].tolist())
            except DamagedFile:
                if self._batch.is_file():
                    raise
                there = seeds_in(self.out)  # another process has just written its PNGs
        return self._without(there, advice="another folder would fit")

    @property
    def _folder(self) -> Path:
        return self.out

    @property
    def _batch(self) -> Path:
        return self.out / BATCH_FILE

    def _put(self, seeds: Sequence[int], pictures: Tensor) -> None:
        self._finish()
        _write(self._batch, seeds, pictures)
        self._finish()

    def _finish(self) -> None:
        """Write the PNGs of the batch that was put down last, if it still lies there."""
        if self._batch.is_file():
            seeds, pictures = _read(self._batch, "seeds", "pictures")
            save_folder(torch.from_numpy(pictures), self.out, names=seeds.tolist())
            self._batch.unlink()


class ArrayDrawing(Drawing):
    """Into one .npz. One that is there stays if it holds these very pictures, else it is replaced in the end."""

    def missing(self) -> list[int]:
        """See Drawing."""
        check_output(self.out, folder=False)
        if self._finished():
            return []
        there = {seed for file in self._files() for seed in _read(file, "seeds")[0].tolist()}
        missing = self._without(there, advice="remove it, or name another file")
        if not there.issubset(self.seeds):
            raise InputError(
                f"'{self._folder}' holds pictures of other seeds, from a drawing that was stopped; ask for those too, "
                "remove it, or name another file."
            )
        return missing

    def draw(self, *, batch_size: int = 64, on_step: Callable[[int], None] = lambda pictures: None) -> None:
        """See Drawing."""
        if not self._finished():
            check_output(self.out, folder=False)
            super().draw(batch_size=batch_size, on_step=on_step)
        self._clear()

    @property
    def _folder(self) -> Path:
        return self.out.with_name(f"{self.out.name}.parts")

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("[!.]*.npz"))

    def _put(self, seeds: Sequence[int], pictures: Tensor) -> None:
        _write(self._folder / f"{seeds[0]:06d}.npz", seeds, pictures)

    def _finish(self) -> None:
        """Put the batches into one file, holding one at a time."""
        labels = self.model.labels(self.seeds, self.sampling.class_name)
        rest = {} if labels is None else {"arr_1": labels.cpu().numpy()}
        rest |= {"seeds": np.asarray(self.seeds, np.int64), "protocol": np.array(json.dumps(self.protocol))}
        geometry = self.model.geometry
        shape = (len(self.seeds), geometry.height, geometry.width, geometry.channels)
        with whole_file(self.out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for picture in _in_order(rest["seeds"], self._files()):
                    member.write(picture.transpose(1, 2, 0).tobytes())
            for name, array in rest.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    def _finished(self) -> bool:
        try:
            with zipfile.ZipFile(self.out) as archive:
                same = json.loads(str(_member(archive, "protocol"))) == self.protocol
                return same and np.array_equal(_member(archive, "seeds"), self.seeds)
        except UNREADABLE:  # it is not there, or not ours
            return False

    def _clear(self) -> None:
        """Remove the batches, unless they are of another drawing that is yet to go on."""
        leftover = self._folder.with_name(f"{UNFINISHED}{self._folder.name}")
        shutil.rmtree(leftover, ignore_errors=True)
        seeds = set(self.seeds)
        with suppress(DdpmError):
            ours = protocol_of(self._folder) == self.protocol
            if ours and all(seeds.issuperset(_read(file, "seeds")[0].tolist()) for file in self._files()):
                os.replace(self._folder, leftover)
        shutil.rmtree(leftover, ignore_errors=True)


def drawing(model: Model, seeds: Sequence[int], sampling: Sampling, out: str | Path) -> Drawing:
    """Pictures to draw into a .npz or, whatever else the name is, into a folder."""
    if not len(seeds):
        raise InputError("no seeds make no picture; one would.")
    kind = ArrayDrawing if Path(out).suffix == ".npz" else FolderDrawing
    return kind(model, sampling, seeds, Path(out))


# ---- batches on disk: seeds int64 (B,), pictures uint8 (B, C, H, W) -------------------------------------------------


def _write(path: Path, seeds: Sequence[int], pictures: Tensor) -> None:
    with whole_file(path) as temporary:
        np.savez(temporary, seeds=np.asarray(seeds, np.int64), pictures=pictures.numpy())


def _read(path: Path, *names: str) -> list[NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [_member(archive, name) for name in names]
    except UNREADABLE:
        raise DamagedFile(f"'{path}' is cut short or damaged; without it the same command goes on.") from None


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """One array of an .npz; all of it is read, so that its checksum is looked at."""
    array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
    return array


def _in_order(seeds: NDArray[np.int64], files: Sequence[Path]) -> Iterator[NDArray[np.uint8]]:
    """The picture (C, H, W) of each seed."""
    held = [_read(file, "seeds")[0] for file in files]
    starts = np.cumsum([0, *map(len, held)])
    there = np.concatenate(held)
    order = np.argsort(there)
    rows = order[np.searchsorted(there, seeds, sorter=order)]
    current, pictures = -1, np.empty(0, np.uint8)
    for row, file in zip(rows, np.searchsorted(starts, rows, side="right") - 1, strict=True):
        if file != current:
            current, (pictures,) = file, _read(files[file], "pictures")
        yield pictures[row - starts[file]]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make a folder and keep other processes from drawing into it."""
    writable_folder(folder).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", blocking=False):
            yield
    except Timeout:
        raise InputError(f"another process draws into '{folder}' already; another folder or file would fit.") from None
