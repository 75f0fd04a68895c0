"""Which class an image is coded as, for models that know classes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ddpm.base.units import images_to_x
from ddpm.codec.codec_data import Codec
from ddpm.codec.randomness import CHOICE, UNIT, normals

TILES = 4
"""Tiles looked at."""


def choose_label(codec: Codec, tiles: NDArray[np.uint8]) -> int:
    """The class whose network sees an image best half way down the chain; "no class" where the model learned that.

    tiles  (M, C, h, w); the first few are looked at
    """
    if codec.no_class is not None:
        return codec.no_class
    chain, number = codec.chain, len(codec.chain.steps) // 2
    some = images_to_x(torch.from_numpy(tiles[:TILES]), torch.float64)
    index = len(chain.levels) - number
    noise = torch.from_numpy(normals(CHOICE, count=some.numel()).astype(np.float64) * UNIT).reshape(some.shape)
    x = float(chain.schedule.signal[index]) * some + float(chain.schedule.sigma[index]) * noise
    errors = [
        float(((chain.x0(x, number, torch.full((len(x),), label, device=chain.device)) - some) ** 2).sum())
        for label in range(codec.classes)
    ]
    return int(np.argmin(errors))
