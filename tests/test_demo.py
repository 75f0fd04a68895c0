"""The demo's model draws digits: recognised by a classifier, of every class, and not copied from the training set.

The recipe is trained in full, which takes minutes: these tests are slow ones. `DDPM_DEMO_RUN` names a finished run of
`ddpm train digits` to judge instead.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import ddpm
from ddpm.evaluation.memorisation import held_out_distances, measure_memorisation

pytestmark = pytest.mark.slow

SAMPLES = 500


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """500 samples, the digits, and a classifier fitted on the training part."""
    run = os.environ.get("DDPM_DEMO_RUN") or ddpm.train(ddpm.recipe("digits"), out=tmp_path_factory.mktemp("demo"))
    samples = ddpm.sample(ddpm.load(Path(run)), seeds=range(SAMPLES), batch_size=250)
    training, held_out = ddpm.images("digits:train"), ddpm.images("digits:test")
    classifier = LogisticRegression(max_iter=2_000).fit(flat(training.array()), training.labels)
    return {"samples": samples, "training": training, "held_out": held_out, "classifier": classifier}


def flat(images: np.ndarray) -> np.ndarray:
    """(N, pixels) in [0, 1]."""
    return images.reshape(len(images), -1) / 255


def test_a_classifier_is_nearly_as_sure_of_the_samples_as_of_held_out_digits(judged: dict[str, Any]) -> None:
    def confidence(images: np.ndarray) -> float:
        return float(judged["classifier"].predict_proba(flat(images)).max(1).mean())

    assert confidence(judged["samples"]) >= 0.9 * confidence(judged["held_out"].array())


def test_the_classifier_can_tell_digits_apart(judged: dict[str, Any]) -> None:
    held_out = judged["held_out"]
    assert judged["classifier"].score(flat(held_out.array()), held_out.labels) > 0.95


def test_every_class_is_drawn(judged: dict[str, Any]) -> None:
    shares = np.bincount(judged["classifier"].predict(flat(judged["samples"])), minlength=10) / SAMPLES
    assert shares.min() >= 0.04


def test_samples_are_no_copies_of_training_digits(judged: dict[str, Any]) -> None:
    training, held_out = judged["training"].array(), judged["held_out"].array()
    report = measure_memorisation(judged["samples"], training, held_out_distances(held_out, training))
    assert report.ratio >= 0.8
    assert report.copies <= 0.04
