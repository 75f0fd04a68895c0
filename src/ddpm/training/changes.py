"""Which keys of a recipe may change while a run is going on: freely, if it is wanted, or never."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddpm.model.recipe import Recipe

FREE = {
    *("device", "train_images", "validation", "micro_batch", "checkpointing", "compile"),
    *(f"training.{name}_images" for name in ("log", "sample", "checkpoint", "validate")),
    "training.validation_calls",
}
"""Keys that change nothing of what was learned so far but its rounding: for another length a run that cools down goes
back to where it is the same, see model.continuing."""

CHANGEABLE = {
    *("seed", "batch_size", "learning_rate", "precision", "network.dropout"),
    *(f"objective.{name}" for name in ("loss", "weighting", "levels", "level_mean", "level_std")),
    *(f"training.{name}" for name in ("warmup_images", "cooldown", "clip_norm", "flip", "label_dropout")),
    *(f"training.{name}" for name in ("ema_decay", "ema_ramp", "ema_lengths")),
}
"""Keys that change what is learned from there on."""

AFTERWARDS = {"training.ema_lengths": "; an average that is new begins as a copy of the main one"}
"""What follows from a change, where that is not plain."""

LASTING = {
    "image": "it decides the network's shape",
    "network": "it decides the network's shape",
    "process": "the network has learned these noise levels",
    "objective": "the network has learned this prediction",
}
"""Why the other keys of some tables last; the rest decides which images there are."""


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """What differs between two recipes: old and new value by dotted key."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return {key: (before[key], after[key]) for key in after if before[key] != after[key]}


def why_not(key: str, old: object, new: object) -> str | None:
    """Why a key that differs cannot change; None if it can."""
    if key == "training.label_dropout" and bool(old) != bool(new):
        return "it decides the network's shape"
    if key in FREE | CHANGEABLE:
        return None
    return LASTING.get(key.split(".")[0], "it decides what the images are")


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found
