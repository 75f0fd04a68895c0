"""Part `memory` of gpu.py: the measured peak of a training step against the dry run's estimate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from on_device import Bench, Figures, table
from torch.profiler import ProfilerActivity, profile

from ddpm.errors import InputError
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


def memory(bench: Bench) -> Iterator[Figures]:
    """Bytes of each case in eager mode, and estimate / measured."""
    rows = []
    for name, changes in CASES[1:2] if bench.tiny else CASES:
        recipe = bench.recipe(name, **changes)
        row: Figures = {"recipe": name, **changes, "estimate": peak_memory(recipe)}
        bench.forget()
        try:
            with Peak(bench) as peak:
                peak.of(Learner(recipe, bench.device))
            row |= peak.against(row["estimate"])
        except InputError as error:
            row["problem"] = str(error)
        rows.append(row)
        print(row, flush=True)
        yield {"rows": rows}


class Peak:
    """What PyTorch's allocator gives out at the peak of a learner's step, beside what was in use on entry; all that the
    learner itself takes is made inside. On the CPU it is the profiler's record, from the entry on."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.bytes, self._before = bench, 0, 0
        self._record = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def __enter__(self) -> Peak:
        if self.bench.device.type == "cuda":
            self._before = torch.cuda.memory_allocated(self.bench.device)
        else:
            self._record.__enter__()
        return self

    def of(self, learner: Learner) -> None:
        """Do two steps and look at the second: in the first the optimiser makes its moments."""
        batch, cuda = blank_batch(learner.recipe), self.bench.device.type == "cuda"
        learner.step(batch)
        self.bench.wait()
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.bench.device)
        learner.step(batch)
        self.bench.wait()
        if cuda:
            self.bytes = torch.cuda.max_memory_allocated(self.bench.device) - self._before

    def __exit__(self, *error: Any) -> None:
        if self.bench.device.type != "cuda":
            self._record.__exit__(*error)
            events = [event for event in self._record.profiler.kineto_results.events() if event.name() == "[memory]"]
            ordered = sorted(events, key=lambda event: event.start_ns())
            self.bytes = int(np.cumsum([event.nbytes() for event in ordered]).max())

    def against(self, estimate: int) -> Figures:
        """The figures of a row."""
        return {"measured": self.bytes, "ratio": round(estimate / self.bytes, 3)}


def printed(figures: Figures) -> str:
    """A row a case."""
    keys = ("batch_size", "precision", "micro_batch", "checkpointing", "network", "compiled")
    lines = []
    for row in figures["rows"]:
        settings = ", ".join(f"{key} = {row[key]}" for key in keys if key in row)
        found = f"{row['measured'] / 1e9:.2f}" if "measured" in row else row["problem"]
        lines.append([row["recipe"], settings, f"{row['estimate'] / 1e9:.2f}", found, row.get("ratio", "")])
    return table(["recipe", "settings", "estimate, GB", "measured, GB", "estimate / measured"], lines)
