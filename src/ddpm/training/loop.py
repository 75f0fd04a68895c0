"""The training loop: one story from a recipe and images to a run folder, and the same call again goes on."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from ddpm.base.files import only_process
from ddpm.base.image_io import save_grid
from ddpm.base.progress import SILENT, Progress
from ddpm.data import ImageSet, batches
from ddpm.errors import DamagedFile, InputError
from ddpm.generation.draw import draw, plan_for
from ddpm.likelihood.estimate import estimate_bound
from ddpm.model.checkpoint import checkpoints, prune, read_config, read_training, read_weights, write_checkpoint
from ddpm.model.model import resolve_device
from ddpm.model.recipe import Recipe
from ddpm.model.scoring import scoring_for
from ddpm.samplers import Sampling
from ddpm.training.learner import Learner, learning_rate
from ddpm.training.plot import plot_loss
from ddpm.training.run_folder import VALIDATION, RunFolder

GRID_SEEDS = range(16)
GRID_STEPS = 20


def train(
    recipe: Recipe,
    images: ImageSet,
    folder: str | Path,
    *,
    held_out: ImageSet | None = None,
    progress: Progress = SILENT,
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
    with only_process(run.path):
        if not _restore(learner, run, progress):
            learner.begin(images)
        run.begin(recipe, images)
        run.forget_after(learner.images_seen)
        if learner.images_seen >= recipe.train_images:
            progress.say(
                f"'{run.path}' is complete at {learner.images_seen:,} images; a larger train_images continues."
            )
        stopped = _learn(learner, run, images, held_out, progress)
        _save(learner, run, images)
        _plot(learner, run)
        if not stopped:
            _say_loss(learner, run, progress)
            _draw(learner, run)
            _validate(learner, run, held_out, progress)
            return
    sentence = f"stopped at {learner.images_seen:,} images and saved; the same call goes on from there."
    if stopped == signal.SIGINT:
        raise KeyboardInterrupt(sentence)
    progress.say(sentence)
    raise SystemExit(128 + stopped)


def _learn(
    learner: Learner,
    run: RunFolder,
    images: ImageSet,
    held_out: ImageSet | None,
    progress: Progress,
) -> int:
    """Step until the recipe's images were seen, or a signal came: its number, else 0."""
    recipe = learner.recipe
    meter = _Meter(learner.images_seen)
    stream = batches(
        images, seed=recipe.seed, position=learner.images_seen, batch_size=recipe.batch_size, flip=recipe.training.flip
    )
    with (
        _stop_on_signal() as stopped,
        contextlib.closing(stream),
        progress.stage("Training", recipe.train_images, learner.images_seen) as advance,
    ):
        while learner.images_seen < recipe.train_images and not stopped:
            before = learner.images_seen
            learner.step(next(stream))
            passed = functools.partial(_passed, before, learner.images_seen)
            if passed(recipe.training.log_images):
                _log(learner, run, meter)
            if passed(recipe.training.sample_images):
                _draw(learner, run)
                _plot(learner, run)
            if passed(recipe.training.validate_images):
                _validate(learner, run, held_out, progress)
            if passed(recipe.training.checkpoint_images):
                _save(learner, run, images)
            advance(learner.images_seen - before, meter.note)
    return stopped[0] if stopped else 0


def _restore(learner: Learner, run: RunFolder, progress: Progress) -> bool:
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
        progress.say(
            f"Resuming at {learner.images_seen:,} images: weights, EMA, optimiser and position from {found[-1]}."
        )
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
    """A grid of 16 images from the EMA weights, always of the same seeds."""
    path = run.sample_file(learner.images_seen)
    if path.exists():
        return
    model = learner.ema_model()
    steps = min(GRID_STEPS, learner.recipe.process.steps)
    save_grid(draw(model, GRID_SEEDS, plan_for(model, Sampling(steps=steps, spacing="uniform"))), path)


def _plot(learner: Learner, run: RunFolder) -> None:
    """The loss by log lines; by single steps in a run that is too short for two of them."""
    lines = run.metrics()
    if len(lines) < 2:
        seen, size = learner.images_seen, learner.recipe.batch_size
        steps = enumerate(reversed(learner.losses))
        lines = sorted(
            ({"images": seen - k * size, "loss": float(loss)} for k, loss in steps), key=lambda x: x["images"]
        )
    plot_loss(lines, run.loss_plot)


def _say_loss(learner: Learner, run: RunFolder, progress: Progress) -> None:
    """The loss at the end: since the last log line, or in it."""
    lines = run.metrics()
    if learner.losses or lines:
        loss = learner.mean_loss() if learner.losses else lines[-1]["loss"]
        progress.say(f"loss {loss:.4f} at {learner.images_seen:,} images.")


def _check_held_out(learner: Learner, images: ImageSet, held_out: ImageSet | None) -> None:
    """Before the first step: the held-out images must fit the model, and must not be the training images."""
    if held_out is None:
        return
    if held_out.fingerprint == images.fingerprint:
        raise InputError(f"validation '{held_out.name}' holds the training images; images held out would fit.")
    scoring_for(learner.ema_model(), held_out)


def _validate(learner: Learner, run: RunFolder, held_out: ImageSet | None, progress: Progress) -> None:
    """Estimate the bound of the EMA weights, always by the same random calls."""
    if held_out is None or learner.images_seen in [line["images"] for line in run.validation()]:
        return
    scoring = scoring_for(learner.ema_model(), held_out)
    bound = estimate_bound(scoring, learner.recipe.training.validation_calls)
    terms = {name: value for name, value in asdict(bound).items() if name in VALIDATION}
    run.append_validation({**terms, "images": learner.images_seen})
    total = bound.total
    progress.say(f"{learner.images_seen:,} images: {total.value:.4f} ± {total.error:.4f} bits/dim on {held_out.name}.")


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
    """Loss and speed since the last lap."""

    def __init__(self, images: int) -> None:
        self.start, self.clock = images, time.monotonic()
        self.note = ""

    def lap(self, images: int, loss: float) -> float:
        """Images per second since the last lap."""
        now = time.monotonic()
        speed = (images - self.start) / max(now - self.clock, 1e-9)
        self.start, self.clock = images, now
        self.note = f"loss {loss:.4f}  {speed:,.0f} images/s"
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
