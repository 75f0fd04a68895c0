"""Parts `loop` and `sampling` of gpu.py: the commands that users type, against the network alone."""

from __future__ import annotations

import contextlib
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from on_device import MODEL, Bench, Figures, forward, table, whole_step

import ddpm
from ddpm.base.precision import PRECISIONS, computed_in
from ddpm.model.model import Model
from ddpm.training.learner import Learner
from ddpm.training.run_folder import RunFolder

CALLS = 10  # network calls of an image
LOOP_STEPS = 96  # of a run of the loop
LINES = 8  # log lines that they are cut into; the first one holds what happens once
AGREE = 64  # images drawn on both devices


def loop(bench: Bench) -> Iterator[Figures]:
    """`ddpm.train` on a data set of noise, its own log of images a second, against the bare step; and the start."""
    rows = []
    steps = LINES if bench.tiny else LOOP_STEPS
    with _noise_images(bench) as data:
        for batch in bench.batches(128, 512):
            for precision in PRECISIONS[-1:]:
                settings = {"batch_size": batch, "precision": precision, "compile": "off"}
                every = {"log_images": batch * steps // LINES}
                recipe = bench.recipe(data=str(data), train_images=batch * steps, training=every, **settings)
                bare = batch / bench.alternate({"step": whole_step(Learner(recipe, bench.device))})["step"]
                with tempfile.TemporaryDirectory() as folder:
                    run = ddpm.train(recipe, out=Path(folder) / "run", progress=False)
                    lines = RunFolder(run).metrics.lines()[1:]
                found = statistics.median(line["images_per_second"] for line in lines)
                rows.append({**settings, "bare_step": round(bare, 1), "loop": round(found, 1)})
                rows[-1]["share"] = round(found / bare, 3)
                print(rows[-1], flush=True)
                bench.forget()
        start = _first_step(bench, data)
    yield {"rows": rows, "first_step_seconds": start}


@contextlib.contextmanager
def _noise_images(bench: Bench) -> Iterator[Path]:
    geometry = bench.recipe().geometry
    count = 64 if bench.tiny else 20_000
    images = np.random.default_rng(0).integers(0, 256, (count, *geometry.shape), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.npz"
        np.savez(path, images=images)
        yield path


def _first_step(bench: Bench, data: Path) -> float:
    """Seconds from the command `ddpm train` to its first log line, which is written after one step."""
    batch = bench.batches(128)[0]
    settings = {"train_images": 1, "batch_size": batch, "training.log_images": 1, "device": bench.device}
    recipe = "digits" if bench.tiny else "cifar10"
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    source = "digits" if bench.tiny else str(data)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, "-m", "ddpm", "train", recipe, "--data", source, "--out", str(log.parent), *words]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=dict(os.environ))
        while not log.exists() and process.poll() is None:
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{shlex.join(command)}: {errors.decode().strip()[-500:]}")
    print(f"first step {seconds:.1f} s after the command", flush=True)
    return round(seconds, 2)


def sampling(bench: Bench) -> Iterator[Figures]:
    """`save_samples` into an .npz, against the network alone; and whether CPU and GPU draw and score alike."""
    model = ddpm.load(MODEL, device=str(bench.device))
    rows = []
    for batch in bench.batches(64, 1024):
        for precision in PRECISIONS:
            rows.append(_drawing(bench, model, batch, precision))
            print(rows[-1], flush=True)
    yield {"model": MODEL.name, "calls": CALLS, "rows": rows, "agreement": _agreement(bench, model)}


def _drawing(bench: Bench, model: Model, batch: int, precision: str) -> Figures:
    seeds = range(batch if bench.tiny else max(4096, 8 * batch))
    x = torch.randn(batch, *model.geometry.shape, device=bench.device)
    t = torch.full((batch,), 500, device=bench.device)
    alone = computed_in(precision, bench.device, forward(model.network, x, t))
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(1_000_000))

        def drawn() -> None:
            out = Path(folder) / f"{next(numbers)}.npz"
            ddpm.save_samples(
                model, out, seeds=seeds, steps=CALLS, batch_size=batch, precision=precision, progress=False
            )

        taken = bench.alternate({"sample": drawn, "network": alone}, seconds=1)
    row = {"batch": batch, "precision": precision, "images": len(seeds)}
    row["sample"] = round(len(seeds) / taken["sample"], 1)
    return row | {"network_alone": round(batch / (CALLS * taken["network"]), 1)}


def _agreement(bench: Bench, model: Model) -> Figures:
    """The same seeds on the CPU and here: grey levels that differ, by precision; and the bound in float32."""
    on_cpu = ddpm.load(MODEL, device="cpu")
    seeds = range(4 if bench.tiny else AGREE)
    expected = ddpm.sample(on_cpu, seeds=seeds, steps=CALLS, progress=False)
    found: Figures = {}
    for precision in PRECISIONS:
        images = ddpm.sample(model, seeds=seeds, steps=CALLS, precision=precision, progress=False)
        apart = np.abs(images.astype(int) - expected)
        found[precision] = {"differing_share": float((apart > 0).mean()), "most_grey_levels": int(apart.max())}
        print(f"{precision} against the CPU's float32: {found[precision]}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images.npz"
        np.savez(data, images=expected)
        calls = 256 if bench.tiny else 4096
        bounds = [_bound(one, data, calls) for one in (on_cpu, model)]
    found["bound"] = {"cpu": bounds[0], "here": bounds[1], "relative_difference": abs(bounds[1] / bounds[0] - 1)}
    print(f"bound: {found['bound']}", flush=True)
    return found


def _bound(model: Model, data: Path, calls: int) -> float:
    report: Any = ddpm.evaluate_likelihood(model, data=str(data), calls=calls, progress=False)
    return float(report.bound.total.value)


def printed_loop(figures: Figures) -> str:
    """The loop against the bare step."""
    lines = []
    for row in figures["rows"]:
        speeds = [f"{row[key]:,.0f}" for key in ("loop", "bare_step")]
        lines.append([f"train, batch {row['batch_size']}, {row['precision']}", *speeds, f"{row['share']:.3f}"])
    start = f"First step {figures['first_step_seconds']} s after the command `ddpm train`."
    return f"{table(['images/s', 'loop', 'bare step', 'loop / step'], lines)}\n\n{start}"


def printed_sampling(figures: Figures) -> str:
    """Drawing against the network alone, and the agreement."""
    lines = [
        [
            f"sample, {figures['model']}, {figures['calls']} calls, batch {row['batch']}, {row['precision']}",
            f"{row['sample']:,.0f}",
            f"{row['network_alone']:,.0f}",
        ]
        for row in figures["rows"]
    ]
    agreement = figures["agreement"]
    told = [
        f"{name}: {agreement[name]['differing_share']:.4%} of the grey levels differ from the CPU's, by at most "
        f"{agreement[name]['most_grey_levels']}"
        for name in PRECISIONS
    ]
    bound = f"bounds differ by {agreement['bound']['relative_difference']:.1e} of themselves"
    return f"{table(['images/s', 'into an .npz', 'network alone'], lines)}\n\n{'; '.join([*told, bound])}."
