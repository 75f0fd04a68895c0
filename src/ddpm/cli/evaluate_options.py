"""What ddpm evaluate is told, and what of it makes no sense."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.errors import InputError

if TYPE_CHECKING:
    from ddpm.likelihood.scoring import Scoring
    from ddpm.model import Model
    from ddpm.samplers import Sampling

CALLS = 4096
SOLVER_STEPS = 40
SCORED_AT_ONCE = 128  # images
DRAWN_AT_ONCE = 64  # as in `ddpm sample`: pictures are the same to the last bit only in the same batches
SAMPLES, FEWER_SAMPLES = 2048, 256  # for distances; for neighbours alone

BOUND_METRICS = ("bits", "rate", "ode")
DISTANCES = ("fid", "kid")
DRAWN_METRICS = ("neighbours", *DISTANCES)
DRAWING = ("sampler", "spacing", "eta", "threshold", "class_name", "guidance", "seeds", "samples")
USED_BY = {
    "calls": {*BOUND_METRICS},
    "full": {"bits", "rate"},
    "levels": {"bits", "rate"},
    "limit": {*BOUND_METRICS, "codec"},
    "seed": {*BOUND_METRICS},
    "steps": {"ode", *DRAWN_METRICS},
    "keep": {"rate", "codec", *DRAWN_METRICS},  # and what a full sum or the curve of levels leaves behind
    "training_data": {"neighbours"},
    "features": {*DISTANCES},
    "save_statistics": {"fid"},
    **{option: {*DRAWN_METRICS} for option in DRAWING},
}
OF_A_MODEL = ("steps", "variance", *DRAWING, "weights", "keep")


@dataclass(frozen=True)
class Options:
    """What the command line says, under the names of its parameters; None is unsaid."""

    run: str
    data: str
    metric: Sequence[str]
    features: str | None = None
    samples: int | None = None
    seeds: str | None = None
    sampler: str | None = None
    steps: int | None = None
    spacing: str | None = None
    eta: float | None = None
    variance: str | None = None
    threshold: str = "static"
    class_name: str | None = None
    guidance: float = 1.0
    calls: int | None = None
    full: bool = False
    shard: str | None = None
    levels: int | None = None
    limit: int | None = None
    seed: int | None = None
    training_data: str | None = None
    weights: str = "averaged"
    keep: str | None = None
    save_statistics: str | None = None
    batch_size: int | None = None
    device: str = "auto"
    as_json: bool = False

    # ---- what is asked ----------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> tuple[str, ...]:
        """Each once."""
        return tuple(dict.fromkeys(self.metric))

    @property
    def bounds(self) -> bool:
        """Whether bits are asked for."""
        return bool(set(self.metrics) & set(BOUND_METRICS))

    @property
    def draws(self) -> bool:
        """Whether pictures are asked for."""
        return bool(set(self.metrics) & set(DRAWN_METRICS))

    @property
    def distances(self) -> tuple[str, ...]:
        """Those asked for."""
        return tuple(name for name in self.metrics if name in DISTANCES)

    @property
    def of_images(self) -> bool:
        """Whether the pictures to judge are there already: the first argument is no run, and no metric needs one."""
        return not _is_run(self.run) and set(self.metrics) <= set(DISTANCES)

    @property
    def sampling(self) -> Sampling:
        """How pictures are drawn; beside a bound, the variance is theirs too only if their sampler has one anyway."""
        from ddpm.denoiser import REVERSE_VARIANCES
        from ddpm.samplers import Sampling
        from ddpm.samplers.sampling import known

        rest: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("sampler", "steps", "spacing", "eta", "threshold", "class_name", "guidance")
        }
        known("variance", self.variance, REVERSE_VARIANCES)
        if self.bounds and Sampling(**rest).method != "ancestral":
            return Sampling(**rest)
        return Sampling(variance=self.variance, **rest)

    @property
    def numbers(self) -> Sequence[int]:
        """The seeds of the pictures."""
        from ddpm.seeding import parse_seeds

        if self.seeds is None:
            return range(self.samples or (SAMPLES if self.distances else FEWER_SAMPLES))
        found = parse_seeds(self.seeds)
        if self.samples not in (None, len(found)):
            raise InputError(
                f"--samples {self.samples} and --seeds {self.seeds} ({len(found):,}) differ; leave one out."
            )
        return found

    @property
    def scored_at_once(self) -> int:
        """Images of the bounds in a network call."""
        return self.batch_size or SCORED_AT_ONCE

    @property
    def drawn_at_once(self) -> int:
        """Pictures in a network call, and images whose features are computed together."""
        return self.batch_size or DRAWN_AT_ONCE

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

    @property
    def _files(self) -> bool:
        """Whether bits leave files behind: shards, or the curve of levels."""
        return self.full or self.levels is not None

    # ---- what makes no sense ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse what can be refused before a file is read: unknown names, options that would do nothing, budgets that
        are none, outputs that cannot be written."""
        from ddpm.evaluation import METRICS
        from ddpm.files import check_output

        for name in self.metrics:
            if name not in METRICS:
                raise InputError(f"there is no metric '{name}'; there are {', '.join(METRICS)}.")
        self._check_budgets()
        for option in USED_BY:
            if self._said(option) and self._idle(option):
                asked = " and ".join(self.metrics)
                raise InputError(f"{_written(option)} means nothing to --metric {asked}; leave it out.")
        self._check_pictures()
        if self.keep is not None:
            check_output(self.keep, folder=True)
        if self.distances:
            self._check_distances(self.distances[0])

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

    def _check_budgets(self) -> None:
        if self.calls is not None and self.calls < 1:
            raise InputError(f"--calls {self.calls} is no budget; {CALLS} would fit.")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit} leaves nothing to score; 1 would fit.")
        if self.steps is not None and "ode" in self.metrics:
            if self.steps < 1:
                raise InputError(f"--steps {self.steps} leads nowhere; {SOLVER_STEPS} would fit.")
            if self.draws:
                drawn = " and ".join(name for name in self.metrics if name in DRAWN_METRICS)
                raise InputError(f"--steps means the solver's to ode and the sampler's to {drawn}; ask one at a time.")
        if self.full and self.calls is not None and "ode" not in self.metrics:
            raise InputError("--full sums every level of every image, so there is no budget: leave --calls out.")
        if self.shard is not None and not self.full:
            raise InputError("--shard shares out a full sum: it needs --full.")
        assert self.part

    def _check_pictures(self) -> None:
        if self.of_images:
            said = next((option for option in OF_A_MODEL if self._said(option)), None)
            if said is not None:
                came = f"'{self.run}' is no run, so its pictures are there already"
                raise InputError(f"{came} and {_written(said)} means nothing to them; leave it out.")
        elif self.draws:
            assert self.sampling
            assert self.numbers

    def _check_distances(self, name: str) -> None:
        from ddpm.distances import is_statistics

        if self.features is None:
            raise InputError(f"--metric {name} needs --features: pixels, or the file of a torch.export program.")
        if "kid" in self.metrics and is_statistics(self.data):
            came = f"'{self.data}' holds only their mean and covariance"
            raise InputError(f"--metric kid needs images, and {came}; --metric fid, or the images, would fit.")
        if self.keep is not None:
            files = [
                name
                for name in self.metrics
                if name in ("rate", "codec", "neighbours") or (name == "bits" and self._files)
            ]
            if files:
                came = f"--keep is the pictures' folder to {name} and another one to {' and '.join(files)}"
                raise InputError(f"{came}; ask one at a time.")
        if self.save_statistics is not None:
            self._check_statistics(self.save_statistics)

    def _check_statistics(self, path: str) -> None:
        from ddpm.distances import check_statistics_file, is_statistics
        from ddpm.files import writable_folder

        if is_statistics(self.data):
            raise InputError(f"'{self.data}' is statistics already; leave --save-statistics out.")
        if check_statistics_file(path).exists() and not is_statistics(path):
            raise InputError(
                f"'{path}' is there and holds no statistics; --save-statistics with another name would fit."
            )
        writable_folder(Path(path).parent)

    def _said(self, option: str) -> bool:
        default = next(field.default for field in fields(self) if field.name == option)
        return bool(getattr(self, option) != default)

    def _idle(self, option: str) -> bool:
        """Whether none of the metrics looks at an option."""
        if set(self.metrics) & USED_BY[option]:
            return False
        return option != "keep" or not self._files


def _is_run(path: str) -> bool:
    """Whether a path is a run or a checkpoint, whole or not."""
    from ddpm.checkpoint import is_run

    return is_run(Path(path))


def _written(option: str) -> str:
    """As on the command line."""
    return "--class" if option == "class_name" else f"--{option.replace('_', '-')}"
