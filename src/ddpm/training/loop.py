"""The training loop: one story from a recipe and images to a run folder, and the same call again goes on."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ddpm.checkpoint import checkpoints, prune, read_config, read_training, read_weights, write_checkpoint
from ddpm.data import ImageSet, batches
from ddpm.errors import DamagedFile, InputError
from ddpm.likelihood.estimate import estimate_bound
from ddpm.model import resolve_device
from ddpm.pictures import save_grid
from ddpm.recipe import Recipe
from ddpm.samplers import Sampling
from ddpm.scored import scoring_for
from ddpm.training.learner import Learner, learning_rate
from ddpm.training.plot import plot_loss
from ddpm.training.run import VALIDATION, RunFolder

GRID_SEEDS = range(16)
GRID_STEPS = 20


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    images, total      seen so far, and in the end
    loss               mean since the last log line, None before the first
    images_per_second  since the last log line
    """

    images: int
    total: int
    loss: float | None = None
    images_per_second: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """At the present speed."""
        return (self.total - self.images) / self.images_per_second if self.images_per_second else None


def train(
    recipe: Recipe,
    images: ImageSet,
    folder: str | Path,
    *,
    held_out: ImageSet | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Train until recipe.train_images were seen (to the end of that batch); resume if the folder holds this run.

    recipe    fully resolved for these images
    held_out  images the bound is estimated on at intervals; None: on none

    SIGINT and SIGTERM end the step in hand and save; then KeyboardInterrupt or SystemExit is raised.
    """
    run = RunFolder(Path(folder))
    run.check(recipe, images)
    learner = Learner(recipe, resolve_device(recipe.device), images.class_names)
    _check_held_out(learner, images, held_out)
    with run.lock():
        if not _restore(learner, run, say):
            learner.begin(images)
        run.begin(recipe, images)
        run.forget_after(learner.images_seen)
        if learner.images_seen >= recipe.train_images:
            say(f"'{run.path}' is complete at {learner.images_seen:,} images; a larger train_images continues.")
        stopped = _learn(learner, run, images, held_out, on_progress, say)
        _save(learner, run, images)
        if not stopped:
            _draw(learner, run)
            _validate(learner, run, held_out, say)
            return
        plot_loss(run.metrics(), run.loss_plot)
    sentence = f"stopped at {learner.images_seen:,} images and saved; the same call goes on from there."
    if stopped == signal.SIGINT:
        raise KeyboardInterrupt(sentence)
    say(sentence)
    raise SystemExit(128 + stopped)


def _learn(
    learner: Learner,
    run: RunFolder,
    images: ImageSet,
    held_out: ImageSet | None,
    on_progress: Callable[[Progress], None],
    say: Callable[[str], None],
) -> int:
    """Step until the recipe's images were seen, or a signal came: its number, else 0."""
    recipe = learner.recipe
    meter = _Meter(learner.images_seen, recipe.train_images, on_progress)
    stream = batches(
        images, seed=recipe.seed, position=learner.images_seen, batch_size=recipe.batch_size, flip=recipe.training.flip
    )
    with _stop_on_signal() as stopped, contextlib.closing(stream):
        while learner.images_seen < recipe.train_images and not stopped:
            before = learner.images_seen
            learner.step(next(stream))
            passed = functools.partial(_passed, before, learner.images_seen)
            if passed(recipe.training.log_images):
                _log(learner, run, meter)
            if passed(recipe.training.sample_images):
                _draw(learner, run)
            if passed(recipe.training.validate_images):
                _validate(learner, run, held_out, say)
            if passed(recipe.training.checkpoint_images):
                _save(learner, run, images)
            meter.advance(learner.images_seen)
    return stopped[0] if stopped else 0


def _restore(learner: Learner, run: RunFolder, say: Callable[[str], None]) -> bool:
    """Go back to the newest checkpoint, if there is one; returns whether there was."""
    prune(run.path)
    found = checkpoints(run.path)
    if found:
        try:
            config = read_config(found[-1])
            weights = {kind: read_weights(found[-1], config, kind) for kind in learner.weights()}
            learner.restore(weights, read_training(found[-1], config))
        except DamagedFile as error:
            raise DamagedFile(f"{str(error)[:-1]}; without that folder the run goes on from the one before.") from None
        say(f"Resuming at {learner.images_seen:,} images: weights, averages, optimiser and position from {found[-1]}.")
    return bool(found)


def _passed(before: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, now]."""
    return now // every != before // every


def _log(learner: Learner, run: RunFolder, meter: _Meter) -> None:
    _require_finite(learner)
    loss = learner.take_loss()
    speed = meter.lap(learner.images_seen, loss)
    rate = learning_rate(learner.recipe, learner.images_seen)
    run.append_metrics(
        {"images": learner.images_seen, "loss": loss, "learning_rate": rate, "images_per_second": round(speed, 2)}
    )


def _draw(learner: Learner, run: RunFolder) -> None:
    """A grid of 16 pictures from the averaged weights, always of the same seeds; and the loss curve."""
    path = run.sample_file(learner.images_seen)
    if path.exists():
        return
    model = learner.averaged_model()
    steps = min(GRID_STEPS, learner.recipe.process.steps)
    save_grid(model.draw(GRID_SEEDS, Sampling(steps=steps, spacing="uniform")), path)
    plot_loss(run.metrics(), run.loss_plot)


def _check_held_out(learner: Learner, images: ImageSet, held_out: ImageSet | None) -> None:
    """Before the first step: the held-out images must fit the model, and must not be the training images."""
    if held_out is None:
        return
    if held_out.fingerprint == images.fingerprint:
        raise InputError(f"validation '{held_out.name}' holds the training images; images held out would fit.")
    scoring_for(learner.averaged_model(), held_out)


def _validate(learner: Learner, run: RunFolder, held_out: ImageSet | None, say: Callable[[str], None]) -> None:
    """Estimate the bound of the averaged weights, always by the same random calls."""
    if held_out is None or learner.images_seen in [line["images"] for line in run.validation()]:
        return
    scoring = scoring_for(learner.averaged_model(), held_out)
    bound = estimate_bound(scoring, learner.recipe.training.validation_calls)
    terms = {name: value for name, value in asdict(bound).items() if name in VALIDATION}
    run.append_validation({**terms, "images": learner.images_seen})
    total = bound.total
    say(f"{learner.images_seen:,} images: {total.value:.4f} ± {total.error:.4f} bits per dimension on {held_out.name}.")


def _save(learner: Learner, run: RunFolder, images: ImageSet) -> None:
    """Write a checkpoint unless this point already has one; weights that are no numbers are not saved."""
    _require_finite(learner, weights=True)
    folder = run.checkpoint(learner.images_seen)
    if folder.exists():
        return
    write_checkpoint(
        folder,
        recipe=learner.recipe,
        weights=learner.weights(),
        class_names=learner.class_names,
        images_seen=learner.images_seen,
        data_fingerprint=images.fingerprint,
        training=learner.state(),
    )
    prune(run.path)


def _require_finite(learner: Learner, *, weights: bool = False) -> None:
    if not learner.finite(weights=weights):
        raise InputError(
            f"the loss or the weights are no longer numbers at {learner.images_seen:,} images; a new --out with a "
            'lower learning_rate or precision = "float32" would help, the last checkpoint is kept.'
        )


class _Meter:
    """Speed since the last lap, handed on as Progress."""

    def __init__(self, images: int, total: int, on_progress: Callable[[Progress], None]) -> None:
        self.start, self.clock = images, time.monotonic()
        self.last = Progress(images, total)
        self.on_progress = on_progress

    def advance(self, images: int) -> None:
        """Report that so many images were seen by now."""
        self.last = Progress(images, self.last.total, self.last.loss, self.last.images_per_second)
        self.on_progress(self.last)

    def lap(self, images: int, loss: float) -> float:
        """Images per second since the last lap."""
        now = time.monotonic()
        speed = (images - self.start) / max(now - self.clock, 1e-9)
        self.start, self.clock = images, now
        self.last = Progress(images, self.last.total, loss, speed)
        return speed


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """Note the first SIGINT or SIGTERM, so that the step in hand ends whole; a second one acts as usual."""
    stopped: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def put_back() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        put_back()

    for number in previous:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        put_back()
