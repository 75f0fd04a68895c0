"""The training loop: one story from a recipe and images to a run folder, and the same call again goes on."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddpm.base.files import only_process
from ddpm.base.noise import NOISE_VERSION
from ddpm.base.progress import SILENT, Progress
from ddpm.data.sources import ImageSet
from ddpm.data.stream import batches
from ddpm.errors import DamagedFile, InputError
from ddpm.model.checkpoint import TRAINING_FILE, checkpoints, read_config, read_kinds, read_training, write_checkpoint
from ddpm.model.continuing import start_of
from ddpm.model.lengths import Marks, every, preview_marks
from ddpm.model.model import resolve_device
from ddpm.model.pruning import forget_checkpoints, prune
from ddpm.model.rates import cooldown_begins
from ddpm.model.recipe import Recipe
from ddpm.training.compiling import compile_learner
from ddpm.training.cost import worth_compiling
from ddpm.training.expectations import Expecting, meaning
from ddpm.training.learner import Learner
from ddpm.training.run_folder import RunFolder
from ddpm.training.shown import Shown, finite_or_none
from ddpm.training.signals import Stop, stop_on_signal
from ddpm.training.sparing import Sparing
from ddpm.training.training_state import check_state
from ddpm.training.watch import IN_A_ROW, KEPT, bad_in_a_row, fault_keys, good_until, learned_nothing, new_alarms, told

UNSAVED_SECONDS = 900.0
"""A checkpoint is written at the latest when so much time has passed since the last one."""


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

    recipe        resolved for these images; lengths that are unset follow from train_images
    held_out      images the bound is estimated on at intervals; None: on none
    allow_change  go on with a recipe that differs in keys that change what is learned; where is written down

    SIGINT, SIGTERM, SIGHUP and SIGUSR1 end the step in hand and save; then KeyboardInterrupt or SystemExit is raised.
    """
    run_folder = RunFolder(Path(folder))
    recipe = run_folder.check(recipe, images, allow_change=allow_change)
    learner = _new_learner(recipe, images)
    shown = Shown(run_folder, held_out, progress)
    shown.check(learner, images)
    run = _Run(learner, run_folder, images, shown, progress)
    with only_process(run.folder.path):
        run.begin()
        for line in [*images.summary(), *(meaning(recipe) if run.seen < recipe.train_images else [])]:
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
    shown: Shown
    progress: Progress
    recent: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seen(self) -> int:
        return self.learner.images_seen

    @property
    def lost(self) -> bool:
        """Whether steps were left out in so many log intervals in a row that the run must not go on like this."""
        return bad_in_a_row(self.recent) >= IN_A_ROW

    def begin(self) -> None:
        """Take up the checkpoint that the run goes on from, or measure what is measured before the first step."""
        if start := start_of(self.folder.path, self.learner.recipe):
            self._restore(start)
        else:
            self.learner.begin(self.images)
        for sentence in self.folder.begin(self.learner.recipe, self.images, self.seen):
            self.progress.say(sentence)
        self.learner.rate_share = self.folder.rate_share(self.learner.recipe)
        self.recent = self.folder.metrics.lines()[-KEPT:]
        self._prune()

    def _restore(self, checkpoint: Path) -> None:
        try:
            config = read_config(checkpoint)
            state = read_training(checkpoint, config)  # first: what holds none may also lack the raw weights
            weights = read_kinds(checkpoint, config)
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
        recipe, lengths = self.learner.recipe, self.learner.recipe.lengths
        if worth_compiling(recipe, self.learner.device, self.seen):
            self.progress.say("The network is being compiled; that takes a minute or two.")
            self.progress.say(compile_learner(self.learner))
        self._lap, self._note = (self.seen, time.monotonic()), ""
        self._save_by = time.monotonic() + UNSAVED_SECONDS
        sparing, expecting = Sparing(), Expecting(recipe, self.progress.say)
        again = (
            (
                preview_marks(lengths, recipe.batch_size),
                lambda: sparing(stop.unless_stopped, self.shown.preview, self.learner),
            ),
            (every(lengths.validate_images), lambda: stop.unless_stopped(self.shown.validate, self.learner)),
        )
        due = ((every(lengths.log_images), self._log), *again, (every(lengths.checkpoint_images), self._save))
        stream = batches(
            self.images, seed=recipe.seed, position=self.seen, batch_size=recipe.batch_size, flip=recipe.training.flip
        )
        with contextlib.closing(stream), self.progress.stage("Training", recipe.train_images, self.seen) as advance:
            if 0 < self.seen < recipe.train_images:  # what a signal broke off here before
                self._act(again, self.seen - recipe.batch_size)
            while self.seen < recipe.train_images and not stop.number and not self.lost:
                before = self.seen
                self.learner.step(next(stream))
                self._act(due, before)
                if time.monotonic() >= self._save_by:
                    self._save()
                if cooldown_begins(recipe, self.seen):
                    self._save()
                    self.progress.say(f"The learning rate falls from {self.seen:,} images on; longer runs start there.")
                advance(self.seen - before, self._note)
                expecting(self.seen)

    def _act(self, due: Sequence[tuple[Marks, Callable[[], None]]], before: int) -> None:
        """Do what is due at marks that were passed since `before`."""
        for marks, act in due:
            if marks(self.seen) != marks(before) and not self.lost:
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
        self.shown.plot(self.learner)
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
        stop.unless_stopped(self.shown.draw, self.learner)
        stop.unless_stopped(self.shown.validate, self.learner)

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
            "loss": finite_or_none(loss),
            "learning_rate": learner.rate,
            "gradient_norm": finite_or_none(norm),
            "prediction_std": finite_or_none(float(learner.variation)),
            "images_per_second": round(speed, 2),
            **faults,
        }
        self.recent = [*self.recent, line][-KEPT:]
        self._tell(line)
        weighed = learner.recipe.objective.weighting == "uncertainty"
        if alarms := new_alarms(self.recent, learner.recipe.lengths.warmup_images, weighed=weighed):
            line["warnings"] = alarms
        for alarm in alarms:
            self.progress.say(f"Warning: {alarm}")
        self.folder.metrics.append(line)

    def _save(self) -> None:
        """Write a checkpoint unless this point already has one; weights that are not finite are not saved."""
        folder, self._save_by = self.folder.checkpoint(self.seen), time.monotonic() + UNSAVED_SECONDS
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
