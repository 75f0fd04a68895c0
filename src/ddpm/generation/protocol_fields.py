"""What says how images were drawn, checked field by field: a hash that is right proves nothing about the content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddpm.errors import DamagedFile

LARGEST = 1e308
MOST_SHOWN = 16  # characters of a value in an error's sentence
ADVICE = "choose another output, or remove it"


def _text(value: object) -> bool:
    return type(value) is str


def _count(value: object) -> bool:
    return type(value) is int and 0 < value < LARGEST


def _index(value: object) -> bool:
    return type(value) is int and 0 <= value < LARGEST


def _number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and -LARGEST < value < LARGEST  # not NaN


def _or_none(is_one: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or is_one(value)


FIELDS: dict[str, Callable[[object], bool]] = {
    "weights": _text,
    "weights_sha256": _text,
    "sampler": _text,
    "steps": _count,
    "calls": _count,
    "spacing": _text,
    "levels": lambda value: value == "all" or (isinstance(value, list) and all(map(_number, value))),
    "eta": _or_none(_number),
    "variance": _or_none(_text),
    "measured_sha256": _or_none(_text),
    "threshold": _text,
    "guidance": _number,
    "class": _or_none(_index),
}
"""Of draw.protocol."""


def checked_protocol(protocol: object, path: Path) -> dict[str, Any]:
    """A protocol as draw.protocol makes it; DamagedFile names the first field that is missing or of another kind."""
    table = protocol if isinstance(protocol, dict) else {}
    for name, is_one in FIELDS.items():
        if name not in table or not is_one(table[name]):
            given = f"{name} is {str(table[name])[:MOST_SHOWN]}" if name in table else f"it has no {name}"
            raise DamagedFile(f"'{path}' is damaged or was edited ({given}): {ADVICE}.")
    return table


def checked_names(names: object, path: Path) -> list[str]:
    """Names of classes; DamagedFile if they are something else."""
    if not isinstance(names, list) or not all(map(_text, names)):
        raise DamagedFile(f"'{path}' is damaged or was edited (class_names is no list of names): {ADVICE}.")
    return names
