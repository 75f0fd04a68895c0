"""What `ddpm tune` measures once and stores beside the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ddpm.data import ImageSet
from ddpm.errors import InputError
from ddpm.files import writable_folder
from ddpm.likelihood.measure import COMMON, DECODER_LEVELS, calls_needed, measure
from ddpm.model import Model
from ddpm.scored import scoring_for
from ddpm.tuned import Variances, hashes, write_variances

CALLS_PER_LEVEL = 32
POOL = 2048  # different images used at most; their hashes are kept, so that they are never scored


def tune_variance(
    model: Model,
    images: ImageSet,
    *,
    calls: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    on_calls: Callable[[int], None] = lambda calls: None,
) -> tuple[Path, Variances]:
    """Measure the optimal reverse variances and store them beside the checkpoint; returns the file and its content.

    images  never those that will be scored; the training images, usually
    calls   network calls in all; None takes CALLS_PER_LEVEL a level, more at the first

    Errors (InputError): images of another geometry or class set, too few calls, a checkpoint that cannot be written to.
    """
    each = _each(model.recipe.process.steps, calls)
    writable_folder(model.source)
    used = each * max(COMMON, model.recipe.process.steps - DECODER_LEVELS)  # each image of the pool at least once
    scoring = scoring_for(model, images, limit=min(POOL, used), seed=seed, batch_size=batch_size, on_calls=on_calls)
    variances = Variances(
        measure(scoring, each),
        model.weights,
        model.weights_sha256,
        images.name,
        images.fingerprint,
        tuple(hashes(scoring.images.read(np.arange(len(scoring.images))))),
        seed,
        calls_needed(scoring.chain.steps, each),
    )
    return write_variances(Path(model.source), variances), variances


def calls_made(steps: int, calls: int | None) -> int:
    """How many network calls a budget becomes on a process of so many steps."""
    return calls_needed(steps, _each(steps, calls))


def _each(steps: int, calls: int | None) -> int:
    least = calls_needed(steps, 1)
    each = CALLS_PER_LEVEL if calls is None else calls // least
    if each < 1:
        raise InputError(f"{calls} network calls do not reach every level; {least} would fit.")
    return each
