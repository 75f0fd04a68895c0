"""What ddpm evaluate is told, and what of it makes no sense."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.errors import InputError

if TYPE_CHECKING:
    from ddpm.likelihood.scoring import Scoring
    from ddpm.model import Model

CALLS = 4096
SOLVER_STEPS = 40
BOUND_METRICS = ("bits", "rate", "ode")
USED_BY = {
    "calls": {*BOUND_METRICS},
    "full": {"bits", "rate"},
    "levels": {"bits", "rate"},
    "limit": {*BOUND_METRICS},
    "seed": {*BOUND_METRICS},
    "steps": {"ode", "neighbours"},
    "keep": {"rate", "neighbours"},  # and what a full sum or the curve of levels leaves behind
    "samples": {"neighbours"},
    "training_data": {"neighbours"},
}


@dataclass(frozen=True)
class Options:
    """What the command line says; None is unsaid."""

    run: str
    metrics: tuple[str, ...]
    calls: int | None = None
    full: bool = False
    shard: str | None = None
    levels: int | None = None
    steps: int | None = None
    variance: str | None = None
    limit: int | None = None
    seed: int | None = None
    batch_size: int = 128
    keep: str | None = None
    samples: int | None = None
    training_data: str | None = None

    def check(self) -> None:
        """Refuse options that would do nothing, and budgets that are none."""
        if self.calls is not None and self.calls < 1:
            raise InputError(f"--calls {self.calls} is no budget; {CALLS} would fit.")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit} leaves nothing to score; 1 would fit.")
        if self.steps is not None and self.steps < 1 and "ode" in self.metrics:
            raise InputError(f"--steps {self.steps} leads nowhere; {SOLVER_STEPS} would fit.")
        if self.steps is not None and {"ode", "neighbours"} <= set(self.metrics):
            raise InputError("--steps means the solver's to ode and the sampler's to neighbours; ask one at a time.")
        if self.full and self.calls is not None and "ode" not in self.metrics:
            raise InputError("--full sums every level of every image, so there is no budget: leave --calls out.")
        if self.shard is not None and not self.full:
            raise InputError("--shard shares out a full sum: it needs --full.")
        for option in USED_BY:
            if self._idle(option):
                name = f"--{option.replace('_', '-')}"
                raise InputError(f"{name} means nothing to --metric {' and '.join(self.metrics)}; leave it out.")
        assert self.part

    def _idle(self, option: str) -> bool:
        """Whether an option was given that none of the metrics looks at."""
        if getattr(self, option) in (None, False) or set(self.metrics) & USED_BY[option]:
            return False
        return option != "keep" or not (self.full or self.levels is not None)

    def check_with(self, model: Model, scoring: Scoring) -> None:
        """Refuse, before the first network call, what would fail after some of them."""
        from ddpm.evaluation.ode import images_within
        from ddpm.files import writable_folder
        from ddpm.likelihood.estimate import FEWEST_CALLS

        steps = scoring.chain.steps
        if "bits" in self.metrics and not self.full and self.budget < FEWEST_CALLS:
            raise InputError(f"--calls {self.calls} are too few for --metric bits; {FEWEST_CALLS} would fit.")
        if "rate" in self.metrics and not self.full and (self.calls or steps) < steps:
            raise InputError(f"--calls {self.calls} do not reach all {steps} levels for --metric rate; {steps} would.")
        if "ode" in self.metrics:
            images_within(self.budget, self.steps or SOLVER_STEPS)
            if model.recipe.objective.prediction == "mean":
                raise InputError(f"--metric ode needs a network of eps, x0 or v; '{model.source}' predicts 'mean'.")
        if self.full or "rate" in self.metrics or self.keep is not None:
            writable_folder(self.folder)

    @property
    def budget(self) -> int:
        """Network calls of an estimate."""
        return CALLS if self.calls is None else self.calls

    @property
    def part(self) -> tuple[int, int]:
        """Which shards of a full sum are this process's: (i, n) from "i/n"."""
        if self.shard is None:
            return (1, 1)
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.shard)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--shard '{self.shard}' is no share of the work; 1/4 to 4/4 would fit.")
        return int(match[1]), int(match[2])

    @property
    def folder(self) -> Path:
        """Where files go: --keep, else evaluation/ in the run (or checkpoint) that was named."""
        return Path(self.keep) if self.keep is not None else Path(self.run) / "evaluation"
