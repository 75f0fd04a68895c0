"""The shape of one image: channels, height, width. Square is not special."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ddpm.errors import InputError

MOST_PIXELS = 2**26
"""Of an image that images are scaled to, or that a network gives."""


@dataclass(frozen=True)
class Geometry:
    """channels in 1..4 (grey, grey + alpha, RGB, RGBA); height and width in pixels."""

    channels: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.channels not in range(1, 5) or self.height < 1 or self.width < 1:
            raise InputError(f"images of {self} are impossible: choose 1 to 4 channels and at least one pixel.")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width

    def __str__(self) -> str:
        return f"{self.channels} x {self.height} x {self.width}"


def parse_size(text: str) -> tuple[int, int]:
    """Read "H" or "HxW" as (height, width) in pixels, both at least 1."""
    match = re.fullmatch(r"\s*(\d{1,20})(?:\s*[x×]\s*(\d{1,20}))?\s*", text)
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if height < 1 or width < 1:
        raise InputError(f"size '{text[:60]}' is not H or HxW in pixels: write it as 64 or 48x64.")
    check_pixels(height, width)
    return height, width


def check_pixels(*sides: int) -> None:
    """Refuse sides of an image that is larger than any image that fits into memory with what is made of it."""
    if math.prod(sides) > MOST_PIXELS:
        raise InputError(
            f"images of {' x '.join(map(str, sides))} pixels are too large, the most are {MOST_PIXELS:,} pixels: "
            "choose a smaller size."
        )
