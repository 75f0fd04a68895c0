"""Judge a finished demo: do a classifier and the training set take its digits for real, and for new ones?

    time make demo
    python benchmarks/demo.py runs/demo --seconds 215

Writes results/demo.json; `--seconds` records what the wall clock said of `make demo` without its set-up.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from record import write_result
from sklearn.linear_model import LogisticRegression

import ddpm
from ddpm.evaluation.memorisation import held_out_distances, measure_memorisation

SAMPLES = 500


def flat(images: np.ndarray) -> np.ndarray:
    """(N, pixels) in [0, 1]."""
    return images.reshape(len(images), -1) / 255


def main() -> None:
    """Draw 500 digits and write down what they are worth."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--seconds", type=float, help="of `make demo`, once set up")
    options = parser.parse_args()
    model = ddpm.load(options.run)
    samples = ddpm.sample(model, seeds=range(SAMPLES), batch_size=250)
    training, held_out = ddpm.images("digits:train"), ddpm.images("digits:test")
    classifier = LogisticRegression(max_iter=2_000).fit(flat(training.array()), training.labels)
    sure, usual = (
        float(classifier.predict_proba(flat(images)).max(1).mean()) for images in (samples, held_out.array())
    )
    report = measure_memorisation(samples, training.array(), held_out_distances(held_out.array(), training.array()))
    lines = [json.loads(line) for line in Path(options.run, "metrics.jsonl").read_text().splitlines()]
    write_result(
        "demo",
        {
            "make_demo_seconds": options.seconds,
            "images_seen": model.images_seen,
            "training_images_per_second_median": float(np.median([line["images_per_second"] for line in lines])),
            "samples": SAMPLES,
            "classifier_accuracy_held_out": float(classifier.score(flat(held_out.array()), held_out.labels)),
            "confidence_samples": sure,
            "confidence_held_out": usual,
            "confidence_ratio": sure / usual,
            "class_shares": (np.bincount(classifier.predict(flat(samples)), minlength=10) / SAMPLES).tolist(),
            **report.table(),
        },
        seed=0,
    )


if __name__ == "__main__":
    main()
