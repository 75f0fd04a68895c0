"""Progress of a verb: sentences, and stages that count up. All verbs report through one `Progress`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

Advance = Callable[..., None]
"""Told how many more units of a stage are done: advance(4), perhaps with a note, advance(4, "loss 0.03")."""

LINE_SECONDS = 10.0


def unheard(more: int, note: str = "") -> None:
    """An Advance that shows nothing."""


def one_line(text: str) -> str:
    """Names of files may hold line ends, escape sequences and bytes that are no text: these are written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def duration(seconds: float) -> str:
    """A time in words: <0.1 s, 45 s, 12 min, 3.5 h, 12 days."""
    if seconds < 0.1:
        return "<0.1 s"
    for unit, length, limit in (("s", 1.0, 90.0), ("min", 60.0, 5400.0), ("h", 3600.0, 172_800.0)):
        if seconds < limit:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds / 86_400:,.0f} days"


class Progress:
    """What a verb reports to; this one is silent. A subclass may show, or keep, what it is told."""

    def say(self, sentence: str) -> None:
        """A sentence: what will be done, at what cost, where a file went."""

    @contextmanager
    def stage(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Work of `total` units, some of which may be done already; yields an Advance."""
        yield unheard


SILENT = Progress()


class Console(Progress):
    """Sentences and bars on stderr.

    lines  where stderr is no terminal, print a plain line of progress every ten seconds (for logs)
    """

    def __init__(self, *, lines: bool = False) -> None:
        self.lines = lines
        self.bars: Any = None  # rich's, while a stage is shown

    def say(self, sentence: str) -> None:
        """A line on stderr, if anybody is left to read it: work goes on when a terminal or a pipe was closed."""
        with suppress(OSError):
            if self.bars is not None:
                self.bars.console.print(sentence, markup=False, highlight=False, soft_wrap=True)
            else:
                print(sentence, file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """A bar of its own, below that of a stage around it; no work shows nothing."""
        if not total or not sys.stderr.isatty():
            yield self._plain(title, total, done) if self.lines and total else unheard
            return
        outer, bars = self.bars, self.bars or _bars()
        task = bars.add_task(title, total=total, completed=done, note="")
        if outer is None:
            self.bars = bars
            with suppress(OSError):
                bars.start()
        try:
            yield lambda more, note="": bars.update(task, advance=more, note=note)
        finally:
            with suppress(OSError):  # the terminal may be closed by now
                if outer is None:
                    self.bars = None
                    bars.stop()
                else:
                    bars.remove_task(task)

    def _plain(self, title: str, total: int, done: int) -> Advance:
        last = time.monotonic() - LINE_SECONDS

        def advance(more: int, note: str = "") -> None:
            nonlocal done, last
            done += more
            if more and (done >= total or time.monotonic() - last >= LINE_SECONDS):
                last = time.monotonic()
                self.say(f"{title}: {min(done, total):,} of {total:,}{'  ' + note if note else ''}")

        return advance


def _bars() -> Any:
    """Short columns, so that a note still fits into 80 characters."""
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
    )
    return Bars(*columns, console=Terminal(stderr=True))


def progress_of(wanted: Progress | bool) -> Progress:
    """The reporter a caller wants: its own, none (False), or a bar on stderr where that is a terminal (True)."""
    if isinstance(wanted, Progress):
        return wanted
    return Console() if wanted and sys.stderr.isatty() else SILENT
