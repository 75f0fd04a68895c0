"""The training loop: one story from a recipe and images to a run folder, and the same call again goes on."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ddpm.base.files import only_process
from ddpm.base.image_io import save_grid
from ddpm.base.progress import SILENT, Progress
from ddpm.data.sources import ImageSet
from ddpm.data.stream import batches
from ddpm.errors import DamagedFile, InputError
from ddpm.generation.draw import draw, plan_for
from ddpm.likelihood.estimate import estimate_bound
from ddpm.model.checkpoint import checkpoints, read_config, read_training, read_weights, write_checkpoint
from ddpm.model.model import resolve_device
from ddpm.model.pruning import prune
from ddpm.model.recipe import Recipe
from ddpm.model.scoring import scoring_for
from ddpm.model.trained_on import trained_on
from ddpm.samplers.plan import Sampling
from ddpm.training.learner import Learner, learning_rate
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
    run_folder = RunFolder(Path(folder))
    run_folder.check(recipe, images)
    learner = Learner(recipe, resolve_device(recipe.device), images.class_names)
    run = _Run(learner, run_folder, images, held_out, progress)
    run.check_held_out()
    for line in images.summary():
        progress.say(line)
    with only_process(run.folder.path):
        run.begin()
        stopped = run.learn()
        run.end(stopped)
    if not stopped:
        return
    sentence = f"stopped at {learner.images_seen:,} images and saved; the same call goes on from there."
    if stopped == signal.SIGINT:
        raise KeyboardInterrupt(sentence)
    progress.say(sentence)
    raise SystemExit(128 + stopped)


@dataclass
class _Run:
    """A run in hand: what learns, where it is saved, and from what."""

    learner: Learner
    folder: RunFolder
    images: ImageSet
    held_out: ImageSet | None
    progress: Progress

    @property
    def seen(self) -> int:
        return self.learner.images_seen

    def check_held_out(self) -> None:
        """Refuse images for validation that do not suit the model, or that it is trained on; say which of them are."""
        if self.held_out is not None:
            if self.held_out.fingerprint == self.images.fingerprint:
                raise InputError(f"validation '{self.held_out.name}' holds the training images: choose others.")
            model = self.learner.ema_model()
            scoring_for(model, self.held_out)
            for sentence in trained_on(model, self.held_out).sentences():
                warnings.warn(f"validation: {sentence}", stacklevel=4)

    def begin(self) -> None:
        """Take up the newest checkpoint, or measure what is measured before the first step."""
        prune(self.folder.path)
        found = checkpoints(self.folder.path)
        if found:
            self._restore(found[-1])
        else:
            self.learner.begin(self.images)
        self.folder.begin(self.learner.recipe, self.images)
        self.folder.forget_after(self.seen)
        if self.seen >= self.learner.recipe.train_images:
            self.progress.say(
                f"'{self.folder.path}' is complete at {self.seen:,} images; a larger train_images continues."
            )

    def _restore(self, checkpoint: Path) -> None:
        try:
            config = read_config(checkpoint)
            weights = {kind: read_weights(checkpoint, config, kind) for kind in self.learner.weights()}
            self.learner.restore(weights, read_training(checkpoint, config))
        except DamagedFile as error:
            raise DamagedFile(f"{str(error)[:-1]}; without that folder the run goes on from the one before.") from None
        self.progress.say(f"Resuming at {self.seen:,} images: weights, EMA, optimiser and position from {checkpoint}.")

    def learn(self) -> int:
        """Step until the recipe's images were seen, or a signal came: its number, else 0."""
        recipe, training = self.learner.recipe, self.learner.recipe.training
        self._lap, self._note = (self.seen, time.monotonic()), ""
        due = (
            (training.log_images, self._log),
            (training.sample_images, self._draw),
            (training.sample_images, self._plot),
            (training.validate_images, self._validate),
            (training.checkpoint_images, self._save),
        )
        stream = batches(
            self.images, seed=recipe.seed, position=self.seen, batch_size=recipe.batch_size, flip=training.flip
        )
        with (
            _stop_on_signal() as stopped,
            contextlib.closing(stream),
            self.progress.stage("Training", recipe.train_images, self.seen) as advance,
        ):
            while self.seen < recipe.train_images and not stopped:
                before = self.seen
                self.learner.step(next(stream))
                for every, act in due:
                    if self.seen // every != before // every:  # a multiple of it was passed
                        act()
                advance(self.seen - before, self._note)
        return stopped[0] if stopped else 0

    def end(self, stopped: int) -> None:
        """Leave the run so that it can go on; at its end also what the last images tell."""
        self._save()
        self._plot()
        if not stopped:
            lines, losses = self.folder.metrics.lines(), self.learner.losses
            if losses or lines:
                loss = self.learner.mean_loss() if losses else lines[-1]["loss"]
                self.progress.say(f"loss {loss:.4f} at {self.seen:,} images.")
            self._draw()
            self._validate()

    def _log(self) -> None:
        """Loss and speed since the last log line."""
        self._require_finite()
        loss, now, (start, clock) = self.learner.take_loss(), time.monotonic(), self._lap
        speed = (self.seen - start) / max(now - clock, 1e-9)
        self._lap, self._note = (self.seen, now), f"loss {loss:.4f}  {speed:,.0f} images/s"
        rate = learning_rate(self.learner.recipe, self.seen)
        self.folder.metrics.append(
            {"images": self.seen, "loss": loss, "learning_rate": rate, "images_per_second": round(speed, 2)}
        )

    def _draw(self) -> None:
        """A grid of 16 images from the EMA weights, always of the same seeds."""
        path = self.folder.sample_file(self.seen)
        if not path.exists():
            model = self.learner.ema_model()
            sampling = Sampling(steps=min(GRID_STEPS, self.learner.recipe.process.steps), spacing="uniform")
            save_grid(draw(model, GRID_SEEDS, plan_for(model, sampling)), path)

    def _plot(self) -> None:
        """The loss by log lines; in a run that is too short for two of them also by single steps."""
        lines, losses = self.folder.metrics.lines(), self.learner.losses
        if len(lines) < 2:
            size = self.learner.recipe.batch_size
            start = self.seen - size * len(losses)
            lines += [{"images": start + size * k, "loss": float(loss)} for k, loss in enumerate(losses, 1)]
        self.folder.plot_loss(lines)

    def _validate(self) -> None:
        """Estimate the bound of the EMA weights, always by the same random calls."""
        if self.held_out is None or self.seen in [line["images"] for line in self.folder.validation.lines()]:
            return
        scoring = scoring_for(self.learner.ema_model(), self.held_out)
        bound = estimate_bound(scoring, self.learner.recipe.training.validation_calls)
        terms = {name: value for name, value in asdict(bound).items() if name in VALIDATION}
        self.folder.validation.append({**terms, "images": self.seen})
        total, name = bound.total, self.held_out.name
        self.progress.say(f"{self.seen:,} images: {total.value:.4f} ± {total.error:.4f} bits/dim on {name}.")

    def _save(self) -> None:
        """Write a checkpoint unless this point already has one; weights that are not finite are not saved."""
        self._require_finite(weights=True)
        folder = self.folder.checkpoint(self.seen)
        if folder.exists():
            return
        write_checkpoint(
            folder,
            recipe=self.learner.recipe,
            weights=self.learner.weights(),
            class_names=self.learner.class_names,
            images_seen=self.seen,
            data_fingerprint=self.images.fingerprint,
            training=self.learner.state(),
        )
        prune(self.folder.path)

    def _require_finite(self, *, weights: bool = False) -> None:
        if not self.learner.finite(weights=weights):
            raise InputError(
                f"the loss or the weights are infinite or NaN at {self.seen:,} images: start again in a new --out with "
                'a lower learning_rate or precision = "float32"; the last checkpoint is kept.'
            )


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
