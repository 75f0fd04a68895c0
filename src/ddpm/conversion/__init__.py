"""Conversion: published models in other layouts become checkpoints of ours."""

from ddpm.conversion.diffusers import convert

__all__ = ["convert"]
