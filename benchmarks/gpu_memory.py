"""Part `memory` of gpu.py: the measured peak of a training step against the dry run's estimate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from on_device import Bench, Figures, table
from torch.profiler import ProfilerActivity, profile

from ddpm.errors import InputError
from ddpm.model.recipe import Recipe
from ddpm.training.learner import Learner
from ddpm.training.step_memory import STEPS, blank_batch, peak_memory

CASES: Sequence[tuple[str, dict[str, Any]]] = (
    ("fashion-mnist", {"batch_size": 512}),
    ("cifar10", {"batch_size": 128, "precision": "float32"}),
    ("cifar10", {"batch_size": 128, "precision": "bfloat16"}),
    ("cifar10", {"batch_size": 512, "precision": "bfloat16"}),
    ("cifar10", {"batch_size": 512, "precision": "bfloat16", "micro_batch": 128}),
    ("cifar10", {"batch_size": 512, "precision": "bfloat16"}),
    ("lsun-bedroom-256", {"batch_size": 8, "precision": "tf32"}),
    ("lsun-bedroom-256", {"batch_size": 16, "precision": "bfloat16"}),
    ("lsun-bedroom-256", {"batch_size": 64, "precision": "bfloat16", "micro_batch": 16}),
    ("lsun-bedroom-256-large", {"batch_size": 8, "precision": "bfloat16"}),
)


def memory(bench: Bench) -> Figures:
    """Bytes of each case, and estimate / measured."""
    rows = []
    for name, changes in CASES[1:2] if bench.tiny else CASES:
        recipe = bench.recipe(name, **changes)
        row: Figures = {"recipe": name, **changes, "estimate": peak_memory(recipe)}
        bench.forget()
        try:
            row["measured"] = measured(bench, recipe)
            row["ratio"] = round(row["estimate"] / row["measured"], 3)
        except InputError as error:
            row["problem"] = str(error)
        rows.append(row)
        print(row, flush=True)
    return {"rows": rows}


def measured(bench: Bench, recipe: Recipe) -> int:
    """Bytes that PyTorch's allocator gave out at the peak of a few training steps, beside what was in use before."""

    def train() -> None:
        learner, batch = Learner(recipe, bench.device), blank_batch(recipe)
        for _ in range(STEPS):
            learner.step(batch)
        bench.wait()

    if bench.device.type != "cuda":
        return _on_cpu(train)
    before = torch.cuda.memory_allocated(bench.device)
    torch.cuda.reset_peak_memory_stats(bench.device)
    train()
    return torch.cuda.max_memory_allocated(bench.device) - before


def _on_cpu(work: Callable[[], None]) -> int:
    """The same from the profiler's record of the CPU's allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    return int(np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]).max())


def printed(figures: Figures) -> str:
    """A row a case."""
    keys = ("batch_size", "precision", "micro_batch", "checkpointing")
    lines = []
    for row in figures["rows"]:
        settings = ", ".join(f"{key} = {row[key]}" for key in keys if key in row)
        found = f"{row['measured'] / 1e9:.2f}" if "measured" in row else row["problem"]
        lines.append([row["recipe"], settings, f"{row['estimate'] / 1e9:.2f}", found, row.get("ratio", "")])
    return table(["recipe", "settings", "estimate, GB", "measured, GB", "estimate / measured"], lines)
