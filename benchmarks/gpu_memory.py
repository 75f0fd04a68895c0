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
from ddpm.training.compiling import compile_learner
from ddpm.training.learner import Learner
from ddpm.training.step_memory import blank_batch, peak_memory

CASES: Sequence[tuple[str, dict[str, Any]]] = (
    ("fashion-mnist", {"batch_size": 512}),
    ("cifar10", {"batch_size": 128, "precision": "float32"}),
    ("cifar10", {"batch_size": 128, "precision": "bfloat16"}),
    ("cifar10", {"batch_size": 512, "precision": "bfloat16"}),
    ("cifar10", {"batch_size": 512, "precision": "bfloat16", "network": {"dropout": 0.1}}),
    ("cifar10", {"batch_size": 512, "precision": "bfloat16", "micro_batch": 128}),
    ("cifar10", {"batch_size": 512, "precision": "bfloat16", "checkpointing": True}),
    ("lsun-bedroom-256", {"batch_size": 8, "micro_batch": None, "precision": "tf32"}),
    ("lsun-bedroom-256", {"precision": "bfloat16"}),
    ("lsun-bedroom-256-large", {"precision": "bfloat16", "checkpointing": True}),
)
COMPILED = CASES[3:4]  # also measured compiled, in the part that has time to compile


def memory(bench: Bench) -> Figures:
    """Bytes of each case in eager mode, and estimate / measured."""
    return {"rows": [row_of(bench, name, changes) for name, changes in (CASES[1:2] if bench.tiny else CASES)]}


def row_of(bench: Bench, name: str, changes: dict[str, Any], *, compiled: bool = False) -> Figures:
    """One case."""
    recipe = bench.recipe(name, **changes)
    row: Figures = {"recipe": name, **changes, "estimate": peak_memory(recipe, compiled=compiled)}
    row |= {"compiled": True} if compiled else {}
    bench.forget()
    try:
        row["measured"] = measured(bench, recipe, compiled=compiled)
        row["ratio"] = round(row["estimate"] / row["measured"], 3)
    except InputError as error:
        row["problem"] = str(error)
    print(row, flush=True)
    return row


def measured(bench: Bench, recipe: Recipe, *, compiled: bool) -> int:
    """Bytes that PyTorch's allocator gave out at the peak of a training step, beside what was in use before a learner.

    The first step, which compiles, makes the optimiser's moments and chooses kernels, does not count.
    """
    found: list[int] = []
    before = torch.cuda.memory_allocated(bench.device) if bench.device.type == "cuda" else 0

    def train() -> None:
        learner, batch = Learner(recipe, bench.device), blank_batch(recipe)
        if compiled:
            print(compile_learner(learner), flush=True)
        learner.step(batch)
        bench.wait()
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(bench.device)
        learner.step(batch)
        bench.wait()
        if bench.device.type == "cuda":
            found.append(torch.cuda.max_memory_allocated(bench.device) - before)

    if bench.device.type != "cuda":
        return _on_cpu(train)
    train()
    return found[0]


def _on_cpu(work: Callable[[], None]) -> int:
    """The same from the profiler's record of the CPU's allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    return int(np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]).max())


def printed(figures: Figures) -> str:
    """A row a case."""
    keys = ("batch_size", "precision", "micro_batch", "checkpointing", "network", "compiled")
    lines = []
    for row in figures["rows"]:
        settings = ", ".join(f"{key} = {row[key]}" for key in keys if key in row)
        found = f"{row['measured'] / 1e9:.2f}" if "measured" in row else row["problem"]
        lines.append([row["recipe"], settings, f"{row['estimate'] / 1e9:.2f}", found, row.get("ratio", "")])
    return table(["recipe", "settings", "estimate, GB", "measured, GB", "estimate / measured"], lines)
