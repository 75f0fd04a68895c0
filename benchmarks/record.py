"""Every published figure is a JSON file that says how it came to be: command, commit, machine, seed, date."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parents[1] / "results"


def write_result(name: str, table: dict[str, Any], *, seed: int, command: str | None = None) -> Path:
    """Write results/NAME.json with the table and where it came from; `command` if not this program's own."""
    origin = {
        "command": command or shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "commit": _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain", "src") else ""),
        "date": datetime.date.today().isoformat(),
        "seed": seed,
        "machine": machine(),
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"origin": origin, **table}, indent=2) + "\n", encoding="utf-8")
    print(path)
    return path


def machine() -> dict[str, Any]:
    """The processor, its cores, the threads used, and the versions that matter."""
    names = [line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=RESULTS.parent).stdout.strip()
