"""Tables in JSON and TOML from files that anybody may have written, and JSON that knows its own hash."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm.base.files import cannot, read_bytes
from ddpm.errors import DamagedFile, InputError

MOST_BYTES = 2**28
"""Of a file of JSON or TOML."""
MOST_DOTS = 1000


def parse_json(text: str | bytes) -> Any:
    """What JSON says; ValueError for all that is none, whatever is wrong with it: bytes, depth, digits."""
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_toml(text: str | bytes) -> dict[str, Any]:
    """What TOML says; ValueError for all that is none, or whose keys have so many dots that reading takes minutes."""
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        if any(line.count(".") > MOST_DOTS for line in text.splitlines()):
            raise ValueError("a line has too many dots")
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path, *, advice: str = "") -> Any:
    """What a file of JSON says, None if there is no such file (JSON's null is damage too).

    advice  what to do about a damaged file, for the error's sentence

    Errors: damaged (DamagedFile), not readable (InputError).
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise cannot(path, "read", error) from None
    data = read_bytes(path, MOST_BYTES)
    try:
        found = parse_json(data)
    except ValueError:
        found = None
    if found is None:
        raise DamagedFile(f"'{path}' is cut short or damaged: it is not JSON{f'; {advice}' if advice else ''}.")
    return found


def signed(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table for JSON with the SHA-256 of its own content, so that a flipped bit in it is noticed."""
    return {**table, "own_sha256": _own_sha256(table)}


def check_signed(table: object, path: Path) -> None:
    """Raise DamagedFile unless the table read from `path` is one that `signed` made."""
    try:
        sound = isinstance(table, dict) and table.get("own_sha256") == _own_sha256(table)
    except RecursionError:
        sound = False
    if not sound:
        raise DamagedFile(f"'{path}' is damaged or was edited: its content does not have the SHA-256 it names.")


def read_signed(path: Path, format_name: str, version: int, *, advice: str) -> dict[str, Any] | None:
    """Read a signed table that names its format, None if there is no such file.

    advice  what to do about a file that is damaged or something else, for the error's sentence

    Errors: damaged or of another format (DamagedFile), of a newer version or not readable (InputError).
    """
    table = read_json(path, advice=advice)
    if table is None:
        return None
    if not isinstance(table, dict) or table.get("format") != format_name:
        raise DamagedFile(f"'{path}' is not a file of {format_name}; {advice}.")
    if type(table.get("format_version")) is int and table["format_version"] > version:
        raise InputError(f"'{path}' has a format version this ddpm does not read; install a newer ddpm.")
    check_signed(table, path)
    if type(table.get("format_version")) is not int or table["format_version"] < 1:
        raise DamagedFile(f"'{path}' is damaged: its format_version is no version; {advice}.")
    return table


def _own_sha256(table: Mapping[str, Any]) -> str:
    content = {key: value for key, value in table.items() if key != "own_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
