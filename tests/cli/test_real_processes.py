"""ddpm as a process of its own: what is imported, streams and terminals, Ctrl-C, names in other encodings."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commandline import COMMANDS, CONTROL, TINY, done, snapshot, start

PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def test_help_and_wrong_usage_import_neither_torch_nor_numpy(here: Path):
    code = """
import sys
from ddpm.cli import main
codes = []
for words in sys.argv[1:]:
    sys.argv = ["ddpm", *words.split()]
    try:
        main()
    except SystemExit as end:
        codes.append(end.code)
heavy = {"torch", "numpy", "matplotlib", "sklearn", "PIL"} & sys.modules.keys()
assert not heavy, heavy
assert codes == [0] * (len(codes) - 2) + [2, 2], codes
"""
    words = [f"{command} --help" for command in COMMANDS] + ["--version", "", "sample run", "tune run"]
    words.remove("")
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
    assert list(here.iterdir()) == []


def test_progress_is_plain_lines_on_stderr_and_names_need_not_be_in_the_terminals_encoding(
    digits_run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    child = start("sample", digits_run, "--seeds", "0-1", "--out", "é.png", cwd=here, **PIPES)
    out, err = (stream.decode("ascii") for stream in child.communicate(timeout=100))
    assert (child.returncode, out) == (0, "2 images in \\xe9.png\n")
    assert not CONTROL.search(err)
    assert err.splitlines()[-1] == "Sampling: 24 of 24"
    assert len(err.splitlines()) <= 4, err
    assert os.listdir() == ["é.png"]
    child = start("show", b"\xff.dpc".decode(errors="surrogateescape"), cwd=here, **PIPES)
    out, err = (stream.decode("ascii") for stream in child.communicate(timeout=100))
    assert (child.returncode, out) == (2, "")
    assert re.fullmatch(r"ddpm: [^\n]*\\udcff\.dpc[^\n]*\.\n", err)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")
def test_a_terminal_gets_a_bar(here: Path):
    import pty

    ours, theirs = pty.openpty()
    words = ("train", "digits", "--out", "run", *TINY, "--set", "train_images=32")
    child = start(*words, cwd=here, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 4096):
            seen += piece
    except OSError:  # how Linux ends a pty
        pass
    os.close(ours)
    out, _ = child.communicate(timeout=100)
    text = seen.decode()
    assert child.returncode == 0, text
    assert "\x1b" not in out.decode()
    assert "\x1b[" in text
    for part in ("Training", "━", "32/32", "images/s", "loss "):
        assert part in text


def test_ctrl_c_while_drawing_ends_with_130_and_leaves_the_old_file(digits_run: Path, here: Path):
    Path("a.png").write_text("the old file")
    before = snapshot(here)
    child = start("sample", digits_run, "--seeds", "0-50000", "--out", "a.png", cwd=here, **PIPES)
    assert child.stderr is not None
    while not child.stderr.readline().startswith(b"Sampling:"):
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=100)
    assert (child.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert err.decode().splitlines()[-1:] == ["ddpm: stopped."]
    assert snapshot(here) == before


def test_ctrl_c_in_training_saves_and_says_how_to_go_on(here: Path):
    endless = ("train_images=10M", "training.log_images=64", "training.checkpoint_images=10M")
    words = [word for setting in endless for word in ("--set", setting)]
    child = start("train", "digits", "--out", "run", *TINY, *words, cwd=here, **PIPES)
    assert child.stderr is not None
    while not child.stderr.readline().startswith(b"Training:"):
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=100)
    assert (child.returncode, out) == (130, b"")
    assert re.fullmatch(r"ddpm: stopped at [\d,]+ images.*\.", err.decode().splitlines()[-1])
    assert json.loads(done("show", "run", "--json").out)["images_seen"] > 0


def test_full_sum_that_was_stopped_goes_on_where_it_was(digits_run: Path, here: Path):
    """Three shards of 682 images and twelve calls each at most."""
    words = ("evaluate", "likelihood", digits_run, "--data", "digits:train", "--full", "--out", "kept")
    child = start(*words, cwd=here, **PIPES)
    while not list(here.glob("kept/full-*/shard-*.npz")):
        assert child.poll() is None, child.communicate()
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = (stream.decode() for stream in child.communicate(timeout=60))
    assert (child.returncode, out) == (130, "")
    assert [line for line in err.splitlines() if line.startswith("ddpm:")] == ["ddpm: stopped."]
    assert not list(here.glob("kept/full-*/.unfinished-*"))
    held = {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in here.glob("kept/full-*/shard-*.npz")}
    assert 0 < len(held) < 3
    end = done(*words, "--json")
    assert all((file.stat().st_mtime_ns, file.stat().st_ino) == stamp for file, stamp in held.items())
    assert len(list(here.glob("kept/full-*/shard-*.npz"))) == 3
    assert json.loads(end.out)["vlb"]["calls"] == 1500 * 12


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no /dev/full")
def test_output_that_cannot_be_written_is_one_sentence_and_a_closed_one_is_none(here: Path):
    with Path("/dev/full").open("wb") as full:
        child = start("show", "linear", cwd=here, stdout=full, stderr=subprocess.PIPE)
        _, err = child.communicate(timeout=100)
    assert child.returncode == 2
    assert re.fullmatch(rb"ddpm: 'standard output' could not be written: No space left[^\n]*\.\n", err)
    child = subprocess.run(f"{sys.executable} -m ddpm show linear >&- 2>&-", shell=True, timeout=100, check=False)
    assert child.returncode == 0


def test_ctrl_c_while_modules_are_imported_is_no_traceback(here: Path):
    code = """
import sys
module, sys.argv = sys.argv[1], ["ddpm", "show", "linear"]
class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Pressed())
from ddpm.__main__ import main
main()
"""
    for module in ("typer", "torch"):
        child = subprocess.run([sys.executable, "-c", code, module], capture_output=True, timeout=100, check=False)
        assert (child.returncode, child.stderr) == (130, b"ddpm: stopped.\n"), module
