"""What a run shows of itself may take a small share of its time, however fast it learns."""

from __future__ import annotations

import time
from collections.abc import Callable

SHARE = 0.02  # of the time
GRACE = 5.0  # seconds beyond it, so that the first minute of a run shows something


class Sparing:
    """Work that is left out where all of it together would take more than its share of the time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._start = clock, clock()
        self._spent = self._last = 0.0

    def __call__(self, work: Callable[..., None], *given: object) -> None:
        """Do the work the first time, and then where there is time for what it took last."""
        start = self._clock()
        if self._spent + self._last <= SHARE * (start - self._start) + GRACE:
            work(*given)
            self._last = self._clock() - start
            self._spent += self._last
