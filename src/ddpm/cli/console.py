"""What commands share: settings from KEY=VALUE, numbers as words, results as text or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import typer

from ddpm.base.files import cannot
from ddpm.base.progress import Console, one_line
from ddpm.base.tables import parse_toml
from ddpm.errors import InputError

if TYPE_CHECKING:
    from ddpm.model.model import Model

PROGRESS = Console(lines=True)
"""Sentences, bars on a terminal, lines in a log: on stderr."""


class Report(Protocol):
    """What verbs return: plain values, and lines for a person."""

    def table(self) -> dict[str, Any]: ...

    def lines(self) -> list[str]: ...


def print_report(report: Report, *, as_json: bool) -> None:
    """A verb's report on stdout; files of it that could not be written, of which a warning told, are an exit code."""
    print_result(report.table(), report.lines(), as_json=as_json)
    if getattr(report, "lost", ()):
        sys.exit(InputError.exit_code)


def print_result(table: dict[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """The result on stdout: a JSON object, or lines for a person."""
    try:
        for line in [json.dumps(table, indent=2)] if as_json else lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads the output has read enough: Typer ends without a word
        raise
    except OSError as error:
        raise cannot("standard output", "written", error) from None


class FilesReport(Report, Protocol):
    """A report on files, some of which may be bad."""

    @property
    def exit_code(self) -> int: ...


def print_files(report: FilesReport, problems: Iterable[tuple[str, str]], *, as_json: bool) -> None:
    """A report on stdout, what is wrong with a file on stderr; leave with its exit code unless all is well.

    problems  of each file: its name, and the sentence or ""
    """
    for name, problem in problems:
        if problem:
            PROGRESS.say(one_line(f"ddpm: '{name}': {problem}"))
    print_report(report, as_json=as_json)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def load(run: str, weights: str | None, device: str) -> Model:
    """The model that a command is about."""
    import ddpm

    return ddpm.load(run, weights=weights, device=device)


def rounded(amount: float) -> str:
    """A number as a person writes it, three digits or whole: 0.058, 12.4, 1,117."""
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.3g}"


def giga(amount: float) -> str:
    """A number of units in thousands of millions, three digits or whole: 0.058, 12.4, 1,117."""
    return rounded(amount / 1e9)


def parse_steps(text: str) -> list[int]:
    """Read "5,8,10"."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 10 and int(part) for part in parts):
        raise InputError(f"--steps '{text}' is not understood: write a number of steps, or several, as 5,8,10.")
    return [int(part) for part in parts]


def parse_changes(settings: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE settings, dotted keys and TOML values (bare words are strings), as a nested table."""
    table: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise InputError(f"--set '{setting}' is not KEY=VALUE, such as network.channels=64.")
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
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


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
