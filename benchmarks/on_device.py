"""What all parts of gpu.py share: the device, the sizes, and how works are timed beside each other."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ddpm.model.model import build_network
from ddpm.model.recipe import Recipe, changed, load_recipe, resolve
from ddpm.training.learner import Learner
from ddpm.training.step_memory import blank_batch

MODEL = Path(__file__).resolve().parents[1] / "models" / "fashion-mnist"
WARM_UP = 3  # calls of each work that do not count: libraries choose their kernels, allocators grow
BLOCK_SECONDS = 0.1  # how long a work is timed at a time, so that waiting for the device counts little
FEWEST_ROUNDS = 3
GEMM = 8192  # side of the matrices whose product is the peak

SMALL_NETWORK = {"channels": 8, "groups": 4, "multipliers": [1], "blocks": 1, "attention_levels": []}

Figures = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Where and on what sizes is measured.

    tiny  the same code on networks and batches so small that a CPU takes seconds for it; the figures say nothing
    """

    device: torch.device
    tiny: bool

    def recipe(self, name: str = "cifar10", **changes: Any) -> Recipe:
        """A resolved recipe without dropout, which two implementations draw in two ways; a narrow one if tiny."""
        size = {"image": {"height": 16, "width": 16}, "network": SMALL_NETWORK} if self.tiny else {}
        recipe = changed(load_recipe(name, {"device": str(self.device), **size}), {"network": {"dropout": 0.0}})
        return resolve(changed(recipe, changes), recipe.geometry, 0)

    def batches(self, *sizes: int) -> Sequence[int]:
        """Batch sizes; if tiny, the first of them is 2."""
        return [2] if self.tiny else sizes

    def wait(self) -> None:
        """Let an accelerator finish its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def forget(self) -> None:
        """Give unused memory back, so that one measurement does not stand on the blocks of another."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def seconds(self, work: Callable[[], object]) -> float:
        """Of one call, waited for."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def alternate(self, works: Mapping[str, Callable[[], object]], *, seconds: float = 0.5) -> dict[str, float]:
        """Seconds of a call of each work: the median over blocks of calls, all works in turn, after a warm-up.

        seconds  for each work, without its warm-up
        """
        calls = {}
        for name, work in works.items():
            for _ in range(1 if self.tiny else WARM_UP):
                work()
            calls[name] = 1 if self.tiny else max(1, round(BLOCK_SECONDS / self.seconds(work)))
        taken: dict[str, list[float]] = {name: [] for name in works}
        end = time.perf_counter() + (0 if self.tiny else seconds * len(works))
        rounds = 0
        while rounds < (1 if self.tiny else FEWEST_ROUNDS) or time.perf_counter() < end:
            for name, work in works.items():
                taken[name].append(self.seconds(lambda: [work() for _ in range(calls[name])]) / calls[name])  # noqa: B023
            rounds += 1
        return {name: statistics.median(values) for name, values in taken.items()}

    def gemm_peak(self) -> float:
        """Floating-point operations a second of a large product of bfloat16 matrices."""
        side = 128 if self.tiny else GEMM
        left, right = (torch.randn(side, side, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        return 2 * side**3 / self.alternate({"gemm": lambda: left @ right})["gemm"]


@dataclass(frozen=True)
class Arithmetic:
    """Floating-point operations that one image costs: a network call, and a training step (forward and backward)."""

    forward: int
    training: int


def arithmetic(recipe: Recipe) -> Arithmetic:
    """Counted on the meta device."""
    with torch.device("meta"):
        network, x = build_network(recipe), torch.empty(1, *recipe.geometry.shape)
    with FlopCounterMode(display=False) as counter:
        out = network(x, torch.zeros(1))
        forward = counter.get_total_flops()
        out.sum().backward()
    return Arithmetic(forward, counter.get_total_flops())


def training_step(network: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, t: Tensor) -> Callable[[], None]:
    """Forward, backward, the optimiser's step; no EMA, no clipping, no noise: what diffusers' examples do at least."""

    def work() -> None:
        optimiser.zero_grad()
        network(x, t).float().square().mean().backward()
        optimiser.step()

    return work


def whole_step(learner: Learner) -> Callable[[], None]:
    """Our learner's step: noise, loss, clipping, Adam, EMA, as in a run."""
    batch = blank_batch(learner.recipe)
    return lambda: learner.step(batch)


def forward(network: nn.Module, x: Tensor, t: Tensor) -> Callable[[], Tensor]:
    """One network call without gradients."""

    @torch.no_grad()
    def work() -> Tensor:
        out: Tensor = network(x, t)
        return out

    return work


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows of text, in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
