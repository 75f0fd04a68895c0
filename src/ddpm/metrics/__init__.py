"""How far one set of images lies from another: Fréchet and kernel distances of features; knows nothing of diffusion."""

from ddpm.metrics.extractors import FEATURES, open_extractor
from ddpm.metrics.features import Extractor, features_of
from ddpm.metrics.frechet import frechet_difference, frechet_distance, frechet_estimate
from ddpm.metrics.jackknife import BLOCKS, Distance
from ddpm.metrics.kernel import kernel_estimate
from ddpm.metrics.statistics import (
    Moments,
    Statistics,
    check_statistics_file,
    is_statistics,
    load_statistics,
    moments,
    save_statistics,
    statistics_of,
)

__all__ = [
    "BLOCKS",
    "FEATURES",
    "Distance",
    "Extractor",
    "Moments",
    "Statistics",
    "check_statistics_file",
    "features_of",
    "frechet_difference",
    "frechet_distance",
    "frechet_estimate",
    "is_statistics",
    "kernel_estimate",
    "load_statistics",
    "moments",
    "open_extractor",
    "save_statistics",
    "statistics_of",
]
