"""Evaluation: what pictures are worth, and how many bits images cost."""

from ddpm.evaluation.distance import DISTANCES, Comparison, compare
from ddpm.evaluation.full import FullSum, full_sum
from ddpm.evaluation.neighbours import NeighbourReport, nearest_neighbours, neighbour_report, require_held_out
from ddpm.evaluation.ode import OdeBound, ode_bound
from ddpm.evaluation.tune import tune_variance

METRICS = ("bits", "rate", "ode", "codec", "neighbours", *DISTANCES)

__all__ = [
    "METRICS",
    "Comparison",
    "FullSum",
    "NeighbourReport",
    "OdeBound",
    "compare",
    "full_sum",
    "nearest_neighbours",
    "neighbour_report",
    "ode_bound",
    "require_held_out",
    "tune_variance",
]
