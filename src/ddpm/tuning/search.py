"""A compass search under a budget: a step in one coordinate is kept if it helps, and steps are halved when none does.

Kolda, Lewis & Torczon 2003, "Optimization by direct search", sec. 1.1. It needs no gradient and tolerates noise.
"""

from __future__ import annotations

from collections.abc import Callable

SMALLEST_STEP = 1 / 16  # of the first one: the search ends there

Point = tuple[float, ...]


def compass(cost: Callable[[Point], float], start: Point, steps: Point, goes_on: Callable[[], bool]) -> Point:
    """The best point found by steps along single coordinates.

    steps    first step in each coordinate
    goes_on  whether the budget allows another round
    """
    best, value, size = start, cost(start), 1.0
    while size >= SMALLEST_STEP and goes_on():
        before = value
        for k in range(len(start)):
            for sign in (1, -1):
                point = (*best[:k], best[k] + sign * size * steps[k], *best[k + 1 :])
                found = cost(point)
                if found < value:
                    best, value = point, found
                    break
        size = size if value < before else size / 2
    return best
