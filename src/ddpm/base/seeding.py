"""Randomness as a pure function of (purpose, seed, position): no global state, the same on every device.

Every random number of the project comes from NumPy's counter-based Philox generator. Its key is a hash of the
purpose and the seed, its counter holds the position (images seen, or a diffusion level), so any point of any stream
is reached at once: that is what makes resuming exact and an image independent of its batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator

import numpy as np
import torch

from ddpm.errors import InputError

MOST_SEEDS = 10_000_000


def generator(purpose: str, seed: int, position: int = 0) -> np.random.Generator:
    """The random stream at one position.

    purpose   what the numbers are for ("order", "noise", ...): streams of two purposes never meet
    seed      any integer
    position  non-negative; streams at different positions do not overlap within 2**64 blocks
    """
    return np.random.Generator(np.random.Philox(key=_key(purpose, seed), counter=position << 64))


def _key(purpose: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:16], "little")


@contextlib.contextmanager
def torch_seeded(purpose: str, seed: int, position: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's own generator for the block (dropout takes no other), and put the old state back after it."""
    word = int(generator(purpose, seed, position).integers(2**63))
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(word)
        yield


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
