"""JSON and TOML of anybody; JSON that knows its own hash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddpm.base.tables import check_signed, parse_json, parse_toml, read_signed, signed
from ddpm.errors import DamagedFile, InputError

TABLE = {"format": "ddpm notes", "format_version": 2, "values": [1, 2.5, None, "ü"], "below": {"b": 1, "a": True}}


def written(path: Path, table: object) -> Path:
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


def test_a_signed_table_comes_back_and_a_change_is_noticed(tmp_path: Path):
    table, path = signed(TABLE), tmp_path / "notes.json"
    assert {key: value for key, value in table.items() if key != "own_sha256"} == TABLE
    assert signed(table) == table
    assert read_signed(written(path, table), "ddpm notes", 2, advice="") == table
    for changed in (table | {"values": [1]}, table | {"more": 1}, table | {"own_sha256": "0"}, TABLE):
        with pytest.raises(DamagedFile, match=r"notes\.json"):
            check_signed(changed, path)
        with pytest.raises(DamagedFile, match=r"notes\.json"):
            read_signed(written(path, changed), "ddpm notes", 2, advice="")
    for no_table in (None, [table], "text"):
        with pytest.raises(DamagedFile, match=r"notes\.json"):
            check_signed(no_table, path)


def test_what_is_no_such_table_is_answered_with_the_advice(tmp_path: Path):
    path = tmp_path / "notes.json"
    assert read_signed(path, "ddpm notes", 2, advice="") is None
    for content in (b"", b"{", b"\xff\xfe", json.dumps([1]).encode(), json.dumps(signed({"format": "other"})).encode()):
        path.write_bytes(content)
        assert read_signed(path / "below.json", "ddpm notes", 2, advice="") is None
        with pytest.raises(DamagedFile, match=r"notes\.json.*do this"):
            read_signed(path, "ddpm notes", 2, advice="do this")
    with pytest.raises(InputError, match="a file belongs there"):
        read_signed(tmp_path, "ddpm notes", 2, advice="do this")


def test_a_table_of_a_newer_format_wants_a_newer_ddpm(tmp_path: Path):
    path = written(tmp_path / "notes.json", signed(TABLE | {"format_version": 3}))
    with pytest.raises(InputError, match=r"notes\.json.*newer ddpm"):
        read_signed(path, "ddpm notes", 2, advice="")
    assert read_signed(path, "ddpm notes", 3, advice="") is not None


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe{}", b"{", b"9" * 5_000, b""])
def test_whatever_is_no_json_is_a_value_error(text: bytes, tmp_path: Path):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
    (tmp_path / "notes.json").write_bytes(text)
    with pytest.raises(DamagedFile, match=r"notes\.json.*do this"):
        read_signed(tmp_path / "notes.json", "ddpm notes", 2, advice="do this")


@pytest.mark.parametrize("text", [b"a = " + b"[" * 100_000, b"\xff = 1", b"a =", b"a = " + b"9" * 5_000])
def test_whatever_is_no_toml_is_a_value_error(text: bytes):
    with pytest.raises(ValueError, match=r"."):
        parse_toml(text)
