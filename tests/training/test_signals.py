"""Every signal that asks a run to end saves it, whatever it is doing; an ignored one stays ignored."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if not hasattr(signal, "SIGUSR1"):
    pytest.skip("the signals are needed", allow_module_level=True)

from crashing import contents, saved

from ddpm.model.recipe import make_recipe
from ddpm.training import shown, sparing
from ddpm.training.loop import train
from ddpm.training.run_folder import RunFolder
from ddpm.training.signals import ASKING, stop_on_signal
from scorings import RECIPE, Watching, image_set, merged, pixels

pytestmark = pytest.mark.usefixtures("quick_runs")

IMAGES, HELD_OUT = image_set(pixels(20, (1, 4, 4))), image_set(pixels(5, (1, 4, 4), 1), name="held out")
OFTEN = {"log_images": 24, "checkpoint_images": 40, "sample_images": 48, "validate_images": 48, "validation_calls": 256}
NUMBERS = [getattr(signal, name) for name in ASKING]
RECIPE_OF_ALL = make_recipe(merged(RECIPE, {"training": OFTEN}))


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """As a shell starts a command, but that a signal nobody takes ends no test process."""

    def unexpected(number: int, frame: object) -> None:
        raise AssertionError(f"signal {number} was not taken")

    before = {number: signal.signal(number, unexpected) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Sending(Watching):
    """Sends a signal to this process in the step after so many images."""

    def __init__(self, number: int, at: int) -> None:
        super().__init__(
            lambda title, seen: os.kill(os.getpid(), number) if (title, seen) == ("Training", at) else None
        )


def stopped(folder: Path, number: int, act: Callable[[], None]) -> int:
    """The exit code that a signal gave a run."""
    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt, match="stopped at"):
            act()
        return 128 + number
    with pytest.raises(SystemExit) as leaving:
        act()
    return int(leaving.value.code)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("signals") / "whole"
    train(RECIPE_OF_ALL, IMAGES, folder, held_out=HELD_OUT)
    return RunFolder(folder)


def assert_goes_on_to_the_same_end(run: RunFolder, whole: RunFolder) -> None:
    train(RECIPE_OF_ALL, IMAGES, run.path, held_out=HELD_OUT)
    assert contents(saved(run.path)[-1]) == contents(saved(whole.path)[-1])
    assert [line["loss"] for line in run.metrics.lines()] == [line["loss"] for line in whole.metrics.lines()]
    assert run.validation.lines() == whole.validation.lines()
    grids = [{grid.name: grid.read_bytes() for grid in (one.path / "samples").iterdir()} for one in (run, whole)]
    assert grids[0] == grids[1]


@pytest.mark.parametrize("number", NUMBERS, ids=ASKING)
def test_each_of_them_saves_at_the_step_in_hand_and_leaves_with_its_code(number: int, whole: RunFolder, tmp_path: Path):
    heard = Sending(number, 32)
    code = stopped(tmp_path, number, lambda: train(RECIPE_OF_ALL, IMAGES, tmp_path / "run", progress=heard))
    assert code == 128 + number
    assert [int(path.name) for path in saved(tmp_path / "run")] == [32]
    assert number == signal.SIGINT or "stopped at 32 images and saved" in heard.sentences[-1]
    assert_goes_on_to_the_same_end(RunFolder(tmp_path / "run"), whole)


@pytest.mark.parametrize(
    ("phase", "at", "number"),
    [
        ("estimate_bound", 48, signal.SIGTERM),
        ("draw", 48, signal.SIGUSR1),
        ("estimate_bound", 96, signal.SIGHUP),
        ("draw", 96, signal.SIGINT),
    ],
)
def test_validation_and_sampling_are_broken_off_and_made_up_for_later(
    phase: str, at: int, number: int, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """At an interval, and at the end of the run; nothing of the phase is left, and nothing is missing afterwards."""
    monkeypatch.setattr(sparing, "GRACE", math.inf)
    real, sent = getattr(shown, phase), []

    def signalled(model_or_scoring, *rest):
        if not sent and len(list((tmp_path / "run" / "checkpoints").glob("*"))) >= (at > 48):
            run = RunFolder(tmp_path / "run")
            if run.metrics.lines()[-1]["images"] >= at:
                sent.append(number)
                os.kill(os.getpid(), number)
                raise AssertionError("the phase went on")
        return real(model_or_scoring, *rest)

    monkeypatch.setattr(shown, phase, signalled)
    run = RunFolder(tmp_path / "run")
    code = stopped(tmp_path, number, lambda: train(RECIPE_OF_ALL, IMAGES, run.path, held_out=HELD_OUT))
    assert (code, sent) == (128 + number, [number])
    assert int(saved(run.path)[-1].name) == at
    assert at not in [line["images"] for line in run.validation.lines()]
    assert run.sample_file(at).exists() == (phase == "estimate_bound")
    assert_goes_on_to_the_same_end(run, whole)


def test_one_that_is_ignored_does_not_end_the_run(tmp_path: Path):
    """nohup, and jobs that a shell puts into the background."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    train(RECIPE_OF_ALL, IMAGES, tmp_path / "run", progress=Sending(signal.SIGHUP, 32))
    assert [int(path.name) for path in saved(tmp_path / "run")][-1] == 96


@pytest.mark.parametrize("first", NUMBERS, ids=ASKING)
def test_after_the_first_signal_a_second_one_acts_as_usual(first: int):
    with stop_on_signal() as stop:
        os.kill(os.getpid(), first)
        assert stop.number == first
        for second in NUMBERS:
            if second == signal.SIGHUP:  # the shell and the terminal both send one
                os.kill(os.getpid(), second)
                continue
            with pytest.raises(AssertionError, match="was not taken"):
                os.kill(os.getpid(), second)


def test_work_after_a_signal_is_not_begun():
    with stop_on_signal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        stop.unless_stopped(lambda: pytest.fail("it began"))


def test_handlers_are_put_back():
    before = {number: signal.getsignal(number) for number in NUMBERS}
    with stop_on_signal():
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
    assert {number: signal.getsignal(number) for number in NUMBERS} == before
