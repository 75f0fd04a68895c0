"""How long a run warms up, and how often it logs, shows, saves and validates, where its recipe leaves that open.

All of it follows from the run's length, in whole batches: five minutes have a curve and several previews, and a night
loses no time to any of it. What is set is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ddpm.model.recipe_tables import TrainingTable

WARMUP_STEPS, WARMUP_SHARE = 500, 20
"""A warm-up of so many steps, but at most a twentieth of the run."""
LINES, STEPS_A_LINE = 250, (4, 100)
"""So many lines of the log, but a line is of so few and so many steps: one of fewer is the noise of its batches, which
alarms would take for news, and many say soon that something is wrong."""
PREVIEWS, FIRST_PREVIEW = 16, 32
"""So many previews, and before the first of them some after so many steps, twice as many, four times as many ..."""
CHECKPOINTS, STEPS_SAVED = 20, 20
"""So many checkpoints, fewer where they would lie closer than so many steps."""
VALIDATIONS, CALLS_SPARED = 20, 16
"""So many validations, fewer where a call would come on fewer trained images: with a call at a third of the cost of a
trained image, they take 2 % of the time."""


class Lengths(NamedTuple):
    """The lengths of a run, in images seen; see TrainingTable."""

    warmup_images: int
    log_images: int
    sample_images: int
    checkpoint_images: int
    validate_images: int


def lengths(training: TrainingTable, train_images: int, batch_size: int) -> Lengths:
    """What a recipe sets, and where it sets nothing what suits a run of so many images."""
    steps, apart = -(-train_images // batch_size), -(-CALLS_SPARED * training.validation_calls // batch_size)
    suiting = Lengths(
        warmup_images=min(WARMUP_STEPS * batch_size, train_images // WARMUP_SHARE),
        log_images=batch_size * min(max(steps // LINES, STEPS_A_LINE[0]), STEPS_A_LINE[1]),
        sample_images=batch_size * max(steps // PREVIEWS, FIRST_PREVIEW),
        checkpoint_images=batch_size * max(steps // CHECKPOINTS, STEPS_SAVED),
        validate_images=batch_size * max(steps // VALIDATIONS, apart),
    )
    held = {name: getattr(training, name) for name in Lengths._fields}
    return suiting._replace(**{name: images for name, images in held.items() if images is not None})


Marks = Callable[[int], int]
"""How many marks were passed, by images seen."""


def every(images: int) -> Marks:
    """Marks at the multiples of so many images."""
    return lambda seen: seen // images


def doubling(first: int, images: int) -> Marks:
    """The same, and before the first of them at `first`, twice that, four times that ..."""
    return lambda seen: (min(seen, images - 1) // first).bit_length() + seen // images


def preview_marks(sizes: Lengths, batch_size: int) -> Marks:
    """Where previews are due."""
    return doubling(FIRST_PREVIEW * batch_size, sizes.sample_images)
