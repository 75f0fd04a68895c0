"""Wherever a disk fails, the command ends with one sentence, what was there stays whole, and the next call succeeds."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commandline import TINY, done, snapshot, type_in
from PIL import Image

from faults import CODES, Disk

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")

FEW = "--sampler ddim --steps 2"
COMMANDS = {
    "train": f"train digits --out new {' '.join(TINY)} --set train_images=32 --set training.log_images=32",
    "sample to a grid": f"sample run --seeds 0-1 --out new.png {FEW}",
    "sample to a folder": f"sample run --seeds 0-2 --out new {FEW}",
    "sample to an archive": f"sample run --seeds 0-2 --out new.npz {FEW}",
    "tune variance": "tune variance run --calls 384",
    "tune codec": "tune codec run --fit-steps 2 --data digits:train[0:16]",
    "compress": "compress coded grey.png other.png --out new",
    "decompress": "decompress coded made/grey.dpc made/other.dpc --out new",
    "evaluate likelihood": "evaluate likelihood run --data digits:test[0:4] --full --out new",
    "evaluate rate": "evaluate likelihood run --data digits:test[0:4] --calls 256 --rate --out new",
    "evaluate fid": "evaluate fid run --data digits:test --features pixels --seeds 0-63 --keep a --save-to b.npz "
    + FEW,
    "evaluate codec": "evaluate codec coded --data digits:test --limit 1 --out new",
    "show": "show run",
}

PLOTS = ("evaluate rate", "evaluate codec")  # slow


@pytest.fixture
def inputs(here: Path, run: Path, coded: Path) -> Path:
    """A run, one with codec data, two images and their files."""
    shutil.copytree(coded, "coded")
    for k, name in enumerate(("grey", "other")):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (8, 8), np.uint8)).save(f"{name}.png")
    done("compress", "coded", "grey.png", "other.png", "--out", "made")
    return here


def check(words: str, place: str, code: int, start: Path, work: Path, finished: dict[str, str]) -> None:
    """Run a command in a copy of `start` while a place fails, and then once more."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(start, work)
    before = snapshot(work)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        with Disk(work, (place, code)).watched():
            end = type_in(*words.split())
        if end.code:
            assert end.code == 2, end.err
            assert "Traceback" not in end.err, f"{place}: {end.err}"
            assert re.search(r"^ddpm: [^\n]*'[^\n]*[^.\n]\.$", end.err, re.MULTILINE), f"{place}: {end.err}"
            left = snapshot(work)
            changed = [name for name, content in before.items() if left.get(name) != content]
            assert not changed, f"{changed} were there and are not whole"
            if lasting(left) == lasting(before):  # the next call is as the first one
                return
            again = type_in(*words.split())
            kept = again.code == 2 and "is there already" in again.err  # it was finished, and only then read back
            assert again.code == 0 or kept, f"after {place} failed: {again.err}"
    left = [name for name in snapshot(work) if ".unfinished-" in name]
    assert not left, f"left behind: {left}"
    assert lasting(snapshot(work)) == lasting(finished), f"{place} failed, and the next call ends otherwise"


def lasting(files: dict[str, str]) -> dict[str, str]:
    """Names of all but locks, and hashes of the files that say nothing of times."""
    kept = (".png", ".npz", ".safetensors", ".dpc")
    return {name: content * name.endswith(kept) for name, content in files.items() if ".lock" not in name}


def places(words: str, start: Path, work: Path) -> tuple[list[str], dict[str, str]]:
    """Every place on the disk that a command meets, and what it leaves."""
    shutil.copytree(start, work)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        with Disk(work).watched() as disk:
            done(*words.split())
    return list(disk.met), snapshot(work)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in PLOTS])
def test_each_place_fails_once(name: str, inputs: Path, tmp_path_factory: pytest.TempPathFactory):
    work = tmp_path_factory.mktemp("work") / "here"
    found, finished = places(COMMANDS[name], inputs, work)
    codes: Iterator[int] = itertools.cycle(CODES)
    for place in found:
        check(COMMANDS[name], place, next(codes), inputs, work, finished)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_each_place_fails_in_each_way(name: str, inputs: Path, tmp_path_factory: pytest.TempPathFactory):
    work = tmp_path_factory.mktemp("work") / "here"
    found, finished = places(COMMANDS[name], inputs, work)
    for place, code in itertools.product(found, CODES):
        check(COMMANDS[name], place, code, inputs, work, finished)
