"""Samplers: generators of states with one signature, started from seeds."""

from ddpm.samplers.ancestral import ancestral
from ddpm.samplers.chain import PAPER, SAMPLERS, Sampling, run_chain
from ddpm.samplers.progressive import progressive
from ddpm.samplers.state import State

__all__ = ["PAPER", "SAMPLERS", "Sampling", "State", "ancestral", "progressive", "run_chain"]
