"""Drawing many images onto the disk so that it can stop and go on: a folder of PNGs, or batches packed into one array.

    DIR/              see image_folder.py
    FILE.npz          see array_file.py
    FILE.npz.parts/   the batches it is packed from, until all images are there, see batches.py; and sampling.json

A batch is put down whole (and only then written as PNGs), so what a drawing that was killed has left to draw are whole
batches. The same command therefore cuts the same ones, calls its network with as many images, and ends in the same
pixels as if it had never been stopped: a network's sums depend on the batch in their last bits. Nothing is done before
the images lie there as they were drawn: every PNG has the hash that was written down with it, every batch its
checksums, and an array is read back before it takes its name.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpm.base.files import check_output, check_room, only_process, refusals, remove_unfinished, whole_file
from ddpm.base.image_io import save_folder
from ddpm.base.progress import Advance, unheard
from ddpm.errors import DamagedFile, DdpmError, InputError
from ddpm.generation.array_file import NAMES, fault_in, protocol_in, write_array
from ddpm.generation.batches import Places, batch_name, batches_in, images_at, places_in, read_batch, write_batch
from ddpm.generation.draw import draw_batches, labels_for, protocol
from ddpm.generation.image_folder import (
    HASHES_FILE,
    PROTOCOL_FILE,
    add_hashes,
    check_protocol,
    claim_of,
    protocol_of,
    seeds_in,
    sha256_of,
    sound_seeds,
    write_hashes,
    write_protocol,
)
from ddpm.model.checkpoint import is_run
from ddpm.model.model import Model
from ddpm.samplers.plan import Plan

BATCH_FILE = ".batch.npz"  # of a folder: drawn, and not all of its PNGs are written yet
PACKED_FILE = ".packed.npz"  # about to take the place of FILE.npz
ARRAY = ".npz"
PNG_FACTOR = 4  # an image's PNG is taken to have a fourth of the bytes of its pixels, or more


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
        """The seeds still to draw, each once.

        Errors: other images lie there, nothing can be written there, or too little room is left (InputError); what is
        there is damaged so that drawing does not mend it (DamagedFile).
        """
        if self._finished():
            return []
        missing, _ = self._not_there()
        pixels = math.prod(self.model.geometry.shape)
        images = len(missing) + len(self.seeds) if self._packed else len(missing) / PNG_FACTOR
        check_room(self.out, int(images * pixels))
        return missing

    def draw(self, *, batch_size: int = 64, advance: Advance = unheard) -> None:
        """Draw what is missing. Options as in draw.draw_batches.

        Errors: as of `missing`; afterwards an image is not there as it was drawn (DamagedFile).
        """
        if not self._finished():
            with only_process(self.folder):
                missing = self.missing()
                remove_unfinished(self.folder)
                self._claim()
                self._write_pngs()
                options: dict[str, Any] = {"batch_size": batch_size, "asked": len(self.asked), "advance": advance}
                for seeds, images in draw_batches(self.model, missing, self.plan, **options) if missing else ():
                    self._claim()
                    write_batch(self.folder / self._batch(seeds), seeds, images.numpy(), synced=not self._packed)
                    self._write_pngs()
                places = self._check_whole() if missing or self._packed else {}
                if self._packed:
                    self._pack(places, batch_size)
        if self._packed:
            self._clear()

    @property
    def _packed(self) -> bool:
        return self.out.suffix == ARRAY

    def _batch(self, seeds: Sequence[int]) -> str:
        """What the file of a batch is called: for PNGs there is one at a time."""
        return batch_name(seeds) if self._packed else BATCH_FILE

    @cached_property
    def asked(self) -> Collection[int]:
        """The seeds in their order, each once."""
        return dict.fromkeys(self.seeds)

    @cached_property
    def _others(self) -> dict[str, NDArray[Any]]:
        """What an .npz holds beside the images."""
        labels = labels_for(self.model, self.seeds, self.plan.sampling.class_name)
        classes: dict[str, NDArray[Any]] = {}
        if labels is not None:
            classes = {"arr_1": labels.cpu().numpy(), NAMES: np.array(self.model.class_names)}
        return classes | {"seeds": np.asarray(self.seeds, np.int64), "protocol": np.array(json.dumps(self.protocol))}

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        """Of arr_0."""
        geometry = self.model.geometry
        return len(self.seeds), geometry.height, geometry.width, geometry.channels

    def _finished(self) -> bool:
        """Whether the .npz holds these very images; if not, the place is checked that they go to.

        Errors: it says that it does, and they are not whole (DamagedFile); nothing can be written there (InputError).
        """
        check_output(self.out, folder=not self._packed)
        found = protocol_in(self.out) if self._packed and self.out.is_file() else None
        if found == (self.protocol, list(self.seeds)):
            fault = fault_in(self.out, self._shape, self._others)
            if fault:
                raise DamagedFile(
                    f"'{self.out}' is damaged ({fault}): remove it, and the same command draws its images again."
                )
            return True
        if is_run(self.out):
            raise InputError(f"'{self.out}' is a run, not a folder for images: choose '{self.out / 'images'}'.")
        check_output(self.folder, folder=True)
        if self._packed and self.folder.is_symlink():
            raise InputError(f"'{self.folder}' is a link, and images that are not packed yet go there: remove it.")
        return False

    def _not_there(self) -> tuple[list[int], Places]:
        """The seeds, each once, whose images are not in the folder as they were drawn; where those in batches are."""
        batch = self._batch_seeds()
        if batch or self._holds_images():
            check_protocol(self.folder, self.protocol)
        shape = self.model.geometry.shape
        places = places_in(self.folder, shape) if self._packed else {}
        sound = places.keys() if self._packed else sound_seeds(self.folder, self.asked, shape)
        return [seed for seed in self.asked if seed not in sound and seed not in batch], places

    def _holds_images(self) -> bool:
        """Whether the folder holds batches or PNGs; older versions packed arrays from those."""
        return bool(seeds_in(self.folder) or (self._packed and batches_in(self.folder)))

    def _batch_seeds(self) -> set[int]:
        """The seeds of the batch whose PNGs are not all written yet, if there is one."""
        path = self.folder / BATCH_FILE
        try:
            return set(read_batch(path, self.model.geometry.shape)[0]) if path.is_file() else set()
        except DdpmError:
            if path.is_file():
                raise
            return set()  # another process has just written its PNGs

    def _claim(self) -> None:
        """Say in the folder how its images are drawn, and begin the hashes of PNGs; again, if somebody removed them."""
        names = () if labels_for(self.model, [0]) is None else self.model.class_names
        claim = claim_of(self.folder)
        ours = claim is None or claim[0] == self.protocol
        if not ours and self._holds_images():
            check_protocol(self.folder, self.protocol)
        if not self._packed and (not ours or not (self.folder / HASHES_FILE).is_file()):  # emptied, or an older version
            there = sorted(sound_seeds(self.folder, seeds_in(self.folder), self.model.geometry.shape))
            write_hashes(self.folder, {seed: sha256_of(self.folder, seed) for seed in there}, self._classes(there))
        if claim != (self.protocol, list(names)):
            write_protocol(self.folder, self.protocol, names)

    def _classes(self, seeds: Sequence[int]) -> list[str]:
        """What the classes of these images are called, [] without classes."""
        labels = labels_for(self.model, seeds, self.plan.sampling.class_name)
        return [] if labels is None else [self.model.class_names[label] for label in labels.tolist()]

    def _write_pngs(self) -> None:
        """Write the PNGs of the batch that was put down for it, if there is one."""
        batch = self.folder / BATCH_FILE
        if batch.is_file():
            seeds, images = read_batch(batch, self.model.geometry.shape)
            hashes = save_folder(images, self.folder, names=seeds)
            add_hashes(self.folder, dict(zip(seeds, hashes, strict=True)), self._classes(seeds))
            with refusals(batch, "removed"):
                batch.unlink(missing_ok=True)

    def _check_whole(self) -> Places:
        """Where the images in batches are; DamagedFile if one that was drawn is not in the folder."""
        self._claim()
        lost, places = self._not_there()
        if lost:
            raise DamagedFile(
                f"{len(lost):,} of {len(self.asked):,} images in '{self.folder}' were removed or changed while others "
                f"were drawn, that of seed {lost[0]} for one: the same command draws them again."
            )
        return places

    def _pack(self, places: Places, batch_size: int) -> None:
        """Put the images into one file, holding a batch at a time, and read it back before it takes its name."""
        images = images_at(places, self.seeds, self.model.geometry.shape, batch_size)
        packed = self.folder / PACKED_FILE
        with whole_file(packed) as temporary:
            write_array(temporary, images, self._shape, self._others)
            fault = fault_in(temporary, self._shape, self._others)
            if fault:
                raise DamagedFile(
                    f"'{self.out}' was written and reads back otherwise ({fault}): the disk may be failing; its images "
                    f"are kept in '{self.folder}'."
                )
        with refusals(self.out, "written"):
            os.replace(packed, self.out)

    def _clear(self) -> None:
        """Remove what was packed, unless it belongs to another drawing that is yet to go on; other files stay."""
        if not self.folder.is_dir() or self.folder.is_symlink():
            return
        with suppress(DdpmError, OSError), only_process(self.folder):
            found, there = protocol_of(self.folder), places_in(self.folder).keys()
            if (found == self.protocol and there <= set(self.seeds)) or (found is None and not self._holds_images()):
                remove_unfinished(self.folder)
                names = (PACKED_FILE, PROTOCOL_FILE, ".lock")
                for path in (*batches_in(self.folder), *(self.folder / name for name in names)):
                    path.unlink(missing_ok=True)
                self.folder.rmdir()
