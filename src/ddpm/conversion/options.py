"""The options of a diffusers configuration file: what it says, its class's defaults for the rest, and refusals.

A model that ddpm cannot express is refused by the name and value of the option that makes it different, also where
that option is left at its default: such a network has tensors of the same shapes and would load without an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm.base.fields import MOST_COUNT
from ddpm.errors import InputError


@dataclass(frozen=True)
class Options:
    """One configuration file; an option that its class does not have is refused unless it is null.

    path      of the file, for sentences
    given     what the file says; names with a leading "_" are diffusers' own notes
    defaults  every option of the class that can change the function
    ignored   options that cannot
    """

    path: Path
    given: Mapping[str, Any]
    defaults: Mapping[str, Any]
    ignored: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            known = name.startswith("_") or name in self.defaults or name in self.ignored
            if not known and value is not None:
                raise InputError(
                    f"'{self.path}' has {_said(name, value)}, an option that `ddpm convert` does not know "
                    "and that may change what the model computes."
                )

    def __getitem__(self, name: str) -> Any:
        return self.given.get(name, self.defaults[name])

    def refusal(self, name: str, takes: str) -> InputError:
        """The sentence that names an option, its value, where it comes from, and what ddpm takes instead."""
        origin = "" if name in self.given else " (diffusers' default, the file leaves it out)"
        said = _said(name, self[name])
        return InputError(f"'{self.path}' has {said}{origin}, which ddpm cannot express: it takes {takes}.")

    def require(self, allowed: Mapping[str, Sequence[Any]]) -> None:
        """Refuse unless every option named has one of the values listed for it."""
        for name, values in allowed.items():
            if self[name] not in values:
                raise self.refusal(name, " or ".join(json.dumps(value) for value in values))

    def chosen(self, name: str, meanings: Mapping[str, str]) -> str:
        """ddpm's word for the value of an option that is one of a list."""
        value = self[name]
        if not isinstance(value, str) or value not in meanings:
            raise self.refusal(name, " or ".join(json.dumps(key) for key in meanings))
        return meanings[value]

    def count(self, name: str, most: int = MOST_COUNT) -> int:
        """An option that is a whole number, 1 to `most`."""
        if not is_count(self[name]) or self[name] > most:
            raise self.refusal(name, "a whole number from 1" + f" to {most:,}" * (most < MOST_COUNT))
        return int(self[name])

    def sequence(self, name: str, kind: type) -> list[Any]:
        """An option that is a list of one kind of value, at least one."""
        values = self[name]
        if not isinstance(values, list | tuple) or not values or not all(type(value) is kind for value in values):
            raise self.refusal(name, f"a list of {kind.__name__} values")
        return list(values)


def is_count(value: object) -> bool:
    """Whether a value read from JSON is a whole number from 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _said(name: str, value: object) -> str:
    text = json.dumps(value)
    return f"{name} = {text if len(text) <= 200 else text[:200] + '...'}"
