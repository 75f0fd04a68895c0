"""The exceptions users meet, and the exit code each becomes on the command line.

Only these become a sentence and a code; anything else is a bug of ours and keeps its traceback (exit 1).
"""

import difflib
from collections.abc import Iterable
from typing import Any


class DdpmError(Exception):
    """Base of every exception this project raises on purpose; its text is one sentence for the user."""

    exit_code = 1


class InputError(DdpmError, ValueError):
    """The user can fix it: the sentence names the file or option, and what would fit."""

    exit_code = 2


class MixedSizes(InputError):
    """Images of one source differ in size, and nobody said to what size they should be brought."""


class Stopped(DdpmError):
    """Ctrl-C was heard and nothing is lost; the sentence says how to go on."""

    exit_code = 130


class WrongModel(DdpmError):
    """The file is sound but belongs to another model; the sentence names both."""

    exit_code = 3


class DamagedFile(DdpmError):
    """A file that was ours is cut short or altered; the sentence names it.

    image  what could be read of a compressed image all the same, uint8 (C, H, W); never the exact one
    """

    exit_code = 4
    image: Any = None


class NotVerified(DdpmError):
    """What was compressed did not come back: a bug of ours, or a machine that does not compute the same thing twice."""


class PartialImageWarning(UserWarning):
    """A compressed image ends before its end; what is handed out is the image so far."""


def nearest(name: str, names: Iterable[str]) -> str:
    """A phrase that offers the closest of some names, or nothing."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f", did you mean '{found[0]}'?" if found else ""
