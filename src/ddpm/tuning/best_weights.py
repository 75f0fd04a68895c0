"""Choose which of a checkpoint's weights are used: the average (or the raw weights) whose samples are best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddpm.base.progress import Progress, progress_of
from ddpm.data.sources import ImageData
from ddpm.errors import InputError
from ddpm.generation.draw import draw, plan_for
from ddpm.model.checkpoint import check_tunable, find_checkpoint, kinds_held, load_model
from ddpm.model.chosen import Choice, write_choice
from ddpm.model.sidecar import EMA, RAW
from ddpm.samplers.plan import FAST, Sampling
from ddpm.tuning.criterion import training_criterion


@dataclass(frozen=True)
class ChoiceReport:
    """What `ddpm.tune_ema` returns: the file it wrote, and the choice in it."""

    file: Path
    choice: Choice

    def table(self) -> dict[str, Any]:
        """As plain values."""
        return {"file": str(self.file), **asdict(self.choice)}

    def lines(self) -> list[str]:
        """For a person."""
        choice, width = self.choice, max(map(len, self.choice.distances))
        rows = [
            f"{kind:{width}}  distance {distance:.4g}{', the least' if kind == choice.chosen else ''}"
            for kind, distance in choice.distances.items()
        ]
        alone = choice.distances.keys() <= {EMA, RAW}
        return [
            *rows,
            *(["This run tracked no other averages: training.ema_lengths names some."] if alone else []),
            f"{self.file}: {choice.criterion}, {choice.calls:,} network calls",
            f"{choice.chosen} weights are used from now on; --weights names others",
        ]


def tune_ema(
    run: str | Path,
    data: ImageData | None = None,
    *,
    steps: int = 20,
    features: Sequence[str] = ("pixels",),
    samples: int = 1024,
    seed: int = 0,
    batch_size: int = 64,
    device: str = "auto",
    progress: Progress | bool = True,
) -> ChoiceReport:
    """Choose which weights of a checkpoint `load` takes: those whose samples lie nearest to training images.

    Every kind draws by the same seeds, on the same levels: uniform ones, since tuned ones are about one kind.

    run         a run (its newest checkpoint) or a checkpoint; the choice is stored beside it
    data        None: the run's own training images; never those that samples will be compared with
    steps       network calls a sample
    features    that samples are compared by, see metrics.open_extractor; of several, the geometric mean counts
    samples     drawn with each kind
    batch_size  samples drawn at a time
    device      "auto", "cpu", "cuda", ...

    Errors (InputError): as of tune_timesteps; a checkpoint with one kind of weights.
    """
    report_to, folder = progress_of(progress), find_checkpoint(Path(run))
    check_tunable(folder)
    kinds = kinds_held(folder)
    if len(kinds) < 2:
        raise InputError(f"'{folder}' holds {' and '.join(kinds)} weights alone: there is nothing to choose from.")
    model = load_model(folder, weights=kinds[0], device=device)
    how = plan_for(model, Sampling(FAST, steps, "uniform"))
    criterion = training_criterion(model, data, features, samples=samples, seed=seed)
    calls = len(kinds) * samples * how.calls
    report_to.say(f"{', '.join(kinds)} weights of {folder}: {samples:,} samples each, {calls:,} network calls.")
    distances = {}
    with report_to.stage("Sampling", calls) as advance:
        for kind in kinds:
            model = load_model(folder, weights=kind, device=device)
            drawn = draw(model, criterion.seeds(), how, batch_size=batch_size, advance=advance)
            distances[kind] = criterion.of(drawn)
    best = min(kinds, key=distances.__getitem__)
    choice = Choice(best, distances, str(criterion), steps, samples, calls, seed, criterion.data)
    return ChoiceReport(write_choice(model, choice), choice)
