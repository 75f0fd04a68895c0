"""Training: a folder of images becomes a run folder."""

from ddpm.training.cost import Cost, estimate_cost
from ddpm.training.linear_model import linear_images, make_linear
from ddpm.training.loop import train

__all__ = ["Cost", "estimate_cost", "linear_images", "make_linear", "train"]
