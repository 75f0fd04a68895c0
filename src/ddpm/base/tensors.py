"""The array types of the project, and small helpers on tensors: tables read at integer levels, broadcasting."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Pixels = NDArray[np.uint8]


def gather(table: np.ndarray, index: Tensor, like: Tensor) -> Tensor:
    """Read a float64 table at one index per image, ready to multiply images.

    table    (T + 1,) float64
    index    (B,) integers
    like     (B, C, H, W); the result has its dtype and device, rounded once from float64
    returns  (B, 1, 1, 1)
    """
    values = torch.from_numpy(table[index.cpu().numpy()]).to(like.dtype)
    return to_device(values, like.device).reshape(-1, *[1] * (like.ndim - 1))


def mean_over_image(values: Tensor) -> Tensor:
    """Average over everything but the batch: (B, C, H, W) -> (B,)."""
    return values.flatten(1).mean(1)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy from the CPU to a device without making the CPU wait for the device's earlier work."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
