"""Previews take a small share of a run, by a clock of the test."""

from __future__ import annotations

import pytest

from ddpm.training.sparing import GRACE, SHARE, Sparing


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


def done(seconds: float, apart: float, times: int) -> tuple[list[float], float]:
    """When work of so many seconds was done that was due every so often, from the start; and how long that took."""
    clock, found = Clock(), []
    sparing = Sparing(clock)

    def work() -> None:
        found.append(clock.now - 1000)
        clock.work(seconds)

    for _ in range(times):
        clock.work(apart)
        sparing(work)
    return found, clock.now - 1000


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_all_of_it_takes_its_share_beyond_a_few_seconds(seconds: float):
    found, passed = done(seconds, 1.0, 3000)
    assert SHARE * passed + GRACE - 2 * seconds < seconds * len(found) <= SHARE * passed + GRACE


def test_the_first_minute_has_several():
    """Doublings of a network whose previews take a second."""
    found, _ = done(1.0, 10.0, 5)
    assert len(found) == 5


def test_the_first_is_done_however_long_it_takes_and_then_none_for_long():
    found, _ = done(30.0, 60.0, 60)
    assert found[0] == 60.0
    assert found[1] > (2 * 30.0 - GRACE) / SHARE - 60.0
    assert len(found) == 2


def test_work_that_takes_no_time_is_never_left_out():
    found, _ = done(0.001, 0.001, 500)
    assert len(found) == 500
