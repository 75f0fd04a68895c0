"""A disk that fails on demand: every open, write, sync, rename, removal and lock below a folder is a place that can.

A place is an operation together with the innermost line of ddpm that asked for it, so one run of a command tells all
places it has, and each can then be made to fail in a run of its own.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

SOURCE = str(Path(__file__).parents[1] / "src" / "ddpm")
CODES = (
    *(errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS),
    *(errno.EDQUOT, errno.ENAMETOOLONG, errno.ENOLCK, errno.EOPNOTSUPP),
)


class Written:
    """A file opened for writing, whose writes may fail."""

    def __init__(self, file: Any, met: Callable[[str], None]) -> None:
        self._file, self._met = file, met

    def write(self, data: Any) -> Any:
        self._met("write")
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


class Disk:
    """What happens on a disk below a folder.

    met   how often each place was met
    fail  (place, error code): the first time that place is met it fails
    """

    def __init__(self, root: Path, fail: tuple[str, int] | None = None) -> None:
        self.root, self.fail, self.met = os.path.realpath(root), fail, Counter[str]()

    def meet(self, operation: str, path: object) -> None:
        """One operation; raises OSError if it is the one to fail."""
        if not isinstance(path, str | os.PathLike) or not os.path.abspath(os.fspath(path)).startswith(self.root):
            return
        place = f"{operation} at {asked_by()}"
        self.met[place] += 1
        if self.fail is not None and self.fail[0] == place and self.met[place] == 1:
            raise OSError(self.fail[1], os.strerror(self.fail[1]), os.fspath(path))

    @contextmanager
    def watched(self) -> Iterator[Disk]:
        """While in here, the operating system's calls pass by this disk."""
        real_open = io.open

        def open_(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            self.meet("open", file)
            opened = real_open(file, mode, *args, **kwargs)
            if not isinstance(file, str | os.PathLike) or not set(mode) & set("wax+"):
                return opened
            return Written(opened, lambda operation: self.meet(operation, file))

        def on_path(operation: str, real: Callable[..., Any], which: int = 0) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                self.meet(operation, args[which])
                return real(*args, **kwargs)

            return call

        def on_handle(operation: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(handle: int, *args: Any) -> Any:
                self.meet(operation, os.readlink(f"/proc/self/fd/{handle}"))
                return real(handle, *args)

            return call

        with ExitStack() as stack:
            for module, name, replaced in (
                (builtins, "open", open_),
                (io, "open", open_),
                (os, "open", on_path("open", os.open)),
                (os, "replace", on_path("rename", os.replace, 1)),
                (os, "rename", on_path("rename", os.rename, 1)),
                (os, "mkdir", on_path("make", os.mkdir)),
                (os, "fsync", on_handle("sync", os.fsync)),
                (fcntl, "flock", on_handle("lock", fcntl.flock)),
            ):
                stack.enter_context(mock.patch.object(module, name, replaced))
            yield self


def asked_by() -> str:
    """The innermost line of ddpm on the stack, as module:line."""
    frame: Any = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(SOURCE):
        frame = frame.f_back
    if frame is None:
        return "elsewhere"
    return f"{Path(frame.f_code.co_filename).relative_to(SOURCE)}:{frame.f_lineno} {frame.f_code.co_name}"
