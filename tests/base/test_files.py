"""Files are whole or not there, JSON knows its own hash, and no damage to an archive gets by."""

from __future__ import annotations

import errno
import json
import os
import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ddpm.base.files import (
    ARCHIVE_ERRORS,
    UNFINISHED,
    array_names,
    check_output,
    check_signed,
    only_process,
    read_arrays,
    read_own_arrays,
    read_signed,
    signed,
    whole_file,
    writable_folder,
)
from ddpm.errors import DamagedFile, InputError

# ---- writing --------------------------------------------------------------------------------------------------------


def test_a_file_is_there_when_it_is_whole_and_not_before(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "notes.txt"
    with whole_file(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, ".txt")
        assert temporary.name.startswith(UNFINISHED)
        temporary.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with whole_file(str(path)) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("old")

    def write(error: Exception) -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(ZeroDivisionError):
        write(ZeroDivisionError())
    with pytest.raises(InputError, match=r"notes\.txt.*No space left"):
        write(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for name, folder in (("file/a.txt", False), ("file/a/b", True), ("file", True), ("folder", False)):
        with pytest.raises(InputError, match=f"{name.partition('/')[0]}'"):
            check_output(tmp_path / name, folder=folder)
    for folder in (False, True):
        with pytest.raises(InputError, match="empty"):
            check_output("", folder=folder)
    for name, folder in (("file", False), ("folder", True), ("new/a.txt", False), ("folder/new", True)):
        assert check_output(str(tmp_path / name), folder=folder) == tmp_path / name
    with pytest.raises(InputError, match="file'"), whole_file(tmp_path / "file" / "a.txt"):
        pytest.fail("the block was entered")


def test_a_folder_that_cannot_be_written_to_is_refused_and_none_is_made(tmp_path: Path, monkeypatch):
    assert writable_folder(tmp_path / "new" / "below") == tmp_path / "new" / "below"
    assert list(tmp_path.iterdir()) == []
    asked = []

    def full(dir: Path) -> None:
        asked.append(dir)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    for name in ("", "new/below"):
        with pytest.raises(InputError, match="Read-only"):
            writable_folder(tmp_path / name)
    assert asked == [tmp_path, tmp_path]


def test_one_process_at_a_time_writes_to_a_folder(tmp_path: Path):
    with only_process(tmp_path / "run"):
        with pytest.raises(InputError, match="run'"), only_process(tmp_path / "run"):
            pytest.fail("both are in")
        with only_process(tmp_path / "run", ".other"), only_process(tmp_path / "other run"):
            pass
    with only_process(tmp_path / "run"):
        pass


# ---- archives of arrays ---------------------------------------------------------------------------------------------

ARRAYS = {
    "levels": np.arange(60, dtype=np.uint8).reshape(3, 4, 5),
    "turned": np.asfortranarray(np.random.default_rng(0).standard_normal((7, 3))),
    "text": np.array("ångström"),
    "nothing": np.zeros((0, 4), np.float32),
}


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_come_back_in_the_order_asked_for(write, tmp_path: Path):
    write(tmp_path / "set.npz", **ARRAYS)
    assert array_names(tmp_path / "set.npz") == list(ARRAYS)
    names = list(reversed(ARRAYS))
    for name, found in zip(names, read_arrays(tmp_path / "set.npz", *names), strict=True):
        np.testing.assert_array_equal(found, ARRAYS[name])
        assert found.dtype == ARRAYS[name].dtype
    assert read_arrays(str(tmp_path / "set.npz")) == []


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_no_damage_gets_by(write, tmp_path: Path):
    """A cut anywhere, and every second byte of the first member and beyond set to something else."""
    write(tmp_path / "set.npz", levels=ARRAYS["levels"], turned=ARRAYS["turned"])
    whole, noticed = (tmp_path / "set.npz").read_bytes(), 0
    damaged = [whole[:length] for length in range(0, len(whole), 29)]
    for place in range(0, 260, 2):
        damaged += [whole[:place] + bytes([value]) + whole[place + 1 :] for value in (39, whole[place] ^ 1)]
    for data in damaged:
        (tmp_path / "damaged.npz").write_bytes(data)
        try:
            found = read_arrays(tmp_path / "damaged.npz", "levels", "turned")
        except ARCHIVE_ERRORS:
            noticed += 1
            with pytest.raises(DamagedFile, match=r"damaged\.npz"):
                read_own_arrays(tmp_path / "damaged.npz", "levels", "turned")
        else:
            assert found[0].tobytes() + found[1].tobytes() == ARRAYS["levels"].tobytes() + ARRAYS["turned"].tobytes()
    assert noticed > 0.6 * len(damaged)


HEADERS = [
    "{'descr': '|u1', 'fortran_order': False, 'shape': (3,",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-3,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (10**9,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999,), }",
    "{'descr': 7, 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '|u1', b'fortran_order': False, 'shape': (3,), }",
    "  01",
]


@pytest.mark.parametrize("header", HEADERS)
def test_a_sound_archive_of_senseless_arrays_is_damaged_too(header: str, tmp_path: Path):
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(3)
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("levels.npy", data)
    with pytest.raises(ARCHIVE_ERRORS):
        read_arrays(tmp_path / "set.npz", "levels")


def test_nothing_is_unpickled_and_nothing_else_is_an_array(tmp_path: Path):
    class Loud:
        def __reduce__(self) -> tuple[object, ...]:
            return (pytest.fail, ("it was unpickled",))

    np.savez(tmp_path / "set.npz", objects=np.array([Loud()], object))
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.writestr("raw", pickle.dumps([1]))
        archive.writestr("pickled.npy", pickle.dumps(Loud()))
    assert array_names(tmp_path / "set.npz") == ["objects", "pickled"]
    for name in ("objects", "raw", "pickled", "missing"):
        with pytest.raises(ARCHIVE_ERRORS):
            read_arrays(tmp_path / "set.npz", name)
    with pytest.raises(ARCHIVE_ERRORS):
        read_arrays(tmp_path / "missing.npz", "levels")


# ---- signed tables --------------------------------------------------------------------------------------------------

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
    with pytest.raises(DamagedFile, match="do this"):
        read_signed(tmp_path, "ddpm notes", 2, advice="do this")


def test_a_table_of_a_newer_format_wants_a_newer_ddpm(tmp_path: Path):
    path = written(tmp_path / "notes.json", signed(TABLE | {"format_version": 3}))
    with pytest.raises(InputError, match=r"notes\.json.*newer ddpm"):
        read_signed(path, "ddpm notes", 2, advice="")
    assert read_signed(path, "ddpm notes", 3, advice="") is not None


def test_a_folder_that_cannot_be_made_is_refused_before_it_is_locked(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"), only_process(tmp_path / "file" / "run"):
        raise AssertionError("entered")
