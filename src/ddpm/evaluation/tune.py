"""What `ddpm tune` measures once and stores beside the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ddpm.data import ImageSet, Reader
from ddpm.likelihood.measure import calls_needed, measure
from ddpm.likelihood.scoring import Scoring
from ddpm.model import Model
from ddpm.scored import check_fits, chosen_rows, class_numbers, scored_denoiser
from ddpm.tuned import Variances, hashes, write_variances

POOL = 2048  # different images used at most; their hashes are kept, so that they are never scored


def tune_variance(
    model: Model,
    images: ImageSet,
    *,
    each: int = 32,
    seed: int = 0,
    batch_size: int = 128,
    on_calls: Callable[[int], None] = lambda calls: None,
) -> tuple[Path, Variances]:
    """Measure the optimal reverse variances and store them beside the checkpoint; returns the file and its content.

    images  never those that will be scored; the training images, usually
    each    network calls per level
    """
    check_fits(model, images)
    rows = chosen_rows(len(images), POOL, seed)
    reader = Reader(images, rows)
    denoiser = scored_denoiser(model)
    labels = class_numbers(model, images, rows)
    scoring = Scoring(
        denoiser,
        reader,
        denoiser.process.schedule,
        labels=labels,
        seed=seed,
        batch_size=batch_size,
        device=model.device,
        on_calls=on_calls,
    )
    variances = Variances(
        measure(scoring, each),
        model.weights,
        model.weights_sha256,
        images.name,
        images.fingerprint,
        tuple(hashes(reader.read(np.arange(len(reader))))),
        seed,
        calls_needed(scoring.chain.steps, each),
    )
    return write_variances(Path(model.source), variances), variances
