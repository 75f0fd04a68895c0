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


def write_result(
    name: str, table: dict[str, Any], *, seed: int, command: str | None = None, folder: Path = RESULTS
) -> Path:
    """Write results/NAME.json with the table and where it came from; `command` if not this program's own."""
    return _write(folder / f"{name}.json", {"origin": origin(seed, command), **table})


def merge_result(path: Path, parts: dict[str, dict[str, Any]], *, seed: int) -> dict[str, dict[str, Any]]:
    """Put parts into a file, each with where it came from, beside the other parts in it; returns all of them."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    table = before | {name: {"origin": origin(seed), **figures} for name, figures in parts.items()}
    _write(path, table)
    return table


def _write(path: Path, table: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    print(path)
    return path


def origin(seed: int, command: str | None = None) -> dict[str, Any]:
    """Where figures come from."""
    return {
        "command": command or shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "commit": os.environ.get("COMMIT") or _commit(),  # a copy without its history is told what it is
        "date": datetime.date.today().isoformat(),
        "seed": seed,
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """The processor, its cores, the threads used, the GPU if there is one, and the versions that matter."""
    names = [line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **_gpu(),
    }


def _gpu() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(0)
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True).stdout.split("\n")[0].strip()
    except OSError:
        driver = "unknown"
    return {
        "gpu": properties.name,
        "gpu_memory": properties.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": driver,
    }


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []


def _commit() -> str:
    return _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain", "src") else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=RESULTS.parent).stdout.strip()
