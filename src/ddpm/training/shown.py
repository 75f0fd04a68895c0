"""What a run shows of itself while it learns: samples of its EMA, the curve of its loss, the bound on held-out images.

None of it touches what is learned, and all of it can be made again later.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass

from ddpm.base.image_io import save_grid
from ddpm.base.progress import Progress
from ddpm.data.sources import ImageSet
from ddpm.errors import InputError
from ddpm.generation.draw import draw, plan_for
from ddpm.likelihood.estimate import estimate_bound
from ddpm.model.scoring import scoring_for
from ddpm.model.trained_on import trained_on
from ddpm.samplers.plan import Sampling
from ddpm.training.learner import Learner
from ddpm.training.run_folder import RunFolder, ValidationFields

GRID_SEEDS = range(16)
GRID_STEPS = 20
AT_A_TIME = 128  # images of a validation's network call


@dataclass(frozen=True)
class Shown:
    """What is drawn, plotted and validated, and where it goes.

    held_out  images the bound is estimated on; None: on none
    """

    folder: RunFolder
    held_out: ImageSet | None
    progress: Progress

    def check(self, learner: Learner, images: ImageSet) -> None:
        """Refuse images for validation that do not suit the model, or that it is trained on; say which of them are."""
        if self.held_out is not None:
            if self.held_out.fingerprint == images.fingerprint:
                raise InputError(f"validation '{self.held_out.name}' holds the training images: choose others.")
            model = learner.ema_model()
            scoring_for(model, self.held_out)
            for sentence in trained_on(model, self.held_out).sentences():
                warnings.warn(f"validation: {sentence}", stacklevel=4)

    def preview(self, learner: Learner) -> None:
        """The curve so far, and samples."""
        self.plot(learner)
        self.draw(learner)

    def draw(self, learner: Learner) -> None:
        """A grid of 16 images from the EMA weights, always of the same seeds."""
        path = self.folder.sample_file(learner.images_seen)
        if not path.exists() and learner.finite():
            model = learner.ema_model()
            sampling = Sampling(steps=min(GRID_STEPS, learner.recipe.process.steps), spacing="uniform")
            save_grid(draw(model, GRID_SEEDS, plan_for(model, sampling)), path)

    def plot(self, learner: Learner) -> None:
        """The loss by log lines; in a run that is too short for two of them also by single steps."""
        lines, losses = self.folder.metrics.lines(), learner.losses
        if len(lines) < 2:
            size = learner.recipe.batch_size
            start = learner.images_seen - size * len(losses)
            points = enumerate(losses, 1)
            lines += [{"images": start + size * k, "loss": finite_or_none(float(loss))} for k, loss in points]
        self.folder.plot_loss(lines)

    def validate(self, learner: Learner) -> None:
        """Estimate the bound of the EMA weights, always by the same random calls."""
        if self.held_out is None or not learner.finite():
            return
        seen = learner.images_seen
        if seen in [line["images"] for line in self.folder.validation.lines()]:
            return
        most = min(learner.recipe.micro_batch or AT_A_TIME, AT_A_TIME)  # where memory is short for training
        scoring = scoring_for(learner.ema_model(), self.held_out, batch_size=most)
        bound = estimate_bound(scoring, learner.recipe.training.validation_calls)
        terms = {name: value for name, value in asdict(bound).items() if name in ValidationFields.model_fields}
        self.folder.validation.append({**terms, "images": seen})
        total, name = bound.total, self.held_out.name
        self.progress.say(f"{seen:,} images: {total.value:.4f} ± {total.error:.4f} bits/dim on {name}.")


def finite_or_none(value: float) -> float | None:
    """A number as JSON has it: None where it is infinite or NaN."""
    return value if math.isfinite(value) else None
