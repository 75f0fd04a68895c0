"""Denoising diffusion probabilistic models (Ho, Jain & Abbeel, NeurIPS 2020): train, sample, score, compress.

`import ddpm` shows the verbs of `ddpm.api`; they are loaded when first used, so that importing the package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm.api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ddpm")
    if name == "__all__" or not name.startswith("_"):
        api = import_module("ddpm.api")
        if name == "__all__" or name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module 'ddpm' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*import_module("ddpm.api").__all__, "__version__"]
