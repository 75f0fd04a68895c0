"""The training loop: one story from a recipe and images to a run folder, and the same call again goes on."""

from __future__ import annotations

import contextlib
import math
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ddpm.base.files import only_process
from ddpm.base.image_io import save_grid
from ddpm.base.noise import NOISE_VERSION
from ddpm.base.progress import SILENT, Progress
from ddpm.data.sources import ImageSet
from ddpm.data.stream import batches
from ddpm.errors import DamagedFile, InputError
from ddpm.generation.draw import draw, plan_for
from ddpm.likelihood.estimate import estimate_bound
from ddpm.model.checkpoint import TRAINING_FILE, checkpoints, read_config, read_kinds, read_training, write_checkpoint
from ddpm.model.model import resolve_device
from ddpm.model.pruning import forget_checkpoints, prune
from ddpm.model.recipe import Recipe
from ddpm.model.scoring import scoring_for
from ddpm.model.trained_on import trained_on
from ddpm.samplers.plan import Sampling
from ddpm.training.compiling import compile_learner
from ddpm.training.cost import worth_compiling
from ddpm.training.learner import Learner
from ddpm.training.run_folder import RunFolder, ValidationFields
from ddpm.training.signals import Stop, stop_on_signal
from ddpm.training.sparing import Sparing
from ddpm.training.training_state import check_state
from ddpm.training.watch import IN_A_ROW, KEPT, bad_in_a_row, fault_keys, good_until, learned_nothing, new_alarms, told

GRID_SEEDS = range(16)
GRID_STEPS = 20
AT_A_TIME = 128  # images of a validation's network call


def train(
    recipe: Recipe,
    images: ImageSet,
    folder: str | Path,
    *,
    held_out: ImageSet | None = None,
    allow_change: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Train until recipe.train_images were seen (to the end of that batch); resume if the folder holds this run.

    recipe        fully resolved for these images
    held_out      images the bound is estimated on at intervals; None: on none
    allow_change  go on with a recipe that differs in keys that change what is learned; where is written down

    SIGINT, SIGTERM, SIGHUP and SIGUSR1 end the step in hand and save; then KeyboardInterrupt or SystemExit is raised.
    """
    run_folder = RunFolder(Path(folder))
    run_folder.check(recipe, images, allow_change=allow_change)
    run = _Run(_new_learner(recipe, images), run_folder, images, held_out, progress)
    run.check_held_out()
    with only_process(run.folder.path):
        run.begin()
        for line in images.summary():
            progress.say(line)
        with stop_on_signal() as stop:
            run.learn(stop)
            while run.lost:
                run.go_back()
                run.learn(stop)
            run.end(stop)
    if not stop.number:
        return
    saved = "and saved; the same call goes on from there."
    if not run.folder.checkpoint(run.seen).is_dir():
        saved = "where the weights are not finite; the same call goes on from the checkpoint before."
    sentence = f"stopped at {run.seen:,} images {saved}"
    if stop.number == signal.SIGINT:
        raise KeyboardInterrupt(sentence)
    progress.say(sentence)
    raise SystemExit(128 + stop.number)


def _new_learner(recipe: Recipe, images: ImageSet) -> Learner:
    return Learner(recipe, resolve_device(recipe.device), images.class_names)


@dataclass
class _Run:
    """A run in hand: what learns, where it is saved, and from what.

    recent  the last lines of the log, see training.watch
    """

    learner: Learner
    folder: RunFolder
    images: ImageSet
    held_out: ImageSet | None
    progress: Progress
    recent: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seen(self) -> int:
        return self.learner.images_seen

    @property
    def lost(self) -> bool:
        """Whether steps were left out in so many log intervals in a row that the run must not go on like this."""
        return bad_in_a_row(self.recent) >= IN_A_ROW

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
        found = checkpoints(self.folder.path)
        if found:
            self._restore(found[-1])
        else:
            self.learner.begin(self.images)
        self.folder.begin(self.learner.recipe, self.images)
        self.folder.forget_after(self.seen)
        self.learner.rate_share = self.folder.rate_share(self.learner.recipe)
        self.recent = self.folder.metrics.lines()[-KEPT:]
        self._prune()
        if self.seen >= self.learner.recipe.train_images:
            self.progress.say(
                f"'{self.folder.path}' is complete at {self.seen:,} images; a larger train_images continues."
            )

    def _restore(self, checkpoint: Path) -> None:
        try:
            config = read_config(checkpoint)
            weights = read_kinds(checkpoint, config)
            state = read_training(checkpoint, config)
            check_state(state, config, self.learner, checkpoint / TRAINING_FILE)
            self.learner.restore(weights, state)
        except DamagedFile as error:
            raise DamagedFile(f"{str(error)[:-1]}; without that folder the run goes on from the one before.") from None
        self.progress.say(f"Resuming at {self.seen:,} images: weights, EMA, optimiser and position from {checkpoint}.")
        if state.get("noise", 1) != NOISE_VERSION:
            self.progress.say("An older version began this run with other random numbers; from here on it has today's.")
        for sentence in self.folder.record_changes(config.recipe, self.learner.recipe, self.seen):
            self.progress.say(sentence)

    def learn(self, stop: Stop) -> None:
        """Step until the recipe's images were seen, a signal came, or the run is lost."""
        recipe, training = self.learner.recipe, self.learner.recipe.training
        if worth_compiling(recipe, self.learner.device, self.seen):
            self.progress.say("The network is being compiled; that takes a minute or two.")
            self.progress.say(compile_learner(self.learner))
        self._lap, self._note = (self.seen, time.monotonic()), ""
        sparing = Sparing()
        again = (
            (training.sample_images, lambda: sparing(lambda: stop.unless_stopped(self._show))),
            (training.validate_images, lambda: stop.unless_stopped(self._validate)),
        )
        due = ((training.log_images, self._log), *again, (training.checkpoint_images, self._save))
        stream = batches(
            self.images, seed=recipe.seed, position=self.seen, batch_size=recipe.batch_size, flip=training.flip
        )
        with contextlib.closing(stream), self.progress.stage("Training", recipe.train_images, self.seen) as advance:
            if 0 < self.seen < recipe.train_images:  # what a signal broke off here before
                self._act(again, self.seen - recipe.batch_size)
            while self.seen < recipe.train_images and not stop.number and not self.lost:
                before = self.seen
                self.learner.step(next(stream))
                self._act(due, before)
                advance(self.seen - before, self._note)

    def _act(self, due: Sequence[tuple[int, Callable[[], None]]], before: int) -> None:
        """Do what is due at every multiple of so many images that was passed since `before`."""
        for every, act in due:
            if self.seen // every != before // every and not self.lost:
                act()

    def go_back(self) -> None:
        """Return to the last checkpoint from before the bad lines, with a share of the learning rate; only once."""
        path, first = self.folder.path, told(self.recent[-bad_in_a_row(self.recent)])
        forget_checkpoints(path, good_until(self.recent))
        found = checkpoints(path)
        images, rate = int(found[-1].name) if found else 0, self.learner.recipe.learning_rate
        where = f"at the checkpoint of {images:,} images" if found else "at its start"
        if self.learner.rate_share < 1:
            raise InputError(self._diagnosis(f"{first}; the rate was halved once before, and the run is {where} again"))
        self.folder.forget_after(images)
        self.folder.record_going_back(images, rate, first)
        self.progress.say(f"{first}, and so it went on: the run is {where} again, with half the learning rate.")
        self.learner = _new_learner(self.learner.recipe, self.images)
        self.begin()

    def _diagnosis(self, seen: str) -> str:
        rate = self.learner.rate_share * self.learner.recipe.learning_rate
        return (
            f"{seen}. Choose a learning_rate below {rate:g}, in a new --out, or with --allow-change from the last "
            'checkpoint if the loss was low there; precision = "float32" helps a run in bfloat16.'
        )

    def end(self, stop: Stop) -> None:
        """Leave the run so that it can go on; at its end also what the last images tell."""
        self._save()
        self._plot()
        if stop.number:
            return
        lines = self.recent[-1:]
        if self.learner.losses:
            lines = [{"images": self.seen, "loss": self.learner.mean_loss(), **self._faults()}]
            self._tell(lines[0])
        for line in lines:
            if learned_nothing(line):
                raise InputError(self._diagnosis(told(line)))
            if line["loss"] is not None:
                self.progress.say(f"loss {line['loss']:.4f} at {self.seen:,} images.")
        stop.unless_stopped(self._draw)
        stop.unless_stopped(self._validate)

    def _faults(self) -> dict[str, Any]:
        learner = self.learner
        return fault_keys(learner.faults(), len(learner.losses), weights_finite=learner.finite())

    def _tell(self, line: Mapping[str, Any]) -> None:
        if sentence := told(line):
            self.progress.say(f"Warning: {sentence}.")

    def _log(self) -> None:
        """What the steps since the last log line were, and what is wrong with them."""
        learner, now, (start, clock) = self.learner, time.monotonic(), self._lap
        norm, faults = learner.mean_norm(), self._faults()
        loss = learner.take_loss()
        speed = (self.seen - start) / max(now - clock, 1e-9)
        self._lap, self._note = (self.seen, now), f"loss {loss:.4f}  {speed:,.0f} images/s"
        line = {
            "images": self.seen,
            "loss": _number(loss),
            "learning_rate": learner.rate,
            "gradient_norm": _number(norm),
            "prediction_std": _number(float(learner.variation)),
            "images_per_second": round(speed, 2),
            **faults,
        }
        self.recent = [*self.recent, line][-KEPT:]
        self._tell(line)
        if alarms := new_alarms(self.recent, learner.recipe.training.warmup_images):
            line["warnings"] = alarms
        for alarm in alarms:
            self.progress.say(f"Warning: {alarm}")
        self.folder.metrics.append(line)

    def _show(self) -> None:
        self._plot()
        self._draw()

    def _draw(self) -> None:
        """A grid of 16 images from the EMA weights, always of the same seeds."""
        path = self.folder.sample_file(self.seen)
        if not path.exists() and self.learner.finite():
            model = self.learner.ema_model()
            sampling = Sampling(steps=min(GRID_STEPS, self.learner.recipe.process.steps), spacing="uniform")
            save_grid(draw(model, GRID_SEEDS, plan_for(model, sampling)), path)

    def _plot(self) -> None:
        """The loss by log lines; in a run that is too short for two of them also by single steps."""
        lines, losses = self.folder.metrics.lines(), self.learner.losses
        if len(lines) < 2:
            size = self.learner.recipe.batch_size
            start = self.seen - size * len(losses)
            lines += [{"images": start + size * k, "loss": _number(float(loss))} for k, loss in enumerate(losses, 1)]
        self.folder.plot_loss(lines)

    def _validate(self) -> None:
        """Estimate the bound of the EMA weights, always by the same random calls."""
        if self.held_out is None or not self.learner.finite():
            return
        if self.seen in [line["images"] for line in self.folder.validation.lines()]:
            return
        most = min(self.learner.recipe.micro_batch or AT_A_TIME, AT_A_TIME)  # where memory is short for training
        scoring = scoring_for(self.learner.ema_model(), self.held_out, batch_size=most)
        bound = estimate_bound(scoring, self.learner.recipe.training.validation_calls)
        terms = {name: value for name, value in asdict(bound).items() if name in ValidationFields.model_fields}
        self.folder.validation.append({**terms, "images": self.seen})
        total, name = bound.total, self.held_out.name
        self.progress.say(f"{self.seen:,} images: {total.value:.4f} ± {total.error:.4f} bits/dim on {name}.")

    def _save(self) -> None:
        """Write a checkpoint unless this point already has one; weights that are not finite are not saved."""
        folder = self.folder.checkpoint(self.seen)
        if folder.exists() or not self.learner.finite():
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
        self._prune()

    def _prune(self) -> None:
        """Remove older checkpoints; while steps are left out the run may want to go back, and all are kept."""
        if not self.learner.faults() and not bad_in_a_row(self.recent):
            prune(self.folder.path)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
