"""The tables of a recipe: the keys below [image], [network], [process], [objective] and [training]."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ddpm.diffusion.denoiser import LEARNED
from ddpm.diffusion.objectives import LEVEL_SAMPLING, LOSSES, WEIGHTINGS
from ddpm.diffusion.process import PREDICTIONS
from ddpm.diffusion.schedule import BETAS, VARIANCES, Schedule, make_schedule
from ddpm.likelihood.estimate import FEWEST_CALLS
from ddpm.model import limits
from ddpm.model.limits import Count, Positive, Rate, Share

LINEAR = ("none", "corrected", "scalar", "alone")


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageTable(Table):
    """The images the network sees; what is unset comes from the data."""

    channels: Annotated[int, Field(strict=True, ge=1, le=4)] | None = None
    height: limits.Side | None = None
    width: limits.Side | None = None


class NetworkTable(Table):
    """The U-Net, see networks.UNet; unset attention_levels means the first level of at most 16 pixels a side.

    linear  "none" is the U-Net by itself; "corrected" has it correct the best linear guess, see
            networks.LinearDenoiser, and "scalar" that of one variance for everything; "alone" is the best guess and no
            U-Net
    """

    channels: limits.Width = 128
    multipliers: limits.Multipliers = (1, 2, 2, 2)
    blocks: limits.Blocks = 2
    attention_levels: limits.Levels | None = None
    dropout: Share = 0.0
    groups: limits.Width = 32
    space_to_depth: limits.Fold = 1
    classes: limits.Classes | None = None
    linear: Literal[*LINEAR] = "none"  # type: ignore[valid-type]


class ProcessTable(Table):
    """The forward process and the variance of the reverse one."""

    schedule: Literal[*BETAS] = "linear"  # type: ignore[valid-type]
    steps: limits.Steps = 1000
    beta_start: Annotated[Rate, Field(lt=1)] = 1e-4
    beta_end: Annotated[Rate, Field(lt=1)] = 0.02
    variance: Literal[*VARIANCES, *LEARNED] = "large"  # type: ignore[valid-type]

    def make_schedule(self) -> Schedule:
        """The float64 tables of this process."""
        return make_schedule(self.schedule, steps=self.steps, beta_start=self.beta_start, beta_end=self.beta_end)


class ObjectiveTable(Table):
    """What the network predicts, by which loss it learns, what each level's error counts, and which levels it sees."""

    prediction: Literal[*PREDICTIONS] = "eps"  # type: ignore[valid-type]
    loss: Literal[*LOSSES] = "simple"  # type: ignore[valid-type]
    weighting: Literal[*WEIGHTINGS] = "none"  # type: ignore[valid-type]
    levels: Literal[*LEVEL_SAMPLING] = "uniform"  # type: ignore[valid-type]
    level_mean: limits.LogScale = -1.2
    level_std: Rate = 1.2


class TrainingTable(Table):
    """How it learns; all lengths are counts of images seen, and what is unset suits the run, see model.lengths.

    cooldown     a share of the run
    ema_lengths  of averages beside the main one, see training.averages.power
    """

    warmup_images: Count | None = None
    cooldown: Share = 0.0
    clip_norm: Rate = 1.0
    flip: Annotated[bool, Field(strict=True)] = False
    label_dropout: Share = 0.0
    ema_decay: Share = 0.9999
    ema_ramp: Annotated[bool, Field(strict=True)] = True
    ema_lengths: limits.EmaLengths = ()
    log_images: Positive | None = None
    sample_images: Positive | None = None
    checkpoint_images: Positive | None = None
    validate_images: Positive | None = None
    validation_calls: Annotated[limits.Calls, Field(ge=FEWEST_CALLS)] = 4_096
