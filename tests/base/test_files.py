"""Files are whole or not there, locks hold, and what the operating system refuses is one sentence."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from ddpm.base.files import UNFINISHED, check_output, only_process, read_bytes, whole_file
from ddpm.errors import InputError

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
    assert check_output(tmp_path / "new" / "below", folder=True) == tmp_path / "new" / "below"
    assert list(tmp_path.iterdir()) == []
    asked = []

    def full(dir: Path) -> None:
        asked.append(dir)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    for name in ("", "new/below"):
        with pytest.raises(InputError, match="Read-only"):
            check_output(tmp_path / name, folder=True)
    assert asked == [tmp_path, tmp_path]


def test_one_process_at_a_time_writes_to_a_folder(tmp_path: Path):
    with only_process(tmp_path / "run"):
        with pytest.raises(InputError, match="run'"), only_process(tmp_path / "run"):
            pytest.fail("both are in")
        with only_process(tmp_path / "run", ".other"), only_process(tmp_path / "other run"):
            pass
    with only_process(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_made_is_refused_before_it_is_locked(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"), only_process(tmp_path / "file" / "run"):
        raise AssertionError("entered")


def test_no_link_laid_in_place_of_a_temporary_file_is_followed(tmp_path: Path, monkeypatch):
    """Names are drawn anew; even one foretold is not written through, and the write ends with a sentence."""
    (tmp_path / "outside").write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda count: "foretold")
    (tmp_path / f"{UNFINISHED}foretold.txt").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match=r"a\.txt' could not be written: File exists"), whole_file(tmp_path / "a.txt"):
        pytest.fail("the block was entered")
    assert (tmp_path / "outside").read_text() == "mine"


def test_the_longest_name_is_written_and_a_longer_one_refused_before_any_work(tmp_path: Path):
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    with whole_file(tmp_path / ("n" * (longest - 4) + ".txt")) as temporary:
        temporary.write_text("whole")
    for name in ("n" * (longest + 1), "n/" + "n" * (longest + 1)):
        with pytest.raises(InputError, match="File name too long; choose a shorter name"):
            check_output(tmp_path / name, folder=False)


def test_a_temporary_file_has_the_permissions_of_any_new_file(tmp_path: Path):
    (tmp_path / "usual").touch()
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_work_goes_on_with_one_warning(code: int, tmp_path: Path, monkeypatch):
    def no_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.warns(UserWarning, match="has no locks") as heard, only_process(tmp_path / "run"):
        (tmp_path / "run" / "a").touch()
    assert len(heard) == 1


def test_a_lock_that_is_refused_is_one_sentence(tmp_path: Path, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", refused)
    said = r"\.lock' could not be locked: Input/output error; the disk may be failing"
    with pytest.raises(InputError, match=said), only_process(tmp_path / "run"):
        pytest.fail("entered")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_does_not_sync_is_written_to(code: int, tmp_path: Path, monkeypatch):
    def no_sync(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", no_sync)
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe"])
def test_only_regular_files_are_read(kind: str, tmp_path: Path):
    path = tmp_path / "a"
    if kind == "device":
        path = Path("/dev/zero")
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
        path = path if kind.startswith("link") else tmp_path / "pipe"
    with pytest.raises(InputError, match="no regular file"):
        read_bytes(path)


def test_a_file_of_too_many_bytes_is_refused_unread(tmp_path: Path):
    (tmp_path / "a").write_bytes(bytes(11))
    assert read_bytes(tmp_path / "a", 11) == bytes(11)
    with pytest.raises(InputError, match="11 bytes, more than the 10"):
        read_bytes(tmp_path / "a", 10)
