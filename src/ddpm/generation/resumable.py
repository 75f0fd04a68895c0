"""Drawing many images onto the disk so that it can stop and go on: a folder of PNGs, perhaps packed into one array.

    DIR/              see image_folder.py
    FILE.npz          arr_0 uint8 (N, H, W, C) in the order of the seeds, arr_1 int64 (N,) classes if the model takes
                      any, seeds int64 (N,), protocol as JSON; arr_0 and arr_1 are as in ADM's sample files
    FILE.npz.parts/   the folder it is packed from, until all images are there

A batch is put down whole before its PNGs are written, so what a drawing that was killed has left to draw are whole
batches. The same command therefore cuts the same ones and ends in the same pixels as if it had never been stopped: a
network's sums depend on the batch in their last bits.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm.base.files import UNFINISHED, check_output, only_process, whole_file, writable_folder
from ddpm.base.image_io import save_folder
from ddpm.base.npz import read_own_arrays
from ddpm.base.progress import Advance, unheard
from ddpm.errors import DamagedFile, DdpmError, InputError
from ddpm.generation.draw import draw_batches, labels_for, protocol
from ddpm.generation.image_folder import ImageFolder, check_protocol, protocol_in, protocol_of, seeds_in, write_protocol
from ddpm.model.checkpoint import is_run
from ddpm.model.model import Model
from ddpm.samplers.plan import Plan

BATCH_FILE = ".batch.npz"  # drawn, and not all of its PNGs are written yet
ARRAY = ".npz"


@dataclass(frozen=True, eq=False)
class Drawing:
    """Images that were asked for, and where they go; what is there already is not drawn again.

    model, plan  what draws them, and how
    seeds        one image each; a seed may come twice
    out          the folder, or a file that ends in .npz
    """

    model: Model
    plan: Plan
    seeds: Sequence[int]
    out: Path

    def __post_init__(self) -> None:
        if not len(self.seeds):
            raise InputError("there are no seeds to draw images of.")

    @property
    def folder(self) -> Path:
        """Where the PNGs go."""
        return self.out.with_name(f"{self.out.name}.parts") if self._packed else self.out

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """How the images are drawn, as JSON gives it back."""
        return dict(json.loads(json.dumps(protocol(self.model, self.plan))))

    def missing(self) -> list[int]:
        """The seeds still to draw, each once; InputError if other images lie there or nothing can be written."""
        check_output(self.out, folder=not self._packed)
        if self._finished():
            return []
        if is_run(self.out):
            raise InputError(f"'{self.out}' is a run, not a folder for images: choose '{self.out / 'images'}'.")
        writable_folder(self.folder)
        there = self._there()
        if there:
            check_protocol(self.folder, self.protocol)
        return [seed for seed in dict.fromkeys(self.seeds) if seed not in there]

    def draw(self, *, batch_size: int = 64, advance: Advance = unheard) -> None:
        """Draw what is missing. Options as in draw.draw_batches."""
        check_output(self.out, folder=not self._packed)
        if not self._finished():
            with only_process(self.folder):
                missing = self.missing()
                if protocol_of(self.folder) != self.protocol:
                    write_protocol(self.folder, self.protocol)
                self._write_pngs()
                options: dict[str, Any] = {"batch_size": batch_size, "advance": advance}
                for seeds, images in draw_batches(self.model, missing, self.plan, **options) if missing else ():
                    with whole_file(self._batch) as temporary:
                        np.savez(temporary, seeds=np.asarray(seeds, np.int64), images=images.numpy())
                    self._write_pngs()
                if self._packed:
                    self._pack(batch_size)
        if self._packed:
            self._clear()

    @property
    def _packed(self) -> bool:
        return self.out.suffix == ARRAY

    @property
    def _batch(self) -> Path:
        return self.folder / BATCH_FILE

    def _there(self) -> set[int]:
        """The seeds whose images are on the disk: as PNGs, or in the batch that was put down last."""
        there = seeds_in(self.folder)
        try:
            return there | set(read_own_arrays(self._batch, "seeds")[0].tolist()) if self._batch.is_file() else there
        except DamagedFile:
            if self._batch.is_file():
                raise
            return seeds_in(self.folder)  # another process has just written its PNGs

    def _write_pngs(self) -> None:
        """Write the PNGs of the batch that was put down last, if it still lies there."""
        if self._batch.is_file():
            seeds, images = read_own_arrays(self._batch, "seeds", "images")
            save_folder(images, self.folder, names=seeds.tolist())
            self._batch.unlink()

    def _pack(self, batch_size: int) -> None:
        """Put the images into one file, holding a batch at a time."""
        labels = labels_for(self.model, self.seeds, self.plan.sampling.class_name)
        rest: dict[str, NDArray[Any]] = {} if labels is None else {"arr_1": labels.cpu().numpy()}
        rest |= {"seeds": np.asarray(self.seeds, np.int64), "protocol": np.array(json.dumps(self.protocol))}
        geometry = self.model.geometry
        shape = (len(self.seeds), geometry.height, geometry.width, geometry.channels)
        folder = ImageFolder(self.folder, tuple(self.seeds), self.protocol)
        with whole_file(self.out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for images in folder.batches(batch_size=batch_size):
                    member.write(images.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
            for name, array in rest.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    def _finished(self) -> bool:
        """Whether the .npz holds these very images."""
        return self._packed and protocol_in(self.out) == (self.protocol, list(self.seeds))

    def _clear(self) -> None:
        """Remove the folder that was packed, unless it holds images of another drawing that is yet to go on."""
        leftover = self.folder.with_name(f"{UNFINISHED}{self.folder.name}")
        shutil.rmtree(leftover, ignore_errors=True)
        if self.folder.is_dir():
            with suppress(DdpmError), only_process(self.folder):
                if protocol_of(self.folder) == self.protocol and self._there() <= set(self.seeds):
                    os.replace(self.folder, leftover)
            shutil.rmtree(leftover, ignore_errors=True)
