"""Arguments of functions, checked against their annotations: one of another type is an InputError that names it."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import numbers
import operator
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, Union, Unpack, get_args, get_origin, get_type_hints

import numpy as np

from ddpm.base.fields import shown
from ddpm.base.files import cannot
from ddpm.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


MOST_ITEMS = 10**7  # of a list, such as seeds
LIMITS: Mapping[str, tuple[float, float]] = {
    "batch_size": (1, 65_536),
    "calls": (-math.inf, 10**8),
    "columns": (1, 10_000),
    "count": (1, 10_000),
    "fit_steps": (1, 10**7),
    "samples": (-math.inf, 10**6),
    "solver_steps": (-math.inf, 10**5),
    "trials": (-math.inf, 10**5),
}
"""Of numbers that memory and time grow with, by the names of arguments: what is beyond is a slip. Where there is no
least number here, the function says which it is."""


def checked(
    function: Callable[P, R], advice: Mapping[str, str], limits: Mapping[str, tuple[float, float]] = LIMITS
) -> Callable[P, R]:
    """The function, its arguments first converted to the types of its annotations: NumPy's numbers to Python's.

    What the operating system refuses, and no place nearer has a sentence for, is an InputError too.

    advice  by an argument's name: where to get one, for the error's sentence
    limits  by an argument's name: the least and the largest number that it may be

    Images and other arrays are passed on as they are: the function checks them.
    """
    names, hints = list(inspect.signature(function).parameters), functools.cache(lambda: _hints(function))

    def argument(name: str, value: Any) -> Any:
        hint = hints().get(name, Any)
        try:
            value = _converted(value, hint)
        except (TypeError, ValueError):
            words = re.sub(r"[\w.]+\.", "", inspect.formatannotation(hint))
            given = " ".join(shown(value).split())[:60]
            raise InputError(f"{name} must be {words}, not {given}{advice.get(name, '')}.") from None
        except OverflowError:
            raise InputError(
                f"{name} is a number of more than 64 bits, or more than {MOST_ITEMS:,} of them: choose fewer."
            ) from None
        if name in limits and isinstance(value, int) and not isinstance(value, bool):
            low, high = limits[name]
            if not low <= value <= high:
                bound = f"least {low:,}" if value < low else f"most {high:,}"
                raise InputError(f"{name} must be at {bound}, not {value}.")
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
    hint = getattr(hint, "__value__", hint)  # of an alias made with `type`, as NumPy's from 2.5 on
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return _first(value, parts)
    if kind in (Iterable, Sequence) and not isinstance(value, str | bytes | Mapping):
        if operator.length_hint(value) > MOST_ITEMS:
            raise OverflowError
        items = list(itertools.islice(value, MOST_ITEMS + 1))
        if len(items) > MOST_ITEMS:
            raise OverflowError
        return [_converted(item, parts[0]) for item in items]
    if kind is int and not isinstance(value, bool):
        number = operator.index(value)
        if not -(2**63) <= number < 2**63:
            raise OverflowError
        return number
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
