"""Denoising diffusion probabilistic models (Ho, Jain & Abbeel, NeurIPS 2020): train, sample, look.

`import ddpm` shows the verbs of `ddpm.api`; they are loaded when first used, so that importing the package is cheap.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm.api import (
        bits_per_dim,
        compare,
        compress,
        convert,
        decompress,
        full_sum,
        images,
        inspect,
        load,
        nearest_neighbours,
        ode_bits_per_dim,
        place_levels,
        rate_distortion,
        recipe,
        sample,
        save_grid,
        save_profile,
        show,
        train,
        tune,
        tune_codec,
    )

__all__ = [
    "__version__",
    "bits_per_dim",
    "compare",
    "compress",
    "convert",
    "decompress",
    "full_sum",
    "images",
    "inspect",
    "load",
    "nearest_neighbours",
    "ode_bits_per_dim",
    "place_levels",
    "rate_distortion",
    "recipe",
    "sample",
    "save_grid",
    "save_profile",
    "show",
    "train",
    "tune",
    "tune_codec",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ddpm")
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("ddpm.api"), name)
    raise AttributeError(f"module 'ddpm' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__


class _Front(ModuleType):
    """Keeps the verbs' names for the verbs: importing ddpm.recipe or ddpm.convert would put those modules there."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Front
