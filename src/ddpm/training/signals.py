"""Signals that ask a run to end: the step in hand ends whole and is saved, what can be made again is broken off."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

ASKING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Ctrl-C, a scheduler, a terminal that closes, a scheduler's warning; Windows has the first two."""


class _BrokenOff(BaseException):
    """A signal came during work that can be made again."""


class Stop:
    """What a run knows of signals.

    number  of the first signal that came, 0 before one did
    """

    def __init__(self) -> None:
        self.number = 0
        self._inside = False

    def unless_stopped(self, act: Callable[..., None], *given: object) -> None:
        """Do what can be made again later: not after a signal, and no further where one meets it."""
        if self.number:
            return
        try:
            self._inside = True
            try:
                act(*given)
            finally:
                self._inside = False
        except _BrokenOff:
            pass

    def note(self, number: int) -> None:
        """Take a signal."""
        self.number = number
        if self._inside:
            raise _BrokenOff


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Note the first signal of ASKING; a second one acts as usual, but for SIGHUP, which a closed terminal sends twice.

    A signal that is ignored (nohup) stays ignored.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [getattr(signal, name) for name in ASKING if hasattr(signal, name)]
    found = {number: signal.getsignal(number) for number in numbers}
    previous = {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}
    hung_up = {number: signal.SIG_IGN for number in previous if signal.Signals(number).name == "SIGHUP"}

    def take(number: int, frame: object) -> None:
        _handle(previous | hung_up)
        stop.note(number)

    _handle(dict.fromkeys(previous, take))
    try:
        yield stop
    finally:
        _handle(previous)


def _handle(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
