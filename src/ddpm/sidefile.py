"""Side files: JSON stored beside a checkpoint that is sure of its own content and of whose weights it is about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm.errors import WrongModel
from ddpm.files import read_signed, signed, whole_file


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
    other, advice = f"no file of {format_name}; {command} makes one", f"{command} makes a new one"
    table = read_signed(path, format_name, version, other=other, advice=advice)
    if table is None:
        return None
    if table["weights_sha256"] != weights_sha256:
        raise WrongModel(f"'{path}' was measured on other weights than those beside it; {command} measures these.")
    return table
