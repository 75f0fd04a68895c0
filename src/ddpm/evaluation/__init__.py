"""Evaluation: what pictures are worth."""

from ddpm.evaluation.neighbours import METRICS, NeighbourReport, nearest_neighbours, neighbour_report, require_held_out

__all__ = ["METRICS", "NeighbourReport", "nearest_neighbours", "neighbour_report", "require_held_out"]
