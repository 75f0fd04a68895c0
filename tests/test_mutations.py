"""Files damaged at random, of every kind that is read: each ends in a named error or in an answer, never in another
exception, much memory or a long time. Where a file knows its own hash, an answer is the right one."""

from __future__ import annotations

import collections
import random
import shutil
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from damage import MUTATIONS, Target
from damaged_files import targets
from ddpm.errors import DdpmError

resource = pytest.importorskip("resource")

SECONDS = 10.0  # that one damaged file may take
ADDRESSES, RESIDENT = 2**31, 2**29  # bytes it may ask for beyond what is in use, and bytes it may fill
FEW, MANY = 500, 10_000


@contextmanager
def little_memory() -> Iterator[None]:
    """What asks for more fails with MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def problem_of(target: Target, pristine: Path, work: Path, dice: random.Random) -> tuple[str, str]:
    """Damage a copy of a target once and read it: which damage it was, and what was wrong, "" if nothing."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(pristine, work)
    kind = target.damage(work, dice)
    began, before = time.monotonic(), _most_resident()
    try:
        with little_memory(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = target.read(work)
        wrong = "" if target.right is None or found == target.right else "another answer"
    except DdpmError as error:
        wrong = "" if str(error).strip().endswith(".") else f"no sentence: {error!s:.200}"
    except BaseException as error:
        wrong = f"{type(error).__name__}: {error!s:.200} at {traceback.extract_tb(error.__traceback__)[-1]}"
    took, grown = time.monotonic() - began, _most_resident() - before
    if not wrong and (took > SECONDS or grown > RESIDENT):
        wrong = f"{took:.0f} seconds, {grown / 1e6:.0f} MB"
    return kind, wrong


def _most_resident() -> int:
    """The most bytes that this process has filled so far."""
    return 1024 * int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


@dataclass(frozen=True)
class Sound:
    """The sound files, what reads them, and a folder to damage copies in."""

    pristine: Path
    targets: list[Target]
    work: Path

    def escapes(self, seed: int, count: int, *, cheap: bool = False) -> list[str]:
        """What was wrong with `count` damaged files, spread over all targets, or those that are cheap."""
        found: collections.Counter[str] = collections.Counter()
        first: dict[str, int] = {}
        tried = [target for target in self.targets if target.cheap or not cheap]
        for number in range(count):
            target = tried[number % len(tried)]
            kind, wrong = problem_of(target, self.pristine / target.name, self.work, random.Random(f"{seed}/{number}"))
            if wrong:
                text = f"{target.name}, {kind}: {wrong}"
                found[text] += 1
                first.setdefault(text, number)
        return [f"{text} ({times} times, first in number {first[text]})" for text, times in found.most_common()]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    folder = tmp_path_factory.mktemp("mutations")
    return Sound(folder / "pristine", targets(folder / "pristine"), folder / "work")


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of the usual limit, 89 million pixels, takes a gigabyte."""
    monkeypatch.setenv("DDPM_MAX_PIXELS", "20000000")


def test_damaged_files_end_in_named_errors_or_answers(sound: Sound):
    assert sound.escapes(0, FEW, cheap=True) == []


@pytest.mark.slow
def test_many_damaged_files_end_in_named_errors_or_answers(sound: Sound):
    """With another seed each time; it is in the message of a failure, and printed."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    assert sound.escapes(seed, MANY) == [], f"seed {seed}"


def test_every_kind_of_file_and_of_damage_is_there(sound: Sound):
    assert len({target.name for target in sound.targets}) == len(sound.targets) >= 45
    assert len(MUTATIONS) >= 8
    for target in sound.targets:  # sound files are read without an error
        shutil.rmtree(sound.work, ignore_errors=True)
        shutil.copytree(sound.pristine / target.name, sound.work)
        found = target.read(sound.work)
        assert target.right is None or found == target.right, target.name
