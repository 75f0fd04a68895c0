"""Conversion: published models in other layouts become checkpoints of ours."""

from ddpm.convert.diffusers import convert

__all__ = ["convert"]
