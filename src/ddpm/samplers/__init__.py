"""Samplers: generators of states with one signature, started from seeds."""

from ddpm.samplers.ancestral import ancestral
from ddpm.samplers.base import State
from ddpm.samplers.plan import SAMPLERS, Plan, Sampling, SamplingOptions, Tuned, plan
from ddpm.samplers.spacing import SPACINGS
from ddpm.samplers.trajectory import predicted_images, trajectory

__all__ = [
    "SAMPLERS",
    "SPACINGS",
    "Plan",
    "Sampling",
    "SamplingOptions",
    "State",
    "Tuned",
    "ancestral",
    "plan",
    "predicted_images",
    "trajectory",
]
