"""Splits by the names people use for them, in any case; the first of each is its name here."""

from __future__ import annotations

import re

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
ENDING = re.compile(r"[_-]?(images|imgs|set|\d{4})$")
"""What may follow such a name: train2017, val_images, test-set."""


def split_named(name: str) -> str | None:
    """The split that a name stands for: "train", "val" or "test"; None for any other name."""
    stem = ENDING.sub("", name.lower())
    return next((split for split, names in SPLIT_NAMES.items() if stem in names), None)
