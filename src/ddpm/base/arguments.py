"""Arguments of functions, checked against their annotations: one of another type is an InputError that names it."""

from __future__ import annotations

import functools
import inspect
import numbers
import operator
import re
import types
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, Union, Unpack, get_args, get_origin, get_type_hints

import numpy as np

from ddpm.base.files import cannot
from ddpm.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R], advice: Mapping[str, str], positive: Container[str]) -> Callable[P, R]:
    """The function, its arguments first converted to the types of its annotations: NumPy's numbers to Python's.

    What the operating system refuses, and no place nearer has a sentence for, is an InputError too.

    advice    by an argument's name: where to get one, for the error's sentence
    positive  names of whole numbers that are at least 1

    Images and other arrays are passed on as they are: the function checks them.
    """
    names, hints = list(inspect.signature(function).parameters), functools.cache(lambda: _hints(function))

    def argument(name: str, value: Any) -> Any:
        hint = hints().get(name, Any)
        try:
            value = _converted(value, hint)
        except (TypeError, ValueError):
            words = re.sub(r"[\w.]+\.", "", inspect.formatannotation(hint))
            shown = " ".join(repr(value).split())[:60]
            raise InputError(f"{name} must be {words}, not {shown}{advice.get(name, '')}.") from None
        if name in positive and value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, not {value}.")
        if Path in get_args(hint) and value == "":
            raise InputError(f"{name} is an empty path: name a file or a folder.")
        return value

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = [argument(name, value) for name, value in zip(names, args, strict=False)]
        named = {name: argument(name, value) for name, value in kwargs.items()}
        try:
            return function(*given, *args[len(names) :], **named)  # type: ignore[arg-type]
        except OSError as error:
            raise cannot(error.filename or "a file", "read or written", error) from error

    return call


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """By name; the options in **how: Unpack[Options] each by its own."""
    hints = get_type_hints(function)
    options = [get_args(hint)[0] for hint in hints.values() if get_origin(hint) is Unpack]
    return functools.reduce(operator.or_, map(get_type_hints, options), hints)


def _converted(value: Any, hint: Any) -> Any:
    """A value of the type that an annotation names, or TypeError."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return _first(value, parts)
    if kind in (Iterable, Sequence) and not isinstance(value, str | bytes | Mapping):
        return [_converted(item, parts[0]) for item in value]
    if kind is int and not isinstance(value, bool):
        return operator.index(value)
    if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    if kind is bool and isinstance(value, np.bool_):
        return bool(value)
    if kind is Any or (isinstance(value, kind) and kind not in (int, Iterable, Sequence)):
        return value
    raise TypeError


def _first(value: Any, hints: Sequence[Any]) -> Any:
    """A value of the first type that it is of."""
    if any(hint.__module__.startswith("numpy") for hint in hints):
        return value
    for hint in hints:
        try:
            return _converted(value, hint)
        except (TypeError, ValueError):
            continue
    raise TypeError
