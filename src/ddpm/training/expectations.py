"""What a run says to expect of it: how long it takes, when samples become recognisable, what its numbers mean."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable

from ddpm.base.progress import duration
from ddpm.model.lengths import preview_marks
from ddpm.model.recipe import Recipe

STEPS_TO_SEE = ((8, 100), (32, 500))
"""Steps after which a person recognises something in a preview, by the longer side of images, up to so many pixels;
the warm-up is over by then.

Seen: strokes of digits, 8 x 8, after 97 steps of 128 images; garments of Fashion-MNIST, 28 x 28, after 575 steps of 32
with the linear correction, and none after 128. Larger images have not been measured.
"""
SPEED_SECONDS = 10.0  # of training, after which its speed is known
PREDICTED = {"eps": "noise", "x0": "clean image", "v": "v (noise and image mixed)", "mean": "posterior mean"}


def images_to_see(recipe: Recipe) -> int | None:
    """Images after which something is recognisable, roughly; None for what has not been measured: larger images, and
    an EMA without its ramp, which holds little but the first weights until long after that."""
    side = max(recipe.geometry.size)
    steps = next((steps for longest, steps in STEPS_TO_SEE if side <= longest and recipe.training.ema_ramp), None)
    return None if steps is None else max(steps * recipe.batch_size, recipe.lengths.warmup_images)


def preview_after(recipe: Recipe, images: int) -> int:
    """Images seen at the first preview of at least so many; the last one is at the end of the run."""
    marks, size = preview_marks(recipe.lengths, recipe.batch_size), recipe.batch_size
    steps = range(-(-recipe.train_images // size))
    return size * bisect_right(steps, marks(images - 1), key=lambda step: marks(size * step))


def timing(recipe: Recipe, images_per_second: float, seen: int = 0) -> list[str]:
    """Sentences: how long a run takes from here, and when its samples become recognisable.

    images_per_second  of training on this machine
    """
    rest = duration((recipe.train_images - seen) / images_per_second)
    whole = f"On this machine the run takes about {rest}{' more' if seen else ''}."
    return [whole, *recognisable(recipe, images_per_second, seen)]


def recognisable(recipe: Recipe, images_per_second: float, seen: int = 0) -> list[str]:
    """The sentences about samples alone; none where they are recognisable already."""
    wanted = images_to_see(recipe)
    if wanted is None:
        return ["When samples of such a run become recognisable has not been measured."]
    if wanted > recipe.train_images:
        return [f"Samples become recognisable after about {wanted:,} images; this run ends before."]
    if wanted <= seen:
        return []
    preview = preview_after(recipe, wanted)
    return [
        f"Samples become recognisable after about {wanted:,} images.",
        f"The preview of {preview:,} images comes in {duration((preview - seen) / images_per_second)}.",
    ]


def meaning(recipe: Recipe) -> list[str]:
    """Sentences: what the loss says, and the bits/dim of a validation."""
    found = [f"loss: {_loss(recipe)}.", "Compare losses only of runs with the same schedule and objective."]
    if recipe.validation is not None:
        found.append("bits/dim: what lossless compression takes at most; 8 is raw, less is better.")
    return found


def _loss(recipe: Recipe) -> str:
    """What the loss of a log line is, see training.levels for its weights."""
    objective = recipe.objective
    if objective.loss == "bound":
        return "a noisy estimate of the bound on training images, in bits/dim"
    if objective.weighting == "min-snr":
        return "the squared error of the clean image, times min(SNR, 5)"
    if objective.weighting != "none" and recipe.network.linear != "none":
        return "the squared error over that of a linear prediction; 1 is knowing no more"
    nothing = "; 1 is knowing nothing" if objective.prediction == "eps" else ""
    return f"the mean squared error of the predicted {PREDICTED[objective.prediction]}{nothing}"


class Expecting:
    """Says once what to expect of the time, as soon as the speed is known; the first step is not timed."""

    def __init__(self, recipe: Recipe, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._recipe, self._say, self._clock = recipe, say, clock
        self._first: tuple[int, float] | None = None
        self._said = False

    def __call__(self, seen: int) -> None:
        """Take note of a step, after which so many images were seen."""
        if self._said:
            return
        now = self._clock()
        images, start = self._first = self._first or (seen, now)
        if now - start >= SPEED_SECONDS:
            self._said = True
            for sentence in timing(self._recipe, (seen - images) / (now - start), seen):
                self._say(sentence)
