"""Progress: silent unless wanted, plain lines in a log, bars on a terminal, and a listener hears everything."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import ddpm
from ddpm.base import progress
from ddpm.base.progress import LINE_SECONDS, SILENT, Advance, Console, Progress, progress_of


class Terminal(io.StringIO):
    """A stderr that says it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that have passed, to be set."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


# ---- silence --------------------------------------------------------------------------------------------------------


def test_the_default_is_silent(capfd: pytest.CaptureFixture[str]):
    SILENT.say("a sentence")
    with SILENT.stage("Sampling", 3) as advance:
        advance(1)
        advance(2, "loss 0.1")
    assert capfd.readouterr() == ("", "")


def test_wanted_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch):
    assert progress_of(False) is SILENT
    assert not sys.stderr.isatty()
    assert progress_of(True) is SILENT
    own = Progress()
    assert progress_of(own) is own
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(progress_of(True), Console)
    assert not progress_of(True).lines
    assert progress_of(False) is SILENT


def test_a_stage_beside_a_terminal_is_silent_without_lines(capsys: pytest.CaptureFixture[str]):
    with Console().stage("Sampling", 3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")


# ---- lines ----------------------------------------------------------------------------------------------------------


def test_a_sentence_goes_to_stderr_as_it_is(capsys: pytest.CaptureFixture[str]):
    Console().say("run[0:3]: 1 of 2")
    assert capsys.readouterr() == ("", "run[0:3]: 1 of 2\n")


def test_lines_come_at_first_then_every_ten_seconds_and_at_the_end(clock: list[float], capsys):
    with Console(lines=True).stage("Sampling", 4000, done=1000) as advance:
        for seconds, more in ((0, 500), (1, 500), (LINE_SECONDS - 2, 500), (1, 500), (1, 999)):
            clock[0] += seconds
            advance(more, "loss 0.1" if seconds else "")
        lines = capsys.readouterr().err.splitlines()
        assert lines == ["Sampling: 1,500 of 4,000", "Sampling: 3,000 of 4,000  loss 0.1"]
        advance(1)
        advance(5)
        advance(0)
    assert capsys.readouterr().err.splitlines() == ["Sampling: 4,000 of 4,000"] * 2


def test_stages_within_stages_have_lines_of_their_own(clock: list[float], capsys):
    console = Console(lines=True)
    with console.stage("Outer", 2) as outer:
        for _ in range(2):
            with console.stage("Inner", 1) as inner:
                inner(1)
            outer(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["Inner: 1 of 1", "Outer: 1 of 2", "Inner: 1 of 1", "Outer: 2 of 2"]


# ---- bars -----------------------------------------------------------------------------------------------------------


def test_bars_stand_below_each_other_and_leave_the_terminal_as_it_was(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    console = Console()
    with console.stage("Outer", 2, done=1) as outer:
        with console.stage("Inner", 5) as inner:
            inner(2, "loss 0.25")
            shown = [(task.description, task.completed, task.total, task.fields["note"]) for task in console.bars.tasks]
            assert shown == [("Outer", 1, 2, ""), ("Inner", 2, 5, "loss 0.25")]
        assert [task.description for task in console.bars.tasks] == ["Outer"]
        console.say("kept[0]: [bold] is no markup")
        outer(1)
        assert console.bars.tasks[0].completed == 2
    assert console.bars is None
    assert "kept[0]: [bold] is no markup" in screen.getvalue()
    assert "Outer" in screen.getvalue()


def test_bars_end_with_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    console = Console()
    with pytest.raises(ZeroDivisionError), console.stage("Outer", 2), console.stage("Inner", 2):
        raise ZeroDivisionError
    assert console.bars is None


# ---- a listener -----------------------------------------------------------------------------------------------------


class Listener(Progress):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def say(self, sentence: str) -> None:
        self.heard.append((sentence,))

    @contextmanager
    def stage(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        self.heard.append((title, total, done))
        yield lambda more, note="": self.heard.append((title, more))
        self.heard.append((title, "ended"))


def test_a_listener_of_ones_own_hears_the_stages_and_sentences_of_a_verb(tmp_path: Path, capfd):
    """Of a comparison with images: features of both sides, then the distances; and where the statistics went."""
    listener, file = Listener(), tmp_path / "statistics.npz"
    samples = ddpm.images("digits:train[0:70]")
    with pytest.warns(UserWarning, match="few"):
        ddpm.evaluate_fid(
            samples, "digits:test[0:80]", features="pixels", save_to=file, batch_size=50, progress=listener
        )
    sentences = [heard[0] for heard in listener.heard if len(heard) == 1]
    assert len(sentences) == 1
    assert str(file) in sentences[0]
    stages = [heard for heard in listener.heard if len(heard) > 1 and heard[0] != "Fréchet distances"]
    assert stages == [
        *[("Features of the reference", *rest) for rest in ((80, 0), (50,), (30,), ("ended",))],
        *[("Features", *rest) for rest in ((70, 0), (50,), (20,), ("ended",))],
    ]
    distances = [heard[1:] for heard in listener.heard if heard[0] == "Fréchet distances"]
    assert distances == [(33, 0), *[(1,)] * 33, ("ended",)]
    assert capfd.readouterr() == ("", "")
