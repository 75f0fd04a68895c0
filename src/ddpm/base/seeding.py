"""Choices made on the host, such as the order of images: a pure function of (purpose, seed, position).

They come from NumPy's counter-based Philox generator. Its key is a hash of the purpose and the seed, its counter holds
the position, so any point of any stream is reached at once: that is what makes resuming exact. What is random in images
and networks is made on their device (noise.py).
"""

from __future__ import annotations

import hashlib
import re

import numpy as np

from ddpm.errors import InputError

MOST_SEEDS = 10_000_000


def generator(purpose: str, seed: int, position: int = 0) -> np.random.Generator:
    """The random stream at one position.

    purpose   what the numbers are for ("order", "flip", ...): streams of two purposes never meet
    seed      any integer
    position  non-negative; streams at different positions do not overlap within 2**64 blocks
    """
    return np.random.Generator(np.random.Philox(key=_key(purpose, seed), counter=position << 64))


def _key(purpose: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:16], "little")


def parse_seeds(text: str) -> list[int]:
    """Read "7", "0-63" or "1,5,10-19" as seeds, in that order; ranges include both ends."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise InputError(
                f"seeds '{text[:60]}' are not understood at '{part.strip()[:60]}': write them as 7, 0-63 or 1,5,10-19."
            )
        if len(seeds) + last - first >= MOST_SEEDS:
            raise InputError(f"these are more than {MOST_SEEDS:,} seeds: draw them in parts.")
        seeds += range(first, last + 1)
    return seeds
