"""Tables from files and users, checked field by field: a hash that is right says nothing about what a table holds."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ddpm.errors import DamagedFile, nearest

MOST_COUNT = 10**15
"""Images, calls and the like: more than anyone can make, and no overflow in 64 bits."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, le=MOST_COUNT)]
Word = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""A seed: any number of 64 bits."""

WORDS = {
    "missing": "it is missing",
    "model_type": "this is a table of keys",
    "dict_type": "this is a table of keys",
    "tuple_type": "input should be a list",
    "list_type": "input should be a list",
    "too_short": "the list is too short",
}


class Fields(BaseModel):
    """The fields that a table must have, by name; their types are taken literally, and others are let pass."""

    model_config = ConfigDict(strict=True, extra="ignore")


def check_fields(table: object, fields: type[Fields], path: Path, advice: str = "") -> None:
    """Raise DamagedFile, with the first field that is wrong, unless a table read from `path` has the fields.

    advice  what to do, for the error's sentence
    """
    try:
        fields.model_validate(table)
    except ValidationError as error:
        raise DamagedFile(f"'{path}' is damaged: {complaint(error)}{'; ' * bool(advice)}{advice}.") from None


def has_fields(table: object, fields: type[Fields]) -> bool:
    """Whether a table has the fields."""
    try:
        fields.model_validate(table)
    except ValidationError:
        return False
    return True


def complaint(error: ValidationError, table: type[BaseModel] | None = None) -> str:
    """What is wrong with the first field that is.

    table  that was wanted, to tell which of its keys an unknown one may mean
    """
    first = error.errors(include_url=False, include_context=False)[0]
    where = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden" and table is not None:
        keys, above = _keys(table), where[:-1]
        here = [key for key in keys if key.split(".")[:-1] == above]
        meant = " or ".join(f"'{key}'" for key in keys if key.split(".")[-1] == where[-1])
        hint = f" (did you mean {meant}?)" if meant else nearest(".".join(where), here)
        return f"there is no key '{'.'.join(where)}'{hint}; valid here: {', '.join(here)}"
    message = WORDS.get(first["type"], first["msg"][:1].lower() + first["msg"][1:])
    given = "" if first["type"] == "missing" else f" (it is {shown(first['input'])})"
    return f"key '{'.'.join(where)}': {message}{given}"


def _keys(table: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted keys of a table."""
    found: list[str] = []
    for name, field in table.model_fields.items():
        found.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _keys(field.annotation, f"{prefix}{name}.")
    return found


def shown(value: Any) -> str:
    """A value in few words, whatever it is."""
    try:
        return _BRIEF.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 200
