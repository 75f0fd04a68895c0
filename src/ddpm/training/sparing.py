"""What a run shows of itself may take a small share of its time, however fast it learns."""

from __future__ import annotations

import time
from collections.abc import Callable

SHARE = 0.02  # of the time


class Sparing:
    """Work that is left out where it would take more than a share of the time since it was last done."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._not_before = clock()

    def __call__(self, work: Callable[[], None]) -> None:
        """Do the work the first time, and then where enough time has passed for what it took last."""
        start = self._clock()
        if start >= self._not_before:
            work()
            end = self._clock()
            self._not_before = end + (end - start) / SHARE
