"""The learning rate of a run as a function of its recipe and of the images seen: warm-up, constant, cool-down."""

from __future__ import annotations

from ddpm.model.recipe import Recipe


def learning_rate(recipe: Recipe, images_seen: int) -> float:
    """Linear warm-up from 0, then constant (App. B), then linear to 0 over the last `cooldown` of the run (0: never).

    The cool-down is that of Zhai et al. 2022 (Scaling Vision Transformers) and Hägele et al. 2024 (Scaling Laws and
    Compute-Optimal Training Beyond Fixed Training Durations): until it begins, the rate does not depend on how long the
    run will be.
    """
    warmup = recipe.lengths.warmup_images
    warm = min(1.0, images_seen / warmup) if warmup else 1.0
    return recipe.learning_rate * warm * cooling(recipe, images_seen)


def cooldown_start(recipe: Recipe) -> int:
    """Images seen beyond which the rate of a step falls; without a cool-down the run's length."""
    return recipe.train_images - round(recipe.training.cooldown * recipe.train_images)


def cooling(recipe: Recipe, images_seen: int) -> float:
    """The cool-down's factor of the rate, in [0, 1]: exactly 1 up to its start, 0 at the run's end."""
    length = recipe.train_images - cooldown_start(recipe)
    return min(1.0, max(0, recipe.train_images - images_seen) / length) if length else 1.0


def cooldown_begins(recipe: Recipe, images_seen: int) -> bool:
    """Whether a state of so many images is the last before the cool-down: its next step has the whole rate, and the one
    after that has not."""
    return images_seen <= cooldown_start(recipe) < min(images_seen + recipe.batch_size, recipe.train_images)
