"""The full sum: every term of the bound of every image, in shards on disk, so that it can stop and go on.

A shard holds a few images' terms along the whole chain and is written whole or not at all. Processes may share the
work: process i of n computes every n-th shard, and whoever finds all shards there adds them up, one at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from ddpm.errors import DamagedFile, InputError
from ddpm.files import check_output, whole_file
from ddpm.likelihood.estimate import Bound, bound_of
from ddpm.likelihood.profile import Moments, Profile, profile_of
from ddpm.likelihood.scoring import Calls, Floats, Integers, Scoring
from ddpm.model import Model

SHARD_CALLS = 8192  # network calls at most between two shards, unless one image alone needs more
WHOLE = (1, 1)


class Shard(NamedTuple):
    """The terms of n images: nats and squared_error (n, S), step 1 first; prior (n,) in nats."""

    nats: Floats
    squared_error: Floats
    prior: Floats


@dataclass(frozen=True)
class FullSum:
    """A full sum on disk.

    scoring  what is summed
    folder   the shards of this very sum and of no other
    """

    scoring: Scoring
    folder: Path

    @property
    def images_per_shard(self) -> int:
        """So that a shard takes SHARD_CALLS calls at most."""
        return max(1, SHARD_CALLS // self.scoring.chain.steps)

    @property
    def shards(self) -> int:
        """How many there are in all."""
        return -(-len(self.scoring.images) // self.images_per_shard)

    def missing(self, part: tuple[int, int] = WHOLE) -> list[int]:
        """The shards that process i of n (part = (i, n), from 1) has still to compute."""
        index, count = part
        if not 1 <= index <= count:
            raise InputError(f"shard {index}/{count} makes no sense; 1/{count} to {count}/{count} would fit.")
        return [k for k in range(index - 1, self.shards, count) if not self._file(k).is_file()]

    def calls(self, part: tuple[int, int] = WHOLE) -> int:
        """Network calls still to make."""
        return sum(len(self._images(k)) for k in self.missing(part)) * self.scoring.chain.steps

    def compute(self, part: tuple[int, int] = WHOLE) -> None:
        """Compute the missing shards of process i of n."""
        check_output(self.folder, folder=True)
        for number in self.missing(part):
            shard = self._terms(self._images(number))
            with whole_file(self._file(number)) as temporary:
                np.savez(temporary, **shard._asdict())

    def bound(self) -> Bound:
        """The sum of all shards; the errors are those of the mean over the images."""
        rows = [np.stack([shard.prior, shard.nats[:, 1:].sum(1), shard.nats[:, 0]], axis=1) for shard in self._read()]
        count = len(self.scoring.images)
        calls = count * self.scoring.chain.steps
        covers = "images drawn like these, and their noise"
        return bound_of(np.concatenate(rows), self.scoring.dimensions, images=count, calls=calls, error_of=covers)

    def profile(self) -> Profile:
        """Means and standard errors of every term, in one pass over the shards."""
        steps = self.scoring.chain.steps
        prior, nats, squared_error = Moments(1), Moments(steps), Moments(steps)
        for shard in self._read():
            prior.add(shard.prior[:, None])
            nats.add(shard.nats)
            squared_error.add(shard.squared_error)
        return profile_of(self.scoring, prior=prior, nats=nats, squared_error=squared_error)

    def _terms(self, images: Integers) -> Shard:
        steps = self.scoring.chain.steps
        plan = Calls(
            np.repeat(images, steps),
            np.tile(np.arange(1, steps + 1), len(images)),
            np.repeat(images, steps) * steps + np.tile(np.arange(steps), len(images)),
        )
        terms = self.scoring.terms(plan, "full noise")
        shape = (len(images), steps)
        return Shard(terms.nats.reshape(shape), terms.squared_error.reshape(shape), self.scoring.prior(images))

    def _images(self, shard: int) -> Integers:
        start = shard * self.images_per_shard
        return np.arange(start, min(start + self.images_per_shard, len(self.scoring.images)))

    def _file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:06d}.npz"

    def _read(self) -> Iterator[Shard]:
        for number in range(self.shards):
            path = self._file(number)
            try:
                with np.load(path, allow_pickle=False) as held:
                    yield Shard(**{name: held[name] for name in Shard._fields})
            except (BadZipFile, ValueError, KeyError, EOFError, OSError):
                raise DamagedFile(f"'{path}' is cut short or damaged; without it the same command goes on.") from None


def full_sum(model: Model, scoring: Scoring, where: Path, *, variance: str) -> FullSum:
    """The full sum of a scoring, in a folder below `where` that is named after all that its numbers depend on."""
    measured = scoring.denoiser.measured
    table = {
        "weights": [model.weights_sha256, model.weights],
        "variance": variance,
        "measured": "" if measured is None else _digest(measured.log_variance(scoring.chain).tolist()),
        "levels": scoring.chain.levels.tolist(),
        "data": [scoring.images.images.fingerprint, _digest(scoring.images.rows.tolist())],
        "seed": scoring.seed,
    }
    return FullSum(scoring, where / f"full-{_digest(table)[:12]}")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
