"""The exceptions users meet, and the exit code each becomes on the command line.

These become a sentence and a code, as does what the operating system refuses and too small a memory (exit 2); anything
else is a bug in ddpm and keeps its traceback (exit 1).
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

NAMED = 3  # files, images and the like that a sentence names


class DdpmError(Exception):
    """Base of every exception this project raises on purpose; its text is one sentence for the user."""

    exit_code = 1


class InputError(DdpmError, ValueError):
    """The user can fix it: the sentence names the file or option, and says what to do."""

    exit_code = 2


class MixedSizes(InputError):
    """Images differ in size, from each other or from what is needed, and nothing said how to bring them to one."""


class Stopped(DdpmError):
    """Ctrl-C was pressed and nothing is lost; the sentence says how to go on."""

    exit_code = 130


class WrongModel(DdpmError):
    """The file is sound but belongs to another model; the sentence names both."""

    exit_code = 3


class DamagedFile(DdpmError):
    """A file that ddpm wrote is cut short or altered; the sentence names it.

    image  what could be read of a compressed image all the same, uint8 (C, H, W); never the exact one
    """

    exit_code = 4
    image: Any = None


class NotVerified(DdpmError):
    """A compressed image did not decompress to itself: a bug in ddpm, or a machine that does not repeat its results."""


class PartialImageWarning(UserWarning):
    """A compressed file is cut short; what is returned is the image so far."""


def some(names: Sequence[str], most: int = NAMED) -> str:
    """The first few names and how many more there are, "a, b, c and 4 more"."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def nearest(name: str, names: Iterable[str]) -> str:
    """A phrase that offers the closest of some names, or an empty one."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean '{found[0]}'?)" if found else ""


def known(what: str, name: object, names: Iterable[str]) -> None:
    """Raise InputError unless a name, where one is given, is one of those there are."""
    if name is not None and not isinstance(name, str):
        raise InputError(f"{what} is a name, not {name!r}; there are {', '.join(names)}.")
    if name is not None and name not in names:
        raise InputError(f"there is no {what} '{name}'{nearest(name, names)}; there are {', '.join(names)}.")
