"""Side files: JSON stored beside a checkpoint that is sure of its own content and of whose weights it is about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.files import check_signed, signed, whole_file


def write_side_file(path: Path, format_name: str, version: int, table: Mapping[str, Any]) -> Path:
    """Store a table, signed, with its format; it names the weights it is about under weights_sha256."""
    assert "weights_sha256" in table
    named = {"format": format_name, "format_version": version, **table}
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(signed(named)) + "\n", encoding="utf-8")
    return path


def read_side_file(
    path: Path, format_name: str, version: int, *, weights_sha256: str, command: str
) -> dict[str, Any] | None:
    """Read what write_side_file stored about these weights, None if there is no such file.

    command  what makes a new one, for the error's sentence

    Errors: of other weights (WrongModel), damaged (DamagedFile), of a newer format (InputError).
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError):
        raise DamagedFile(f"'{path}' is cut short or damaged; {command} makes a new one.") from None
    if not isinstance(table, dict) or table.get("format") != format_name:
        raise DamagedFile(f"'{path}' is no file of {format_name}; {command} makes one.")
    if type(table.get("format_version")) is int and table["format_version"] > version:
        raise InputError(f"'{path}' has a format version this ddpm does not read; a newer ddpm would fit.")
    check_signed(table, path)
    if table["weights_sha256"] != weights_sha256:
        raise WrongModel(f"'{path}' was measured on other weights than those beside it; {command} measures these.")
    return table
