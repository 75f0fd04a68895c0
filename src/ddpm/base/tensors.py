"""The array types of the project, and small helpers on tensors: tables read at integer levels, broadcasting."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpm.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Pixels = NDArray[np.uint8]


def as_array(data: object, what: str) -> NDArray[Any]:
    """Arrays, tensors on any device, and lists of numbers as a NumPy array; InputError for anything else."""
    try:
        array = np.asarray(data.detach().cpu() if isinstance(data, Tensor) else data)
    except (TypeError, ValueError, RuntimeError):  # lists of different lengths, among others
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{what} must be an array of numbers, not {type(data).__name__}.")
    return array


def gather(table: np.ndarray, index: int | Tensor, like: Tensor) -> Tensor:
    """Read a float64 table at one index for all images or one for each, ready to multiply images.

    table    (T + 1,) float64; it lies on the device after its first use
    index    an integer, or (B,) integers on the device of the images
    like     (B, C, H, W); the result has its dtype and device, rounded once from float64
    returns  () or (B, 1, 1, 1)
    """
    values = on_device(table, like.device, like.dtype)[index]
    return values.reshape(-1, *[1] * (like.ndim - 1)) if values.ndim else values


def on_device(table: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A table as a tensor, rounded once and copied once for as long as the table lives; neither is to be changed."""
    key = (id(table), device, dtype)
    if key not in _COPIES:
        with torch.inference_mode(False):
            _COPIES[key] = torch.tensor(table, dtype=dtype, device="cpu").to(device)
        weakref.finalize(table, _COPIES.pop, key, None)
    return _COPIES[key]


def float64_on(device: torch.device) -> torch.dtype:
    """float64, or float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


_COPIES: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}


def mean_over_image(values: Tensor) -> Tensor:
    """Average over everything but the batch: (B, C, H, W) -> (B,)."""
    return values.flatten(1).mean(1)


def fetched(tensor: Tensor) -> Callable[[], Tensor]:
    """Begin a copy to the CPU, after all that the tensor's device was told to do so far; the result waits for it."""
    if tensor.device.type != "cuda":
        return tensor.cpu
    copy = tensor.to("cpu", non_blocking=True)  # into memory that PyTorch pins for it
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        done.synchronize()
        return copy

    return wait


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy from the CPU to a device without making the CPU wait for the device's earlier work."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
