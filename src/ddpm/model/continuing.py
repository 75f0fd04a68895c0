"""From which checkpoint a run goes on: the newest one that a run of the wanted length passes through.

Up to its cool-down a run does not know how long it will be. A checkpoint from before it therefore belongs to longer
runs as well; one from within it belongs to runs of that very length alone.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

from ddpm.errors import DamagedFile, InputError
from ddpm.model.checkpoint import Config, checkpoints, read_config
from ddpm.model.rates import cooldown_start, cooling
from ddpm.model.recipe import Recipe


def config_of(folder: Path) -> Config | None:
    """A checkpoint's configuration, None if it cannot be read."""
    with suppress(DamagedFile, InputError):
        return read_config(folder)
    return None


def newest_before_cooldown(run: Path) -> Path | None:
    """A run's newest checkpoint from before its cool-down: there a longer run goes on. None if it has none."""
    return next((folder for folder in reversed(checkpoints(run)) if _is_before_cooldown(config_of(folder))), None)


def start_of(run: Path, recipe: Recipe) -> Path | None:
    """The checkpoint that a run goes on from by this recipe, None if it has none at all.

    One that cannot be read counts, so that it is not passed over without a word.

    Errors (InputError): a run by this recipe passes through none of them.
    """
    found = checkpoints(run)
    start = next((folder for folder in reversed(found) if _passes(recipe, config_of(folder))), None)
    if found and start is None:
        raise InputError(_no_start(run, read_config(found[-1]).recipe, recipe))
    return start


def _is_before_cooldown(config: Config | None, *others: Recipe) -> bool:
    """Whether a checkpoint's next step has the whole rate, and so all before it had, by its recipe and by others."""
    return config is not None and all(cooling(one, config.images_seen) == 1 for one in (config.recipe, *others))


def _passes(recipe: Recipe, config: Config | None) -> bool:
    """Whether a run by this recipe passes through a checkpoint; as far as is known, where it cannot be read."""
    if config is None or _length(config.recipe) == _length(recipe):
        return True
    return config.images_seen < recipe.train_images and _is_before_cooldown(config, recipe)


def _length(recipe: Recipe) -> tuple[int, int]:
    return cooldown_start(recipe), recipe.train_images


def _no_start(run: Path, old: Recipe, new: Recipe) -> str:
    """Why a run cannot go on by a recipe of another length, and what to do."""
    begun = newest_before_cooldown(run)
    if begun is None:
        return (
            f"'{run}' has cooled down since {cooldown_start(old):,} images, and no checkpoint from before that is "
            f"left to go on from: leave {_keys(old)}, or start again in another --out."
        )
    least = math.ceil(int(begun.name) / (1 - new.training.cooldown))
    return (
        f"'{run}' has no checkpoint from before {cooldown_start(new):,} images, up to where a run by {_keys(new)} is "
        f"the same: choose train_images = {least} or more, or another --out."
    )


def _keys(recipe: Recipe) -> str:
    return f"train_images = {recipe.train_images} and training.cooldown = {recipe.training.cooldown:g}"
