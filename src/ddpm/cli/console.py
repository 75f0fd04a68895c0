"""What commands share: progress on stderr, changes from KEY=VALUE, results as text or JSON."""

from __future__ import annotations

import json
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ddpm.errors import InputError

LINE_SECONDS = 10.0


def say(sentence: str) -> None:
    """A line on stderr."""
    print(sentence, file=sys.stderr, flush=True)


def print_result(table: dict[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """The result on stdout: a JSON object, or lines for a person."""
    print(json.dumps(table, indent=2) if as_json else "\n".join(lines))


def duration(seconds: float) -> str:
    """A time in words: <0.1 s, 45 s, 12 min, 3.5 h, 12 days."""
    if seconds < 0.1:
        return "<0.1 s"
    for unit, length, limit in (("s", 1.0, 90.0), ("min", 60.0, 5400.0), ("h", 3600.0, 172_800.0)):
        if seconds < limit:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 86_400:,.0f} days"


def rounded(amount: float) -> str:
    """A number as a person writes it, three digits or whole: 0.058, 12.4, 1,117."""
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.3g}"


def giga(amount: float) -> str:
    """A number of units in thousands of millions, three digits or whole: 0.058, 12.4, 1,117."""
    return rounded(amount / 1e9)


def parse_changes(settings: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE settings, dotted keys and TOML values (bare words are strings), as a nested table."""
    table: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise InputError(f"--set '{setting}' is not KEY=VALUE; network.channels=64 would fit.")
        *tables, last = (part.strip() for part in key.split("."))
        below = table
        for name in tables:
            below = below.setdefault(name, {})
            if not isinstance(below, dict):
                raise InputError(f"--set '{setting}' goes below '{name}', which was set to a value.")
        below[last] = _value(text)
    return table


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar on stderr, or a plain line every ten seconds when stderr is no terminal.

    yields  a function of (done so far, note)
    """
    if not sys.stderr.isatty():
        yield _plain_lines(title, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda done, note: bar.update(task, completed=min(done, total), note=note)


def counted(bar: Callable[[int, str], None]) -> Callable[[int], None]:
    """Turn a bar that is told where it stands into one that is told how much was added."""
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        bar(done, "")

    return advance


def _plain_lines(title: str, total: int) -> Callable[[int, str], None]:
    last = [time.monotonic() - LINE_SECONDS]

    def update(done: int, note: str) -> None:
        if done >= total or time.monotonic() - last[0] >= LINE_SECONDS:
            last[0] = time.monotonic()
            say(f"{title}: {min(done, total):,} of {total:,}{'  ' + note if note else ''}")

    return update


def toml_lines(table: dict[str, Any]) -> list[str]:
    """A nested table as lines of TOML; what is None becomes a comment."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"{key} = {_toml(value)}" if value is not None else f"# {key} is not set" for key, value in plain.items()]
    for name, below in table.items():
        if isinstance(below, dict):
            lines += ["", f"[{name}]", *toml_lines(below)]
    return lines


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
