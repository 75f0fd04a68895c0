"""What judges samples of Fashion-MNIST: the features of a classifier, raw pixels, and a perceptron's hidden layer."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import ddpm
from ddpm.base.geometry import Geometry
from ddpm.data.sources import ImageSet
from ddpm.metrics.extractors import open_extractor
from ddpm.metrics.features import Extractor, features_of
from ddpm.metrics.frechet import frechet_difference, frechet_distance, frechet_estimate
from ddpm.metrics.kernel import kernel_estimate
from ddpm.metrics.statistics import Statistics, moments, statistics_of


class Perceptron:
    """Features that nothing was tuned in: the hidden layer of a small perceptron, trained on the training images."""

    def __init__(self, images: ImageSet) -> None:
        self.network = MLPClassifier((128,), max_iter=6, batch_size=256, random_state=0, verbose=False)
        assert images.labels is not None
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            self.network.fit(self._flat(torch.from_numpy(images.array())), images.labels)

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """(N, 128) float64."""
        return np.maximum(self._flat(images) @ self.network.coefs_[0] + self.network.intercepts_[0], 0)

    @staticmethod
    def _flat(images: torch.Tensor) -> np.ndarray:
        return images.flatten(1).numpy().astype(np.float64) / 255


class Judge:
    """Features of the test set, and distances to it; raw pixels and a perceptron's beside them."""

    def __init__(self, geometry: Geometry, data: str, features: str) -> None:
        self.extractor = open_extractor(features, geometry, torch.device("cpu"))
        test = torch.from_numpy(ddpm.images(f"{data}:test").array())
        self.test = self.features(test)
        self.images = ddpm.images(f"{data}:train")
        self.train = self.features(torch.from_numpy(self.images.array()))
        self.reference: Statistics = statistics_of(self.test, extractor=self.extractor.sha256)
        self.pixels = open_extractor("pixels", geometry, torch.device("cpu"))
        self.in_pixels = statistics_of(_seen_by(self.pixels, test))
        self.perceptron = Perceptron(self.images)
        self.in_perceptron = statistics_of(self.perceptron(test))

    def features(self, images: torch.Tensor) -> np.ndarray:
        """(N, D) float64."""
        return _seen_by(self.extractor, images)

    def some_training_images(self, count: int) -> np.ndarray:
        """Which ones stand beside as many samples: their numbers, always the same."""
        return np.random.default_rng(0).choice(len(self.train), count, replace=False)

    def elsewhere(self, images: torch.Tensor) -> dict[str, Any]:
        """Fréchet distances in raw pixels and in the perceptron."""
        found = moments(_seen_by(self.pixels, images))
        return {
            "fid_in_pixels": round(frechet_distance(found, self.in_pixels), 5),
            "fid_in_perceptron": estimate(frechet_estimate(self.perceptron(images), self.in_perceptron)),
        }

    def by_all(self, images: torch.Tensor) -> dict[str, dict[str, float]]:
        """Fréchet distances in the eyes of all three, with jackknife errors."""
        return {
            "classifier": estimate(frechet_estimate(self.features(images), self.reference)),
            "pixels": estimate(frechet_estimate(_seen_by(self.pixels, images), self.in_pixels)),
            "perceptron": estimate(frechet_estimate(self.perceptron(images), self.in_perceptron)),
        }

    def row(self, features: np.ndarray, thousand: np.ndarray | None = None) -> dict[str, Any]:
        """Distances, with jackknife errors; against the 1,000-step chain, paired by seed."""
        found = {"fid": estimate(frechet_estimate(features, self.reference))}
        found["kid"] = estimate(kernel_estimate(features, self.test))
        if thousand is not None:
            found["fid_minus_1000_steps"] = estimate(frechet_difference(features, thousand, self.reference))
        return found


def _seen_by(extractor: Extractor, images: torch.Tensor) -> np.ndarray:
    return features_of(extractor, torch.split(images.contiguous(), 256))


def estimate(found: Any) -> dict[str, float]:
    """For JSON."""
    return {key: round(float(getattr(found, key)), 5) for key in ("value", "error", "bias")}
