"""Samplers: generators of states with one signature, started from seeds."""

from ddpm.samplers.ancestral import ancestral
from ddpm.samplers.chain import run_chain
from ddpm.samplers.progressive import progressive
from ddpm.samplers.sampling import SAMPLERS, Plan, Sampling, Tuned, plan
from ddpm.samplers.spacing import SPACINGS
from ddpm.samplers.state import State

__all__ = [
    "SAMPLERS",
    "SPACINGS",
    "Plan",
    "Sampling",
    "State",
    "Tuned",
    "ancestral",
    "plan",
    "progressive",
    "run_chain",
]
