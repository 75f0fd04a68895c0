"""Training: a folder of images becomes a run folder."""

from ddpm.training.estimate import Estimate, estimate
from ddpm.training.loop import Progress, train

__all__ = ["Estimate", "Progress", "estimate", "train"]
