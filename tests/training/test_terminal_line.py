"""On a terminal of 80 columns: one line with all that a run has to say, stages that share the screen, nothing cut."""

from __future__ import annotations

import contextlib
import errno
import io
import re

import pytest

from ddpm.base.progress import Console
from ddpm.model.recipe import make_recipe
from ddpm.training.loop import train
from scorings import RECIPE, image_set, merged, pixels

WIDTH = 80


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """Every line that was ever shown, without colours; a line that is drawn again counts again."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())
        return [line.rstrip() for line in re.split(r"[\r\n]", plain) if line.strip()]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """To be put in the place of stderr."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("COLUMNS", str(WIDTH)), ("LINES", "24"), ("TERM", "xterm-256color")):
        monkeypatch.setenv(name, value)
    return Terminal()


def test_a_line_fits_with_all_its_parts_and_one_time_left(terminal: Terminal, monkeypatch: pytest.MonkeyPatch):
    """The longest run of the recipes, with hours to go."""
    now, note = [0.0], "loss 0.0312  12,345 images/s"
    monkeypatch.setattr("rich.console.monotonic", lambda: now[0])
    with contextlib.redirect_stderr(terminal), Console().stage("Training", 153_600_000, 1_000_000) as advance:
        for _ in range(20):
            now[0] += 4
            advance(40_000, note)
    last = terminal.shown()[-1]
    assert len(last) <= WIDTH
    assert re.fullmatch(rf"Training \S+ *1800000/153600000 \d+:\d\d:\d\d {re.escape(note)}", last), last


def test_a_run_says_its_line_its_bound_and_its_loss(terminal: Terminal, tmp_path):
    """No two bars on one line; the sentences stand above the bar, whole."""
    images, held_out = image_set(pixels(20, (1, 4, 4)), name="training"), image_set(pixels(12, (1, 4, 4), 1))
    changes = {"train_images": 24, "training": {"log_images": 8, "validate_images": 16, "validation_calls": 256}}
    with contextlib.redirect_stderr(terminal):
        train(make_recipe(merged(RECIPE, changes)), images, tmp_path / "run", held_out=held_out, progress=Console())
    shown = terminal.shown()
    assert max(map(len, shown)) <= WIDTH
    assert [line for line in shown if line.count("Training") > 1 or line.count("images/s") > 1] == []
    assert re.search(r"24/24 \S+ loss \d\.\d{4}  [\d,]+ images/s$", "\n".join(shown), re.MULTILINE)
    assert len([line for line in shown if "bits/dim" in line]) == 2
    assert re.fullmatch(r"loss \d\.\d{4} at 24 images\.", shown[-2])


def test_a_stage_that_outlives_the_one_around_it_and_the_next_one_are_no_trouble(terminal: Terminal):
    """As the stage of a generator that is not read to its end."""
    console = Console()
    with contextlib.redirect_stderr(terminal):
        outer, inner = console.stage("Outer", 2), console.stage("Inner", 2)
        outer.__enter__()
        inner.__enter__()(1)
        outer.__exit__(None, None, None)
        inner.__exit__(None, None, None)
        with console.stage("Next", 3) as advance:
            advance(3)
    assert "3/3" in terminal.shown()[-1]


def test_a_stage_without_work_shows_nothing(terminal: Terminal):
    with contextlib.redirect_stderr(terminal), Console(lines=True).stage("Sampling", 0):
        pass
    assert terminal.getvalue() == ""


class Closed(Terminal):
    """A terminal whose window was closed after the bar was shown for the first time."""

    def write(self, text: str) -> int:
        if self.getvalue():
            raise OSError(errno.EIO, "Input/output error")
        return super().write(text)


def test_a_terminal_that_is_closed_ends_nothing_before_its_time(terminal: Terminal, tmp_path):
    closed, changes = Closed(), {"train_images": 24, "training": {"log_images": 8}}
    with contextlib.redirect_stderr(closed):
        train(make_recipe(merged(RECIPE, changes)), image_set(pixels(20, (1, 4, 4))), tmp_path, progress=Console())
    assert closed.getvalue()
    assert (tmp_path / "checkpoints" / "0000000024").is_dir()
