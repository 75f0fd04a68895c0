"""Images in, features out: what the distances are measured on.

An extractor maps uint8 images to rows of numbers, each image on its own: its row is the same in any batch, up to
rounding. `probed` tries a network on a few images before any work is done with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm.base.device_memory import within_memory
from ddpm.base.geometry import Geometry
from ddpm.base.precision import STRICT, computing
from ddpm.base.seeding import generator
from ddpm.base.tensors import Floats, to_device
from ddpm.base.units import LEVELS
from ddpm.errors import InputError

PIXELS = "pixels"
ROUNDING = 1e-3  # of the largest feature: how much the batch may change one; networks may run in half precision
TRIAL_PARTS = (slice(0, 2), slice(0, 1), slice(1, 2), slice(2, 3))  # of the three images that a network is tried on

# What PyTorch raises when a network cannot take a tensor: failed shape checks, guards, unknown arguments.
NETWORK_ERRORS = (RuntimeError, ValueError, TypeError, AssertionError, IndexError)


@dataclass(frozen=True, eq=False)
class Extractor:
    """A map from images to features; call it with a batch.

    name        as the user wrote it
    sha256      of the file it came from, or a fixed word such as "pixels"
    dimensions  D, features of an image
    geometry    of the images it takes
    network     uint8 (B, C, H, W) on `device` -> floating (B, D)
    """

    name: str
    sha256: str
    dimensions: int
    geometry: Geometry
    device: torch.device
    network: Callable[[Tensor], Any]

    def __call__(self, images: Tensor) -> Floats:
        """Features of uint8 images (B, C, H, W), B >= 1, on the CPU; returns float64 (B, D).

        Errors (InputError): other images; features that are not finite.
        """
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.geometry.shape:
            raise InputError(f"'{self.name}' takes uint8 images of {self.geometry}, not {_kind(images)}.")
        with torch.no_grad(), computing(STRICT, self.device), within_memory(len(images), self.device):
            return _rows(self.network(to_device(images, self.device)), len(images), self.name)


def features_of(extractor: Extractor, batches: Iterable[Tensor]) -> Floats:
    """Features of all images of some batches, at least one: (N, D)."""
    return np.concatenate([extractor(batch) for batch in batches])


def pixels(name: str, geometry: Geometry, device: torch.device) -> Extractor:
    """The grey levels themselves, scaled to [0, 1], in the order (channel, row, column)."""
    return Extractor(name, PIXELS, int(np.prod(geometry.shape)), geometry, torch.device("cpu"), _flat)


def probed(
    network: Callable[[Tensor], Any], *, name: str, sha256: str, geometry: Geometry, device: torch.device
) -> Extractor:
    """An extractor of a network, after a trial on a noisy, a black and a white image, together and alone.

    Errors (InputError): it does not take 1, 2 and 3 images; anything but finite floats (B, D) comes out; the features
    of an image depend on its batch.
    """
    images = _trial_images(geometry)
    together = _tried(network, images, name, device)
    for part in TRIAL_PARTS:
        found = _tried(network, images[part], name, device)
        if found.shape[1] != together.shape[1] or _differ(found, together[part]):
            raise InputError(
                f"'{name}' gives an image other features in a batch than alone: export the network in evaluation mode, "
                "`.eval()`."
            )
    return Extractor(name, sha256, together.shape[1], geometry, device, network)


def _differ(one: Floats, other: Floats) -> bool:
    return bool(np.abs(one - other).max() > ROUNDING * np.abs(other).max())


def _trial_images(geometry: Geometry) -> Tensor:
    noise = generator("probe", 0).integers(0, LEVELS, geometry.shape, np.uint8)
    return torch.from_numpy(np.stack([noise, np.zeros_like(noise), np.full_like(noise, LEVELS - 1)]))


def _tried(network: Callable[[Tensor], Any], images: Tensor, name: str, device: torch.device) -> Floats:
    try:
        with torch.no_grad(), computing(STRICT, device):
            found = network(to_device(images, device))
    except NETWORK_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
        raise InputError(
            f"'{name}' cannot take {_kind(images)} ({reason}): export the network for any number of images."
        ) from None
    return _rows(found, len(images), name)


def _rows(found: object, count: int, name: str) -> Floats:
    """What a network gave for `count` images as (count, D), or InputError."""
    tensor = found if isinstance(found, Tensor) else torch.empty(0)
    if not tensor.is_floating_point() or tensor.ndim != 2 or len(tensor) != count or not tensor.shape[1]:
        given = _kind(found) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise InputError(f"'{name}' gives {given} for {count} images: it must give floats ({count}, D).")
    rows = tensor.cpu().double().numpy()
    if not np.isfinite(rows).all():
        raise InputError(f"'{name}' gives features that are NaN or infinite: it must give finite ones.")
    return rows


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _flat(images: Tensor) -> Tensor:
    return images.flatten(1).double() / (LEVELS - 1)
