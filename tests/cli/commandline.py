"""The command line as a person meets it: words in, exit code and both streams out; and looking at what it left."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import typer.main
from numpy.typing import NDArray
from PIL import Image

from ddpm.cli import app, main


def commands(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command by its words: "train", "evaluate fid", ..."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*above, name))
        else:
            yield " ".join((*above, name)), command


ROOT = typer.main.get_command(app)
COMMANDS = dict(commands(ROOT))
OPTIONS = {name: {option for p in command.params for option in p.opts} for name, command in COMMANDS.items()}
CONTROL = re.compile(r"[^\n -~\u00a0-\uffff]")

# A network of a few thousand weights and twelve levels: every command answers in tenths of a second.
TINY = tuple(
    word
    for setting in (
        "process.steps=12",
        "network.channels=8",
        "network.groups=4",
        "network.multipliers=[1]",
        "network.attention_levels=[]",
        "network.blocks=1",
        "batch_size=16",
        "train_images=64",
        "learning_rate=1e-2",
        "training.warmup_images=0",
        "training.log_images=16",
        "training.checkpoint_images=32",
    )
    for word in ("--set", setting)
)


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str


def type_in(*words: str | Path) -> Done:
    """Run `ddpm WORDS` in this process; an exception that gets through is exit 1 and a traceback, as in a shell."""
    typed = tuple(map(str, words))
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["ddpm", *typed]),
        warnings.catch_warnings(),  # as in a process of its own, each is shown again
        mock.patch.object(typer.main, "get_command", return_value=ROOT),  # which Typer would build anew each time
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            code = 1
            traceback.print_exc(file=err)
    return Done(typed, code, out.getvalue(), err.getvalue())


def done(*words: str | Path) -> Done:
    """Run a command that must succeed."""
    end = type_in(*words)
    assert end.code == 0, f"{end.words} ended with {end.code}\n{end.err}"
    assert not CONTROL.search(end.out + end.err), "control characters where there is no terminal"
    return end


def sentence(end: Done, code: int = 2) -> str:
    """What a command that must fail says: one sentence on stderr, advising only options that the command has."""
    assert end.code == code, f"{end.words} ended with {end.code}, not {code}\n{end.out}\n{end.err}"
    assert end.out == ""
    assert re.fullmatch(r"ddpm: [^\n]*[^.\n]\.\n", end.err), f"{end.words} should say one sentence:\n{end.err}"
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", re.sub("`[^`]*`", "", end.err)))  # not of other commands
    command = next(name for name in COMMANDS if f"{' '.join(end.words)} ".startswith(f"{name} "))
    assert named <= OPTIONS[command], f"ddpm {command} has no such option, but says: {end.err}"
    return end.err


def start(*words: str | Path, cwd: Path, **streams: int) -> subprocess.Popen[bytes]:
    """Start `ddpm WORDS` as a process of its own; Ctrl-C reaches it even if these tests run where it is ignored."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import ddpm.cli; ddpm.cli.main()"
    env = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, **streams)


def snapshot(folder: Path) -> dict[str, str]:
    """{relative path: hash of the contents, "" for folders} of everything below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def read_grid(path: Path, *, columns: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Take a grid apart into its images, row by row: uint8 (B, H, W[, C]).

    size  (height, width) of one image

    That they are enlarged by a whole factor, with grey gaps all round, is asserted.
    """
    pixels = np.asarray(Image.open(path))
    height, width = size
    scale = max(1, 640 // (columns * width))
    gap = max(1, 2 * scale // 3)
    assert pixels.shape[1] == columns * (width * scale + gap) + gap
    rows, rest = divmod(pixels.shape[0] - gap, height * scale + gap)
    assert rest == 0
    colour = pixels[0, 0]
    images = []
    paper = np.ones(pixels.shape[:2], bool)
    for k in range(rows * columns):
        top, left = (gap + i * (n * scale + gap) for i, n in zip(divmod(k, columns), size, strict=True))
        cell = (slice(top, top + height * scale), slice(left, left + width * scale))
        small = pixels[cell][::scale, ::scale]
        assert (pixels[cell] == small.repeat(scale, axis=0).repeat(scale, axis=1)).all()
        images.append(small)
        paper[cell] = False
    assert (pixels[paper] == colour).all()
    return np.stack(images)
