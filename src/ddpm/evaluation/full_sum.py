"""The full sum: every term of the bound of every image, in shards on disk, so that it can stop and go on.

A shard holds a few images' terms along the whole chain and is written whole or not at all. Processes may share the
work: process i of n computes every n-th shard, and once all are there any of them adds them up, one at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm.base.files import only_process, whole_file
from ddpm.base.noise import NOISE_VERSION
from ddpm.base.npz import read_own_arrays
from ddpm.base.progress import SILENT, Progress
from ddpm.base.tensors import Floats, Integers
from ddpm.errors import DamagedFile
from ddpm.likelihood.estimate import VariationalBound, bound_of
from ddpm.likelihood.monte_carlo import Calls, Scoring
from ddpm.likelihood.rate_distortion import RateDistortion, RunningMoments, rate_distortion_of
from ddpm.model.model import Model
from ddpm.model.sidecar import stored

SHARD_CALLS = 8192  # network calls at most between two shards, unless one image alone needs more
WHOLE = (1, 1)
LAYOUT = 1  # of the shards; another one goes to another folder


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
        """As many as take SHARD_CALLS calls at most."""
        return max(1, SHARD_CALLS // self.scoring.chain.steps)

    @property
    def shards(self) -> int:
        """How many there are in all."""
        return -(-len(self.scoring.images) // self.images_per_shard)

    def missing(self, part: tuple[int, int] = WHOLE) -> list[int]:
        """The shards that process i of n (part = (i, n), from 1) has still to compute."""
        index, count = part
        return [k for k in range(index - 1, self.shards, count) if not self._file(k).is_file()]

    def compute(self, part: tuple[int, int] = WHOLE, progress: Progress = SILENT) -> None:
        """Compute the missing shards of process i of n."""
        missing = self.missing(part)
        if not missing:
            return
        calls = sum(len(self._images(number)) for number in missing) * self.scoring.chain.steps
        with (
            only_process(self.folder, f".lock-{part[0]}-{part[1]}"),
            self.scoring.shown(progress, "Full sum", calls) as scoring,
        ):
            for number in missing:
                shard = _terms(scoring, self._images(number))
                with whole_file(self._file(number)) as temporary:
                    np.savez(temporary, **shard._asdict())

    def bound(self) -> VariationalBound:
        """The sum of all shards; the errors are those of the mean over the images."""
        count = len(self.scoring.images)
        calls = count * self.scoring.chain.steps
        covers = "images drawn like these, and their noise"
        return bound_of(self._rows(), self.scoring.dimensions, images=count, calls=calls, error_of=covers)

    def totals(self) -> Floats:
        """The whole bound of each image, in nats (N,)."""
        return np.asarray(self._rows().sum(1))

    def _rows(self) -> Floats:
        """Prior, steps and decoder of each image, in nats (N, 3)."""
        rows = [np.stack([shard.prior, shard.nats[:, 1:].sum(1), shard.nats[:, 0]], axis=1) for shard in self._read()]
        return np.concatenate(rows)

    def rate_distortion(self) -> RateDistortion:
        """Means and standard errors of every term, in one pass over the shards."""
        steps = self.scoring.chain.steps
        prior, nats, squared_error = RunningMoments(1), RunningMoments(steps), RunningMoments(steps)
        for shard in self._read():
            prior.add(shard.prior[:, None])
            nats.add(shard.nats)
            squared_error.add(shard.squared_error)
        return rate_distortion_of(self.scoring, prior=prior, nats=nats, squared_error=squared_error)

    def _images(self, shard: int) -> Integers:
        start = shard * self.images_per_shard
        return np.arange(start, min(start + self.images_per_shard, len(self.scoring.images)))

    def _file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:06d}.npz"

    def _read(self) -> Iterator[Shard]:
        for number in range(self.shards):
            path = self._file(number)
            shard = Shard(*read_own_arrays(path, *Shard._fields))
            if shard.nats.shape != (len(self._images(number)), self.scoring.chain.steps):
                raise DamagedFile(f"'{path}' is not a shard of this sum: remove it, and the same command goes on.")
            yield shard


def _terms(scoring: Scoring, images: Integers) -> Shard:
    """Term i of image n has the noise of number n S + i - 1."""
    steps = scoring.chain.steps
    each = np.repeat(images, steps)
    index = np.tile(np.arange(steps), len(images))
    terms = scoring.terms(Calls(each, index + 1, each * steps + index), "full noise")
    nats, squared_error = (table.reshape(-1, steps) for table in terms)
    return Shard(nats, squared_error, scoring.prior(images))


def full_sum(model: Model, scoring: Scoring, where: Path) -> FullSum:
    """The full sum of a scoring, in a folder below `where` named by a hash of all that its numbers depend on."""
    denoiser, chain = scoring.denoiser, scoring.chain
    measured = denoiser.measured
    table = {
        "layout": [LAYOUT, SHARD_CALLS],
        "weights": [model.weights_sha256, stored(model.weights)],
        "variance": denoiser.variance,
        "measured": "" if measured is None else _digest(measured.log_variance(chain).tolist()),
        "clip": denoiser.threshold != "none",
        "levels": chain.levels.tolist(),
        "data": [scoring.images.images.fingerprint, _digest(scoring.images.rows.tolist())],
        "seed": scoring.seed,
        "noise": NOISE_VERSION,
    }
    own, labels = scoring.images.images.labels, scoring.labels
    if labels is not None and (own is None or labels.tolist() != own[scoring.images.rows].tolist()):
        table["labels"] = _digest(labels.tolist())  # the images' own are in their fingerprint
    return FullSum(scoring, where / f"full-{_digest(table)[:12]}")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
