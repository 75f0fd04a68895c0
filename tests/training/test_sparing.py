"""Previews take a small share of a run, by a clock of the test."""

from __future__ import annotations

from ddpm.training.sparing import SHARE, Sparing


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


def test_the_first_is_done_and_then_so_few_that_they_take_their_share():
    clock, done = Clock(), []
    sparing = Sparing(clock)

    def work() -> None:
        done.append(clock.now)
        clock.work(0.5)

    for _ in range(1000):  # each second of training, half a second of work is due
        sparing(work)
        clock.work(1.0)
    assert done[0] == 1000.0
    assert 0.9 * SHARE < 0.5 * len(done) / (clock.now - 1000) < 1.1 * SHARE


def test_work_that_takes_no_time_is_never_left_out():
    clock, done = Clock(), []
    sparing = Sparing(clock)
    for _ in range(5):
        sparing(lambda: done.append(clock.now))
        clock.work(0.001)
    assert len(done) == 5
