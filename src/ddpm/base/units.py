"""The changes of unit: grey levels <-> [-1, 1] (Ho et al. 2020, sec. 3.3), and nats -> bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm.base.tensors import fetched
from ddpm.errors import InputError

LEVELS = 256
BIN = 2 / (LEVELS - 1)  # distance between two neighbouring grey levels on the scale of x
GREY_LEVELS = 1 / BIN  # grey levels per unit of x


def images_to_x(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map uint8 grey levels 0..255 to x = level / 127.5 - 1 in [-1, 1]; any shape."""
    return images.to(dtype) / 127.5 - 1


def x_to_images(x: Tensor) -> Tensor:
    """Map x in [-1, 1] to the nearest of 256 grey levels (uint8, on the CPU); values outside are clipped.

    InputError for NaN, which has no grey level: of a network whose numbers overflow.
    """
    return images_begun(x)()


def images_begun(x: Tensor) -> Callable[[], Tensor]:
    """Begin x_to_images, as much as a device does it without the CPU; what is returned waits for the images."""
    levels = (((x.cpu() if x.device.type == "mps" else x).double() + 1) * 127.5).round()
    unknown, images = fetched(levels.isnan().any()), fetched(levels.clamp(0, 255).to(torch.uint8))

    def finish() -> Tensor:
        if unknown():
            raise InputError("the network gives NaN, which is no image: its run diverged, take an earlier checkpoint.")
        return images()

    return finish


def bits(nats: float) -> float:
    """Nats in bits."""
    return nats / math.log(2)
