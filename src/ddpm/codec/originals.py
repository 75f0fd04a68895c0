"""Image files as they are compressed: what of a file is in the 8-bit image that is coded, and what is not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ddpm.base.files import read_bytes
from ddpm.base.tensors import Pixels
from ddpm.codec.codec_data import Codec
from ddpm.data.decode import BadImage, decode, lossless_problem, lost_metadata, most_file_bytes
from ddpm.data.sizing import colourful
from ddpm.errors import InputError

PLAIN = ("L", "RGB")
OTHERWISE = {"1": "it has 1 bit and comes back with 8", "P": "it has a palette and comes back without"}
"""Other modes whose pixels are wholly in the image that is coded, and how they come back."""
GREY = "its channels are equal and it comes back grey"


@dataclass(frozen=True, eq=False)
class Original:
    """An image as it is coded.

    pixels  uint8 (C, H, W), grey or RGB
    notes   what of the file is not in them, or in another form
    """

    pixels: Pixels
    notes: tuple[str, ...]


def read_original(path: str, *, lossless: bool) -> Original:
    """Read an image file as `ddpm data` sees it: upright, its first frame, 8 bits a channel.

    lossless  refuse a file whose pixels are not wholly in that; else that becomes a note

    Errors (InputError): it cannot be read, is no image, has alpha, or is not wholly in 8 bits.
    """
    data = read_bytes(path, most_file_bytes())
    try:
        problem, lost, image = lossless_problem(data), lost_metadata(data), decode(data)
    except BadImage as error:
        raise InputError(f"'{path}' cannot be read: {error}.") from None
    alpha = len(image.pixels) not in (1, 3)
    if problem is None and not alpha and image.mode not in (*PLAIN, *OTHERWISE):
        problem = f"its mode is {image.mode}"
    if problem is not None and lossless:
        raise InputError(
            f"{problem}, so it cannot be lossless: make it one grey or RGB image of 8 bits, or allow loss (--bytes)."
        )
    if alpha:
        raise InputError(f"'{path}' has alpha (mode {image.mode}), and a file holds grey or RGB: take it away first.")
    notes = [] if problem is None else [problem]
    notes += [OTHERWISE[image.mode]] if image.mode in OTHERWISE else []
    notes += [f"not kept: {', '.join(lost)}"] if lost else []
    return Original(np.array(image.pixels), tuple(notes))


def for_model(codec: Codec, original: Original) -> Original:
    """The image as a codec takes it: one whose channels are equal becomes grey for a grey model."""
    if codec.geometry.channels != 1 or len(original.pixels) == 1 or colourful(original.pixels):
        return original
    return replace(original, pixels=original.pixels[:1], notes=(GREY, *original.notes))
