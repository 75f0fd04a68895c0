"""Read every image once, on as many threads as there are processors, before a step is taken."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from ddpm.data.decode import BadImage
from ddpm.data.items import Items
from ddpm.data.sizing import colourful, has_alpha, has_colour, see_through

Result = TypeVar("Result")
NAMED = 3  # how many images a message names
MOST_TOGETHER = 32  # images that a thread takes at a time


@dataclass(frozen=True)
class Look:
    """What one image turned out to be.

    problem     why it cannot be used, or None; then the rest holds
    mode        Pillow's name for it
    channels    1..4, with size = (height, width) in pixels
    colourful   taking it to grey would lose something
    see_through dropping its alpha would lose something
    digest      of its shape and pixels: equal images have equal digests
    """

    name: str
    problem: str | None = None
    mode: str = ""
    channels: int = 0
    size: tuple[int, int] = (0, 0)
    colourful: bool = False
    see_through: bool = False
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
    digest = hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16).digest()
    flags = colourful(pixels), see_through(pixels)
    return Look(items.name(index), None, image.mode, channels, (height, width), *flags, digest)


def in_threads(work: Callable[[int], Result], indices: Sequence[int], *, threads: bool) -> Iterator[Result]:
    """Map in order. Pillow lets go of Python's lock while it decodes, so threads are enough; arrays need none."""
    if not threads or len(indices) < 2:
        yield from map(work, indices)
        return
    size = max(1, min(MOST_TOGETHER, len(indices) // 16))
    parts = [indices[start : start + size] for start in range(0, len(indices), size)]
    for results in _threads(os.getpid()).map(lambda part: [work(index) for index in part], parts):
        yield from results


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """The threads of a process, made at their first use; a fork has none and makes its own."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ddpm-images")


def common_channels(looks: Sequence[Look]) -> int:
    """The fewest channels that hold every image by its mode: grey + RGB is RGB, any alpha asks for alpha."""
    colour = any(has_colour(seen.channels) for seen in looks)
    alpha = any(has_alpha(seen.channels) for seen in looks)
    return (3 if colour else 1) + alpha


def suggested_size(looks: Sequence[Look]) -> int:
    """A square size that needs no image enlarged: the shortest side, down to a multiple of 8 where it is at least 8."""
    shortest = min(min(seen.size) for seen in looks)
    return shortest // 8 * 8 or shortest


def some(names: Sequence[str]) -> str:
    """The first few names and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
