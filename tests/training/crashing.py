"""Real processes that run `ddpm`, and that can be told to die at any write, sync, rename or removal.

Importing torch takes seconds, so a nursery imports everything once and forks a process for each command. A forked
process runs `ddpm.cli.main` under its own process number with its own streams; the console command differs from it
only in that it has to import first.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 120.0  # seconds; no run here takes more than a few
BEFORE, HALF, AFTER = "before", "half way through", "after"

# Dropout, flips, classes, warm-up and epochs of 100 images; batches of 12 divide no interval, so that the mean loss is
# carried over checkpoints. The network is as small as the U-Net allows.
RECIPE: dict[str, Any] = {
    "data": "digits:train[:100]",
    "train_images": 250,
    "seed": 5,
    "batch_size": 12,
    "learning_rate": 1e-3,
    "network": {"channels": 4, "multipliers": [1], "blocks": 1, "groups": 2, "dropout": 0.1},
    "process": {"steps": 8},
    "training": {"warmup_images": 100, "flip": True, "log_images": 30, "sample_images": 130, "checkpoint_images": 64},
}


def settings(recipe: dict[str, Any], prefix: str = "") -> list[str]:
    """A recipe as --set options."""
    found: list[str] = []
    for key, value in recipe.items():
        nested = isinstance(value, dict)
        found += settings(value, f"{prefix}{key}.") if nested else ["--set", f"{prefix}{key}={json.dumps(value)}"]
    return found


def train_command(out: str | Path, **changes: Any) -> list[str]:
    """`ddpm train` of RECIPE with some of its keys changed, without the `ddpm`."""
    return ["train", "standard", "--out", str(out), *settings(RECIPE), *settings(changes)]


# ---- what the tests use ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus the signal that killed it) and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def resumed_at(self) -> int | None:
        """The images it said it resumes at."""
        said = re.search(r"Resuming at ([\d,]+) images", self.err)
        return int(said[1].replace(",", "")) if said else None


class Child:
    """A forked process that runs one command."""

    def __init__(self, nursery: Nursery, pid: int, streams: Path) -> None:
        self.nursery, self.pid, self.streams = nursery, pid, streams
        self.code: int | None = None

    def running(self) -> bool:
        if self.code is None:
            self.code = self.nursery.ask({"poll": self.pid})
        return self.code is None

    def wait_until(self, seen: Callable[[], bool]) -> None:
        """Return as soon as `seen` is true; the process must still be there then."""
        deadline = time.monotonic() + PATIENCE
        while not seen():
            assert self.running(), f"it ended too early: {self.end()}"
            assert time.monotonic() < deadline, "it never came that far"
            time.sleep(0.002)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> Ended:
        deadline = time.monotonic() + PATIENCE
        while self.running():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise AssertionError(f"it did not end within {PATIENCE:.0f} s")
            time.sleep(0.01)
        assert self.code is not None
        return Ended(self.code, self.said(".out"), self.said(".err"))

    def said(self, stream: str = ".err") -> str:
        """What it has written so far."""
        path = self.streams.with_suffix(stream)
        return path.read_text(encoding="utf-8") if path.exists() else ""


class Nursery:
    """One process that has imported everything; see the module's text."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ddpm-nursery-"))
        self.started = 0
        command = [sys.executable, __file__]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, bufsize=1
        )
        self.references: dict[str, Path] = {}
        atexit.register(self.close)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, order: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        return json.loads(self.process.stdout.readline())

    def start(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        die: tuple[int, str] | None = None,
        die_of: int = signal.SIGKILL,
        record: Path | None = None,
        pace: float = 0.0,
        file_bytes: int | None = None,
    ) -> Child:
        """Run `ddpm` with these arguments.

        die         (number of an event, counted from 0; BEFORE, HALF or AFTER): the process gets a signal there
        die_of      which signal
        record      a file that gets a line for each event
        pace        seconds to sleep before each event, for who wants to meet it on its way
        file_bytes  no file may grow beyond: writing fails as on a full disk
        """
        self.started += 1
        streams = self.folder / f"{self.started}.streams"
        order = {"argv": list(command), "cwd": str(cwd), "streams": str(streams)}
        order |= {
            "die": die,
            "die_of": int(die_of),
            "record": record and str(record),
            "pace": pace,
            "file_bytes": file_bytes,
        }
        return Child(self, self.ask(order), streams)

    def run(self, command: Sequence[str], *, cwd: Path, **how: Any) -> Ended:
        return self.start(command, cwd=cwd, **how).end()

    def reference(self, **changes: Any) -> Path:
        """The run folder of a run that nothing interrupted; made once, not to be changed."""
        key = json.dumps(changes, sort_keys=True)
        if key not in self.references:
            out = self.folder / f"reference-{len(self.references)}"
            ended = self.run(train_command(out, **changes), cwd=self.folder)
            assert ended.code == 0, ended.err
            self.references[key] = out
        return self.references[key]


@functools.cache
def nursery() -> Nursery:
    """The one all tests of a session share."""
    return Nursery()


def console_command() -> str:
    """The `ddpm` that was installed beside this Python."""
    found = shutil.which("ddpm", path=str(Path(sys.executable).parent))
    assert found is not None, "no console command is installed beside this Python"
    return found


def start_console(command: Sequence[str], cwd: Path) -> subprocess.Popen[str]:
    """Start the installed console command in a process of its own, which hears Ctrl-C also where the tests run in the
    background of a shell and do not."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([console_command(), *command], cwd=cwd, text=True, preexec_fn=heard, **pipes)


def finished(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=PATIENCE)
    return Ended(process.returncode, out, err)


# ---- what lies in a run folder --------------------------------------------------------------------------------------


def metrics(run: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl."""
    file = run / "metrics.jsonl"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def losses(run: Path) -> list[tuple[int, float, float]]:
    """What of the metrics does not depend on the machine."""
    return [(line["images"], line["loss"], line["learning_rate"]) for line in metrics(run)]


def saved(run: Path) -> list[Path]:
    """What lies under a checkpoint's name, oldest first."""
    folder = run / "checkpoints"
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return [folder / name for name in sorted(names) if name.isdecimal()]


def unfinished(run: Path) -> list[str]:
    """Files and folders under a temporary name, wherever they are."""
    found = [path.relative_to(run).as_posix() for path in run.rglob("*")]
    return [name for name in found if "unfinished" in name or name.endswith((".tmp", "~"))]


def snapshot(run: Path) -> dict[str, str]:
    """Every file with a hash of what it says, except for how fast the machine was; every folder too."""
    found = {}
    for path in sorted(run.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if path.name.endswith("metrics.jsonl"):
            content = re.sub(rb', "images_per_second": [\d.]+', b"", content)
        found[path.relative_to(run).as_posix()] = hashlib.sha256(content).hexdigest() if path.is_file() else "folder"
    return found


def flat(state: Any, name: str = "") -> dict[str, Any]:
    """Nested containers as one table; tensors as type, shape and bytes."""
    if isinstance(state, dict):
        return {key: value for part in state for key, value in flat(state[part], f"{name}/{part}").items()}
    if isinstance(state, list | tuple):
        return flat(dict(enumerate(state)), name)
    if hasattr(state, "numpy"):
        return {name: (str(state.dtype), tuple(state.shape), state.contiguous().numpy().tobytes())}
    return {name: state}


def contents(checkpoint: Path) -> dict[str, Any]:
    """Weights, training state and the machine-independent part of the configuration of a checkpoint."""
    import torch
    from safetensors.torch import load_file

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    told = {key: config[key] for key in ("images_seen", "class_names", "data_fingerprint")}
    training = torch.load(checkpoint / "training.pt", weights_only=True)
    return flat({"weights": load_file(checkpoint / "model.safetensors"), "training": training, "config": told})


_contents_of_reference = functools.cache(contents)


def differences(run: Path, other: Path) -> list[str]:
    """What is not the same, bit for bit, at the end of two runs; `other` is a reference, which does not change."""
    found = []
    newest, theirs = (saved(path)[-1:] for path in (run, other))
    if [path.name for path in newest] != [path.name for path in theirs] or not newest:
        return [f"the newest checkpoints are {newest} and {theirs}"]
    mine, others = contents(newest[0]), _contents_of_reference(theirs[0])
    found += [f"{name} differs" for name in sorted(mine.keys() | others.keys()) if mine.get(name) != others.get(name)]
    if losses(run) != losses(other):
        found.append(f"the metrics differ: {losses(run)} and {losses(other)}")
    for what, name in (("last grids", f"samples/{newest[0].name}.png"), ("loss curves", "loss.png")):
        images = [path / name for path in (run, other)]
        if not all(image.is_file() for image in images) or images[0].read_bytes() != images[1].read_bytes():
            found.append(f"the {what} differ")
    return found


# ---- the nursery itself ---------------------------------------------------------------------------------------------


class Events:
    """Counts what a process does to its files, and kills the process at one of these events."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.number, self.phase = order["die"] or (-1, BEFORE)
        self.signal = order["die_of"]
        self.pace = order["pace"]
        self.record = order["record"] and os.open(order["record"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.seen = 0
        self.inside = False
        self.cwd = order["cwd"]

    def wrap(self, owner: Any, name: str, *, where: int | None = 0, half: bool = False) -> None:
        """Count the calls of a function as events.

        where  which argument is the path
        half   whether the call writes a file, so that it can be caught with half of it written
        """
        real = getattr(owner, name)

        @functools.wraps(real)
        def wrapped(*args: Any, **options: Any) -> Any:
            target = args[where] if where is not None else ""
            if self.inside or not isinstance(target, str | os.PathLike | int):
                return real(*args, **options)
            self.inside = True
            try:
                return self.event(f"{name} {self.spoken(target)}", half, target, lambda: real(*args, **options))
            finally:
                self.inside = False

        setattr(owner, name, wrapped)

    def spoken(self, target: Any) -> str:
        if isinstance(target, int):  # a handle
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{target}")
        return os.path.relpath(target, self.cwd) if isinstance(target, str | os.PathLike) else str(target)

    def event(self, what: str, half: bool, target: Any, act: Callable[[], Any]) -> Any:
        mine, self.seen = self.seen == self.number, self.seen + 1
        time.sleep(self.pace)
        if mine and self.phase == BEFORE:
            os.kill(os.getpid(), self.signal)
        size = os.path.getsize(target) if mine and half and os.path.exists(target) else 0
        done = False
        try:
            result = act()
            done = True
            return result
        finally:
            if mine and self.phase == HALF:
                now = os.path.getsize(target)
                os.truncate(target, (size + now) // 2 if what.startswith("append") else now // 2)
            if mine:
                os.kill(os.getpid(), self.signal)
            if self.record:
                os.write(self.record, (json.dumps([what, half, done]) + "\n").encode())

    def watch(self) -> None:
        """Wrap all that puts something on the disk."""
        import matplotlib.figure
        import PIL.Image
        import safetensors.torch
        import torch

        for name in ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "fsync"):
            self.wrap(os, name)
        self.wrap(safetensors.torch, "save_file", where=1, half=True)
        self.wrap(torch, "save", where=1, half=True)
        self.wrap(PIL.Image.Image, "save", where=1, half=True)
        self.wrap(matplotlib.figure.Figure, "savefig", where=1, half=True)
        self.wrap(Path, "write_text", half=True)
        self.wrap(Path, "write_bytes", half=True)
        self.watch_appending()

    def watch_appending(self) -> None:
        """Count what is written to a file that was opened to be continued."""
        real, events = Path.open, self

        def opened(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            file = real(path, mode, *args, **options)
            return contextlib.closing(_Appending(events, path, file)) if "a" in mode and not events.inside else file

        Path.open = opened  # type: ignore[method-assign,assignment]


class _Appending:
    """A text file of which only `write` and `close` are used."""

    def __init__(self, events: Events, path: Path, file: Any) -> None:
        self.events, self.path, self.file = events, path, file
        self.close = file.close

    def write(self, text: str) -> None:
        self.events.event(f"append {self.events.spoken(self.path)}", True, self.path, lambda: self._written(text))

    def _written(self, text: str) -> None:
        self.file.write(text)
        self.file.flush()


def _run_child(order: dict[str, Any]) -> int:
    import resource

    from ddpm.cli import main

    os.chdir(order["cwd"])
    for handle, suffix in ((1, ".out"), (2, ".err")):
        path = Path(order["streams"]).with_suffix(suffix)
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), handle)
    if order["file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"], resource.RLIM_INFINITY))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Events(order).watch()
    sys.argv = ["ddpm", *order["argv"]]
    try:
        main()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _serve() -> None:
    """Fork a process for each order that comes in; a poll says how it ended, null while it runs."""
    import torch

    import ddpm.api
    from ddpm.model.model import build_network, resolve_device
    from ddpm.model.recipe import make_recipe
    from ddpm.training.learner import Learner
    from ddpm.training.run_folder import RunFolder

    # What a run imports late is imported now. No network is computed: a fork keeps no other thread.
    torch.set_num_threads(1)
    images = ddpm.api.images(RECIPE["data"])
    recipe = make_recipe(RECIPE | {"image": {"channels": 1, "height": 8, "width": 8}})
    build_network(recipe)
    Learner(recipe, resolve_device("cpu"))
    with tempfile.TemporaryDirectory() as folder:  # the first text that matplotlib draws takes half a second
        RunFolder(Path(folder)).plot_loss([{"images": 10, "loss": 1.0}, {"images": 90, "loss": 0.5}])
    del images
    gc.collect()
    gc.freeze()  # the collector would touch, and so copy, every page in every child
    answers = os.dup(1)
    ended: dict[int, int] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "poll" in order:
            pid, status = os.waitpid(order["poll"], os.WNOHANG)
            if pid:
                ended[pid] = os.waitstatus_to_exitcode(status)
            answer = ended.get(order["poll"])
        else:
            answer = os.fork()
            if answer == 0:
                os.close(0)
                os.open(os.devnull, os.O_RDONLY)
                code = 1
                try:
                    code = _run_child(order)
                    sys.stdout.flush()
                    sys.stderr.flush()
                finally:
                    os._exit(code)
        os.write(answers, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    _serve()
