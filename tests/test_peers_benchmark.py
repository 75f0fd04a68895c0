"""benchmarks/peers.py: every part runs, on seconds and few images that say nothing; what is there is not done twice."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim, export, save

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
COUNTS = {"train": 256, "t10k": 128}
PARTS = {
    "ours": {("dpm++sde, uniform", 20), ("dpm++sde, tuned", 20)},
    "diffusers": {("DPM++ 3M", 20), ("DPM++ 2M SDE", 20)},
    "lucidrains": {("ddim", 20), ("ddim", 250)},
}
PACKAGES = {"diffusers": "diffusers", "lucidrains": "denoising_diffusion_pytorch"}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for random images with labels, and for a program of three features."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    for split, count in COUNTS.items():
        arrays = {"images-idx3": draw.integers(0, 256, (count, 28, 28)), "labels-idx1": np.arange(count) % 10}
        for name, array in arrays.items():
            header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            file = folder / f"{split}-{name}-ubyte.gz"
            file.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
    program = export(
        nn.Sequential(Scaled(), nn.Conv2d(1, 3, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8),),
        dynamic_shapes=({0: Dim("B")},),
    )
    save(program, folder / "three.pt2")
    few = ["--samples", "64", "--long", "0", "--trials", "5", "--minutes", "0.02"]
    return ["--data", str(folder), "--features", str(folder / "three.pt2"), *few]


class Scaled(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() / 255


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "peers.py"), *words], capture_output=True, text=True, env=dict(os.environ)
    )


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_part_trains_draws_and_is_judged(part: str, words: list[str], tmp_path: Path):
    package = PACKAGES.get(part)
    if package and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    where = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path)]
    for one in (part, "judge"):
        done = run(*words, *where, "--part", one)
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "peers.json").read_text())
    assert {(row["sampler"], row["calls"]) for row in found["rows"]} == PARTS[part]
    for row in found["rows"]:
        assert row["samples"] == 64
        assert all(distance["value"] > 0 < distance["error"] for distance in row["distances"].values())
    facts = found["parts"][part]
    assert facts["images"] > 0 < facts["gflop_a_call"]
    assert {"commit", "command", "machine", "seed"} <= set(facts["origin"])
    assert done.stdout.count("is not among them") == 2

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs" / part).rglob("*")}
    assert run(*words, *where, "--part", part).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs" / part).rglob("*")} == kept

    other = run(*words, *where, "--part", part, "--minutes", "0.03")
    assert other.returncode == 1
    assert str(tmp_path / "runs" / part) in other.stderr


@pytest.mark.slow
def test_results_are_for_their_own_minutes_alone(words: list[str], tmp_path: Path):
    refused = run(*words, "--runs", str(tmp_path), "--part", "ours")
    assert refused.returncode == 2
    assert "--results" in refused.stderr
    assert list(tmp_path.iterdir()) == []
