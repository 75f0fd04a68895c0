"""What training.pt must hold before a run goes on from it: its hash says that it is whole, not that it is right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from ddpm.base.fields import Fields, Whole, check_fields
from ddpm.base.tensor_files import is_plain, not_finite
from ddpm.errors import DamagedFile
from ddpm.model.checkpoint import Config
from ddpm.training.changes import differences, why_not
from ddpm.training.learner import Learner
from ddpm.training.levels import KNOTS, REMEMBERED
from ddpm.training.watch import FaultFields

MOMENTS = ("exp_avg", "exp_avg_sq")


class _TensorFields(Fields):
    model_config = ConfigDict(arbitrary_types_allowed=True)


class _MomentFields(_TensorFields):
    step: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


class _OptimiserFields(Fields):
    state: dict[Annotated[int, Field(ge=0)], _MomentFields]


class _StateFields(_TensorFields):
    images_seen: Whole
    updates: Whole
    losses: list[float]
    norms: Annotated[list[float], Field(default_factory=list)]
    faults: Annotated[list[FaultFields], Field(default_factory=list)]
    optimiser: _OptimiserFields
    history: Tensor | None = None
    uncertainty: Tensor | None = None
    noise: Whole = 1


def check_state(state: dict[str, Any], config: Config, learner: Learner, path: Path) -> None:
    """Raise DamagedFile unless a checkpoint's state can be that of this learner.

    config  of the checkpoint
    path    of the state's file
    """
    keys = differences(config.recipe, learner.recipe).items()
    lasting = [key for key, (old, new) in keys if key not in ("data", "train_images") and why_not(key, old, new)]
    if lasting:
        raise DamagedFile(f"'{path.parent}' is of another run: it has another {lasting[0]}.")
    check_fields(state, _StateFields, path)
    if state["images_seen"] != config.images_seen:
        raise DamagedFile(f"'{path}' is damaged: it is of {state['images_seen']:,} images, its checkpoint of others.")
    parameters, moments = list(learner.network.parameters()), state["optimiser"]["state"]
    if not all(number < len(parameters) and _is_of(parameters[number], one) for number, one in moments.items()):
        raise DamagedFile(f"'{path}' is damaged: its optimiser is not of this network.")
    named = {f"{name} of weight {number}": one[name] for number, one in moments.items() for name in ("step", *MOMENTS)}
    if complaint := not_finite(named):
        raise DamagedFile(f"'{path}' is damaged: {complaint}.")
    if any(min(float(one["step"]), float(one["exp_avg_sq"].min())) < 0 for one in moments.values()):
        raise DamagedFile(f"'{path}' is damaged: a mean of squared gradients, or a number of steps, is negative.")
    losses, uncertainty = state.get("history"), state.get("uncertainty")
    shapes = [(0, REMEMBERED), (learner.recipe.process.steps, REMEMBERED)]  # another rule may have drawn them
    if losses is not None and not (any(is_plain(losses, one) for one in shapes) and losses.dtype == torch.float64):
        raise DamagedFile(f"'{path}' is damaged: its history of losses is not of this process.")
    if uncertainty is not None and not (
        is_plain(uncertainty, (min(KNOTS, learner.recipe.process.steps),))
        and uncertainty.dtype == torch.float64
        and torch.isfinite(uncertainty).all()
    ):
        raise DamagedFile(f"'{path}' is damaged: its uncertainty of levels is not of this process.")


def _is_of(parameter: Tensor, moments: dict[str, Tensor]) -> bool:
    """Whether an optimiser's tensors are those of one parameter."""
    shape = tuple(parameter.shape)
    return all(is_plain(moments[name], shape) for name in MOMENTS) and is_plain(moments["step"], ())
