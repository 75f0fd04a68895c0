"""Threads that read images: made once a process, used in order, and made again in a fork."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from ddpm.data import scan
from ddpm.data.sources import open_images


@pytest.fixture
def files(folder, noise) -> str:
    return folder({f"{k:02}.png": noise(k) for k in range(40)})


def used() -> set[int]:
    return {thread.ident for thread in threading.enumerate() if thread.name.startswith("ddpm-images")}


def test_two_batches_use_the_same_threads(files: str, noise):
    images = open_images(files)
    pool = scan._threads(os.getpid())
    for rows in (range(20), range(39, 0, -2)):
        expected = np.stack([np.asarray(noise(k)).transpose(2, 0, 1) for k in rows])
        np.testing.assert_array_equal(images.array(rows), expected)
        before = used()
        assert 0 < len(before) <= (os.cpu_count() or 1)
    images.array()
    assert used() == before
    assert scan._threads(os.getpid()) is pool


def test_results_come_in_order_and_all_of_them_whatever_their_number():
    for count in (0, 1, 2, 15, 16, 33, 1000):
        for threads in (False, True):
            found = list(scan.in_threads(lambda k: k * k, range(5, 5 + count), threads=threads))
            assert found == [k * k for k in range(5, 5 + count)]


def test_threads_work_at_the_same_time(monkeypatch: pytest.MonkeyPatch):
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one processor, one thread")
    meeting = threading.Barrier(2, timeout=30)
    list(scan.in_threads(lambda k: meeting.wait(), range(2), threads=True))
    names = set(scan.in_threads(lambda k: threading.current_thread().name, range(8), threads=False))
    assert names == {threading.current_thread().name}


def test_an_error_on_a_thread_reaches_the_caller_and_the_threads_go_on():
    def broken(k: int) -> int:
        if k == 7:
            raise ZeroDivisionError
        return k

    with pytest.raises(ZeroDivisionError):
        list(scan.in_threads(broken, range(100), threads=True))
    assert list(scan.in_threads(broken, range(7), threads=True)) == list(range(7))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_makes_threads_of_its_own(files: str):
    """The threads of a process are not in its fork, where their pool would wait for ever."""
    images = open_images(files)
    child = os.fork()
    if child == 0:
        os._exit(0 if images.array().shape == (40, 3, 16, 16) and used() else 1)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)
