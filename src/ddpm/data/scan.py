"""Read every image once, on as many threads as there are processors, before a step is taken."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ddpm.data.decode import BadImage
from ddpm.data.items import Items
from ddpm.data.memory import DECODING
from ddpm.data.sizing import colourful, has_alpha, has_colour, levels_of, see_through

Result = TypeVar("Result")
MOST_TOGETHER = 32  # images that a thread takes at a time


@dataclass(frozen=True)
class Look:
    """What one image turned out to be.

    problem     why it cannot be used, or None; then the rest holds
    mode        Pillow's name for it
    channels    1..4, with size = (height, width) in pixels
    colourful   taking it to grey would lose something
    see_through dropping its alpha would lose something
    levels      its lowest and highest, alpha apart, and the highest that its file could hold
    digest      of its shape and pixels: equal images have equal digests
    """

    name: str
    problem: str | None = None
    mode: str = ""
    channels: int = 0
    size: tuple[int, int] = (0, 0)
    colourful: bool = False
    see_through: bool = False
    levels: tuple[int, int, int] = (0, 255, 255)
    digest: bytes = b""


def scan(items: Items) -> list[Look]:
    """Read every image once; never raises for a bad one."""
    return list(in_threads(lambda index: look(items, index), range(len(items)), threads=items.encoded))


def look(items: Items, index: int) -> Look:
    """Read one image."""
    try:
        image = items.image(index)
    except BadImage as error:
        return Look(items.name(index), problem=str(error))
    pixels = image.pixels
    channels, height, width = pixels.shape
    sha = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    sha.update(np.ascontiguousarray(pixels).data)
    flags, levels = (colourful(pixels), see_through(pixels)), image.levels or levels_of(pixels)
    return Look(items.name(index), None, image.mode, channels, (height, width), *flags, levels, sha.digest())


def in_threads(work: Callable[[int], Result], indices: Sequence[int], *, threads: bool) -> Iterator[Result]:
    """Map in order. Pillow lets go of Python's lock while it decodes, so threads are enough; arrays need none."""
    if not threads or len(indices) < 2:
        yield from map(work, indices)
        return
    size = max(1, min(MOST_TOGETHER, len(indices) // 16))
    parts = [indices[start : start + size] for start in range(0, len(indices), size)]

    def work_on(part: Sequence[int]) -> list[Result]:
        results = []
        for index in part:
            with DECODING.held():
                results.append(work(index))
        return results

    for results in _threads(os.getpid()).map(work_on, parts):
        yield from results


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """The threads of a process, made at their first use; a fork has none and makes its own."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ddpm-images")


def common_channels(looks: Sequence[Look]) -> int:
    """The fewest channels that hold every image by its mode: grey + RGB is RGB; alpha is held if all images have it or
    dropping it would lose something."""
    colour = any(has_colour(seen.channels) for seen in looks)
    alpha = any(seen.see_through for seen in looks) or all(has_alpha(seen.channels) for seen in looks)
    return (3 if colour else 1) + alpha


def span(looks: Sequence[Look]) -> tuple[int, int, int]:
    """The lowest and the highest level of all images, as parts of what their files could hold, and that."""
    lowest = min((seen.levels for seen in looks), key=lambda levels: levels[0] / levels[2])
    highest = max((seen.levels for seen in looks), key=lambda levels: levels[1] / levels[2])
    return lowest[0] * highest[2] // lowest[2], highest[1], highest[2]


def narrow_ranges(looks: Sequence[Look]) -> list[str]:
    """What to say of images whose files hold levels to the same height, by that height; see narrow_range."""
    said = []
    for top in sorted({seen.levels[2] for seen in looks}):
        group = [seen for seen in looks if seen.levels[2] == top]
        rest = f"{len(group):,} of {len(looks):,} images, those of {top.bit_length()} bits,"
        said.append(narrow_range(span(group), "all images" if len(group) == len(looks) else rest))
    return [note for note in said if note is not None]


def narrow_range(levels: tuple[int, int, int], images: str = "all images") -> str | None:
    """What to say of images whose levels use less than a quarter of their range; None if they use more."""
    low, high, top = levels
    if (high - low) * 4 >= top:
        return None
    found = f"the levels of {images} lie in {low:,} to {high:,} of 0 to {top:,}"
    if high == low:
        return f"{found}: there is nothing to learn; check the files"
    if high * 4 < top:
        remedy = f"multiply them by {top // high:,}"
    else:
        remedy = f"subtract {low:,} and multiply by {top // (high - low):,}"
    return f"{found}, so a model sees almost no contrast: {remedy} and save the files again"


def suggested_size(looks: Sequence[Look]) -> int:
    """A square size that needs no image enlarged: the shortest side, down to a multiple of 8 where it is at least 8."""
    shortest = min(min(seen.size) for seen in looks)
    return shortest // 8 * 8 or shortest
