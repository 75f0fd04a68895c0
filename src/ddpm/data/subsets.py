"""Parts of an image set: rows drawn by a seed, and whether two sets share images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ddpm.base.seeding import generator
from ddpm.data.sources import ImageSet
from ddpm.data.stream import Reader

COMPARED = 2048  # images looked at, to tell whether something was fitted on what is scored
MOST_SHARED = 0.01  # share of the smaller side; a few duplicates between training and test sets are common


def chosen_rows(count: int, limit: int | None, seed: int) -> NDArray[np.int64]:
    """All rows of a set, or `limit` of them drawn by the seed, rising."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(generator("limit", seed).permutation(count)[:limit]).astype(np.int64)


def hashes(images: NDArray[np.uint8]) -> list[str]:
    """A short hash of each image (B, C, H, W), to tell whether two sets share some."""
    return [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in images]


def seen_before(images: ImageSet, reader: Reader, fingerprint: str, image_hashes: Sequence[str]) -> bool:
    """Whether images are those that something was fitted on: by that source's fingerprint, and hashes of its images."""
    some = np.unique(np.linspace(0, len(reader) - 1, COMPARED).astype(np.int64))
    shared = len(set(image_hashes) & set(hashes(reader.read(some))))
    return fingerprint == images.fingerprint or shared > MOST_SHARED * min(len(some), len(image_hashes))
