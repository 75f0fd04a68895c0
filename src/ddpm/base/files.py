"""Files that are whole or not there; locks; and the one sentence for what the operating system refuses."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ddpm.errors import InputError

UNFINISHED = ".unfinished-"
LEFTOVER = re.compile(rf"{re.escape(UNFINISHED)}[0-9a-f]{{8}}(\.[a-z]+)?")  # a file of whole_file
LONGEST_SUFFIX = 8  # characters that a temporary name keeps of the final one
UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
"""What a file system answers that has no locks, or does not sync."""
ADVICE = {
    errno.ENOSPC: "make room there, or choose another place",
    errno.EDQUOT: "make room there, or choose another place",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose another place",
    errno.EIO: "the disk may be failing; check it",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "check the name",
    errno.EISDIR: "a file belongs there",
    errno.EMFILE: "allow more open files (ulimit -n)",
}


def cannot(path: str | Path, done: str, error: OSError) -> InputError:
    """The sentence for what the operating system refused: the path, what could not be "read" or "written", why, and
    what to do."""
    advice = ADVICE.get(error.errno or 0)
    return InputError(f"'{path}' could not be {done}: {error.strerror or error}{f'; {advice}' if advice else ''}.")


@contextmanager
def refusals(path: str | Path, done: str) -> Iterator[None]:
    """Turn what the operating system refuses in the block into that sentence."""
    try:
        yield
    except OSError as error:
        raise cannot(path, done, error) from None


@contextmanager
def whole_file(path: str | Path, *, synced: bool = True) -> Iterator[Path]:
    """Write to the path handed out; it becomes `path` when the block ends well, and is removed when it does not.

    synced  it is also whole after a power cut, which may take milliseconds

    Missing folders above `path` are made. The temporary name is new and short, keeps the suffix, and follows no link.
    """
    path = _check_kind(Path(path), folder=False)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_file(path)
        yield temporary
        if synced:
            sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise cannot(path, "written", error) from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _new_file(path: Path) -> Path:
    """An empty file beside `path` that nobody else made: O_EXCL refuses what is there, links too."""
    suffix = path.suffix if len(path.suffix) <= LONGEST_SUFFIX else ""
    temporary = path.with_name(f"{UNFINISHED}{secrets.token_hex(4)}{suffix}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def remove_unfinished(folder: Path) -> None:
    """Remove files that writers which were killed left in a folder; only while no other writes there."""
    with refusals(folder, "cleared"), suppress(FileNotFoundError):
        for name in filter(LEFTOVER.fullmatch, os.listdir(folder)):
            (folder / name).unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a folder with all it holds, if it is there; of a link only the link."""
    with suppress(FileNotFoundError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)


def sync(path: Path) -> None:
    """Have the operating system put a file, or the entries of a folder, on the disk, where the file system can."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(handle)


def read_bytes(path: str | Path, most_bytes: int | None = None) -> bytes:
    """All bytes of a regular file.

    Errors (InputError): it cannot be read, is a pipe or a device, or holds more than `most_bytes`.
    """
    with refusals(path, "read"):
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))  # no wait
        with open(handle, "rb") as file:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise InputError(f"'{path}' is no regular file: name a file with content.")
            if most_bytes is not None and about.st_size > most_bytes:
                raise InputError(f"'{path}' has {about.st_size:,} bytes, more than the {most_bytes:,} it may have.")
            return file.read()


def file_sha256(path: str | Path) -> str:
    """Of all bytes of a file, as hex. Errors (InputError): it cannot be read."""
    with refusals(path, "read"), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_output(path: str | Path, *, folder: bool) -> Path:
    """Refuse a path that cannot become a file (or a folder), before any work is done for it; nothing is left behind."""
    if not str(path):
        raise InputError("an empty path was given: name the file or folder to write.")
    path = _check_kind(Path(path), folder=folder)
    with refusals(path, "written"):
        there = next(above for above in (path, *path.absolute().parents) if above.is_dir())
        for name in path.absolute().parts[len(there.absolute().parts) :]:
            with suppress(FileNotFoundError):
                os.lstat(there / name)  # refuses a name that is too long
        with tempfile.TemporaryFile(dir=there):
            pass
    return path


def check_room(path: str | Path, needed: int) -> None:
    """Refuse a path that the disk has no room for, before any work is done for it, as far as the file system says.

    needed  bytes, rather too few than too many
    """
    path = Path(path)
    there = next(above for above in (path, *path.absolute().parents) if above.is_dir())
    with suppress(OSError):
        room = shutil.disk_usage(there)
        if room.total and room.free < needed:
            raise InputError(
                f"'{path}' takes about {needed:,} bytes, and {room.free:,} are free there: make room, or choose "
                "another place."
            )


def _check_kind(path: Path, *, folder: bool) -> Path:
    above = next((parent for parent in path.parents if os.path.exists(parent) and not parent.is_dir()), None)
    if above is not None:
        raise InputError(f"'{above}' is a file, so '{path}' cannot lie in it: choose another path.")
    with refusals(path, "written"), suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(path).st_mode) != folder:
            kind = "a file, not a folder" if folder else "a folder, not a file"
            raise InputError(f"'{path}' is {kind}: choose another path.")
    return path


@contextmanager
def only_process(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Make a folder and keep other processes from writing there; however this one ends, the lock ends with it."""
    with refusals(folder, "made"):
        check_output(folder, folder=True).mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / name, wait=False):
            yield
    except Timeout:
        raise InputError(f"another process writes to '{folder}': wait for it, or choose another output.") from None


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock that a file stands for; where the file system has no locks, say so and go on without.

    wait  until no other process holds it; else that is a filelock.Timeout
    """
    lock = FileLock(path, blocking=wait)
    try:
        lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout):
            raise
        if error.errno not in UNSUPPORTED:
            raise cannot(path, "locked", error) from None
        warnings.warn(
            f"the file system of '{path.parent}' has no locks ({error.strerror}): see to it that only one process "
            "writes there.",
            stacklevel=4,
        )
    try:
        yield
    finally:
        with suppress(OSError):
            lock.release()
