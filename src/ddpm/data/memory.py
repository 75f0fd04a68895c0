"""The memory that all threads may take at a time for images they decode."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MOST_BYTES = 2**30


class Memory:
    """A number of bytes that threads share; an image that takes more than all of it is decoded alone."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)  # a fork has none of the threads that held something

    def _begin(self) -> None:
        self.taken = 0
        self._changed = threading.Condition()
        self._own = threading.local()

    @contextmanager
    def held(self) -> Iterator[None]:
        """What a thread takes in the block is given back when the outermost block of this thread ends."""
        if getattr(self._own, "open", False):
            yield
            return
        self._own.open, self._own.taken = True, 0
        try:
            yield
        finally:
            self._give_back()
            self._own.open = False

    def take(self, count: int) -> None:
        """Wait until so many bytes more are free, or no other thread holds any. While it waits it holds none, so that
        two threads never wait for each other."""
        wanted = self._own.taken + count
        self._give_back()
        with self._changed:
            self._changed.wait_for(lambda: not self.taken or self.taken + wanted <= self.most)
            self.taken += wanted
        self._own.taken = wanted

    def _give_back(self) -> None:
        with self._changed:
            self.taken -= getattr(self._own, "taken", 0)
            self._changed.notify_all()
        self._own.taken = 0


DECODING = Memory(MOST_BYTES)
