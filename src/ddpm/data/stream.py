"""From a set of images to an endless stream of batches: a pure function of (seed, position), prepared ahead.

Stream image n is `order(seed, n // N)[n % N]`, so each epoch shows every image once; whether it is mirrored is a
coin toss that depends on (seed, n) alone. Neither depends on the batch size or on where the stream was entered:
resuming is exact.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ddpm.base.seeding import generator
from ddpm.base.tensors import Pixels
from ddpm.data.sources import ImageSet
from ddpm.errors import InputError

AHEAD = 3  # batches that are finished or in the making
KEPT_BYTES = 2**30  # sets up to this size stay decoded in memory
COINS = 4096  # flips drawn at a time


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive images of the stream.

    images    uint8 (B, C, H, W)
    labels    int64 (B,), or None without classes
    position  images seen before this batch
    indices   int64 (B,), which images of the set these are
    """

    images: Tensor
    labels: Tensor | None
    position: int
    indices: npt.NDArray[np.int64]


def batches(images: ImageSet, *, seed: int, position: int, batch_size: int, flip: bool) -> Generator[Batch, None, None]:
    """The endless stream from a position on; close it (or drop it) to stop its thread. `flip` mirrors left-right."""
    if batch_size < 1 or position < 0:
        raise InputError(f"batch_size {batch_size} at position {position} is impossible: the least are 1 and 0.")
    return _ahead(_batches(Reader(images), seed, position, batch_size, flip))


def _batches(reader: Reader, seed: int, position: int, batch_size: int, flip: bool) -> Iterator[Batch]:
    while True:
        numbers = np.arange(position, position + batch_size)
        indices = stream_indices(len(reader.images), seed, numbers)
        pixels = reader.read(indices)
        if flip:
            mirrored = stream_coins(seed, numbers)
            pixels[mirrored] = pixels[mirrored, :, :, ::-1]
        labels = reader.images.labels
        chosen = None if labels is None else torch.from_numpy(labels[indices])
        yield Batch(torch.from_numpy(pixels), chosen, position, indices)
        position += batch_size


def stream_indices(count: int, seed: int, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Which of `count` images are the stream's images number (B,)."""
    indices = np.empty_like(numbers)
    for epoch in np.unique(numbers // count):
        here = numbers // count == epoch
        indices[here] = _order(count, seed, int(epoch))[numbers[here] % count]
    return indices


def stream_coins(seed: int, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether the stream's images number (B,) are mirrored: fair coins, each a function of (seed, number)."""
    return np.array([_coins(seed, int(number) // COINS)[number % COINS] for number in numbers], np.bool_)


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    order: npt.NDArray[np.int64] = generator("order", seed, epoch).permutation(count)
    return order


@functools.lru_cache(maxsize=4)
def _coins(seed: int, block: int) -> npt.NDArray[np.bool_]:
    coins: npt.NDArray[np.bool_] = generator("flip", seed, block).integers(0, 2, COINS).astype(np.bool_)
    return coins


class Reader:
    """Reads images of a set; a small set is decoded once, image by image as it is first met, and kept."""

    def __init__(self, images: ImageSet, rows: npt.NDArray[np.int64] | None = None) -> None:
        """`rows` says which images of the set there are here, and in which order; None takes all."""
        self.images = images
        self.rows = np.arange(len(images)) if rows is None else rows
        shape = (len(self.rows), *images.geometry.shape)
        self.kept: Pixels | None = np.empty(shape, np.uint8) if np.prod(shape, dtype=object) <= KEPT_BYTES else None
        self.known = np.zeros(len(self.rows), np.bool_)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: channels, height, width."""
        return self.images.geometry.shape

    def read(self, indices: npt.NDArray[np.int64]) -> Pixels:
        """uint8 (B, C, H, W), the caller's to change."""
        if self.kept is None:
            return self.images.array(self.rows[indices].tolist())
        new = np.unique(indices[~self.known[indices]])
        if len(new):
            self.kept[new] = self.images.array(self.rows[new].tolist())
            self.known[new] = True
        return self.kept[indices]


def _ahead(source: Iterator[Batch]) -> Generator[Batch, None, None]:
    """Run an iterator on a thread of its own, AHEAD items ahead; what it raises is raised here."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="ddpm-batches")
    waiting = deque(thread.submit(next, source) for _ in range(AHEAD))
    try:
        while True:
            batch = waiting.popleft().result()
            waiting.append(thread.submit(next, source))
            yield batch
    finally:
        thread.shutdown(cancel_futures=True)
