"""benchmarks/gpu.py: every part runs on a CPU, on sizes that say nothing; a part that is measured leaves the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), *words], capture_output=True, text=True, env=dict(os.environ)
    )


@pytest.mark.slow
@pytest.mark.parametrize("part", ["eager", "loop", "sampling", "codec", "ode", "memory", "compiled"])
def test_part_runs_on_a_cpu(part: str, tmp_path: Path):
    file = tmp_path / "gpu.json"
    file.write_text('{"other": {"origin": {"machine": {}}, "figure": 1}}')
    done = run("--device", "cpu", "--tiny", "--part", part, "--out", str(file))
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert set(found) == {"other", part}
    assert found["other"]["figure"] == 1
    assert {"commit", "command", "machine"} <= set(found[part]["origin"])
    assert f"## {part} (" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_sentence_says_so(tmp_path: Path):
    done = run("--out", str(tmp_path / "gpu.json"))
    assert done.returncode != 0
    assert done.stderr.strip() == "there is no NVIDIA GPU here that PyTorch can use, and nothing was measured."
    assert list(tmp_path.iterdir()) == []
