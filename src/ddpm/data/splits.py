"""Splits by the names people use for them, in any case; the first of each is its name here."""

from __future__ import annotations

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def split_named(name: str) -> str | None:
    """The split that a name stands for: "train", "val" or "test"; None for any other name."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)
