"""Tiles cut from images of any size, as a set of images of one size."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from ddpm.base.geometry import Geometry
from ddpm.base.tensors import Pixels
from ddpm.data.decode import BadImage
from ddpm.data.grammar import choose_split, cut, find_source, parse_source
from ddpm.data.items import ArrayItems, Items
from ddpm.data.sizing import colourful, to_channels
from ddpm.data.sources import ImageSet
from ddpm.errors import InputError

LARGEST_WHOLE = 64
"""Pixels a side of images that are taken whole, if all are alike."""


def source_tiles(src: str, *, side: int, count: int) -> ImageSet:
    """Images of a source: whole if all have one size of at most LARGEST_WHOLE pixels a side, else square tiles of them.

    side   of a tile, pixels; smaller images are left out
    count  of tiles at most, spread evenly over all images and over each

    Grey if all are grey, else RGB; alpha is dropped.
    """
    name = parse_source(src)
    source = find_source(name)
    items = cut(source.splits[choose_split(source, name, "train")](), name).items
    found = [_plain(items, index, src) for index in range(len(items))]
    channels = 3 if any(colourful(image) for image in found) else 1
    found = [to_channels(image, channels) for image in found]
    sizes = {image.shape for image in found}
    if len(sizes) == 1 and max(found[0].shape[1:]) <= LARGEST_WHOLE:
        images = np.stack(found)
    else:
        large = [image for image in found if min(image.shape[1:]) >= side]
        if not large:
            raise InputError(f"no image in '{src}' has {side} pixels a side: choose larger images.")
        images = np.concatenate([_tiles(image, side, -(-count // len(large))) for image in large])[:count]
    fingerprint = hashlib.sha256(repr(images.shape).encode() + np.ascontiguousarray(images).tobytes()).hexdigest()
    held = ArrayItems(images, "tile", np.arange(len(images)))
    return ImageSet(src, Geometry(*images.shape[1:]), None, (), fingerprint, held, "crop")


def _plain(items: Items, index: int, src: str) -> Pixels:
    try:
        image = items.image(index).pixels
    except BadImage as error:
        raise InputError(f"{items.name(index)} in '{src}' cannot be read: {error}.") from None
    return to_channels(image, 1 if len(image) < 3 else 3)


def _tiles(image: Pixels, side: int, count: int) -> Pixels:
    """At most `count` tiles on an even grid, which may overlap."""
    height, width = image.shape[1:]
    free = height - side + 1, width - side + 1
    rows = min(free[0], max(1, round(math.sqrt(count * height / width))))
    columns = min(free[1], max(1, count // rows))
    tops, lefts = (
        np.unique(np.linspace(0, room - 1, n).astype(int)) for room, n in zip(free, (rows, columns), strict=True)
    )
    return np.stack([image[:, top : top + side, left : left + side] for top in tops for left in lefts])
