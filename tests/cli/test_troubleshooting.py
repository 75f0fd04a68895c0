"""docs/troubleshooting.md: what it types is typed, and what it shows is what is answered."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import type_in

TEXT = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ENTRIES = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL))


def sessions(entry: str) -> list[tuple[str, str]]:
    """The commands of an entry's ```console blocks, and the answer shown below each."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", entry, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.split("\n")
            length = next(n for n in range(1, len(lines) + 1) if is_whole("\n".join(lines[:n])))
            found.append(("\n".join(lines[:length]), "\n".join(lines[length:])))
    return found


def is_whole(command: str) -> bool:
    """Whether a shell would ask for no further line."""
    if "<<'END'" in command:
        return command.endswith("\nEND")
    try:
        return bool(shlex.split(command))
    except ValueError:
        return False


def answered(command: str) -> str:
    """What a command prints; `ddpm` runs in this process, all others in a shell."""
    if command.startswith("ddpm "):
        end = type_in(*shlex.split(command)[1:])
        return end.out + end.err
    shell = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", command)
    end = subprocess.run(shell, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert end.returncode == 0, end.stderr
    return end.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="its commands are a POSIX shell's")
@pytest.mark.parametrize("symptom", ENTRIES)
def test_what_is_typed_is_answered_as_shown(symptom: str, coded: Path, kinds_run: Path, here: Path):
    shutil.copytree(coded, "run")
    shutil.copytree(kinds_run, "photos")
    typed = sessions(ENTRIES[symptom])
    assert any(command.startswith("ddpm ") and answer for command, answer in typed), "it shows an answer of ddpm"
    for command, answer in typed:
        shown, found = " ".join(answer.split()), " ".join(answered(command).split())
        pattern = ".*".join(re.escape(part.strip()) for part in shown.split("..."))
        assert not answer or re.search(pattern, found), f"$ {command}\n{found}\nis not\n{shown}"
