"""What a source holds in two lines: how many images in which classes; which splits, what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ddpm.base.progress import one_line
from ddpm.base.tensors import Integers
from ddpm.data.contents import NOT_IMAGES
from ddpm.data.items import Source
from ddpm.errors import some

CLASSES_SHOWN = 20
KINDS_SHOWN = 8


@dataclass(frozen=True)
class Tally:
    """Images of one split, and {class: images} with the classes that occur, None without classes."""

    images: int
    classes: Mapping[str, int] | None


def tally(labels: Integers | None, class_names: Sequence[str], images: int) -> Tally:
    """Count classes, labels (N,) being numbers of the names."""
    if labels is None:
        return Tally(images, None)
    numbers, counts = np.unique(labels, return_counts=True)
    return Tally(images, {class_names[n]: int(c) for n, c in zip(numbers, counts, strict=True)})


def summary(name: str, source: Source, tallies: Mapping[str, Tally]) -> tuple[str, str]:
    """The two lines about the splits that were counted; the name is the source as the user wrote it."""
    images = sum(counted.images for counted in tallies.values())
    by_split = [f"{split} {counted.images:,} ({_classes(counted)})" for split, counted in tallies.items()]
    held = ", ".join(by_split) if len(tallies) > 1 else "".join(map(_classes, tallies.values()))
    splits = [split for split in source.splits if split]
    if not splits:
        about = ["no splits"]
    elif len(tallies) == 1:
        about = [f"split {''.join(tallies)} of {', '.join(splits)}"]
    else:
        about = [f"splits {', '.join(splits)}"]
    about.append(f"left out: {left_out_text(source.left_out)}" if source.left_out else "nothing left out")
    missing = [name for name in source.class_names if not any(name in (t.classes or ()) for t in tallies.values())]
    if missing and any(counted.classes for counted in tallies.values()):
        about.append(f"classes without images here: {some(missing, CLASSES_SHOWN)}")
    kind = f" ({source.kind})" if source.kind else ""
    counted = f"{images:,} image{'' if images == 1 else 's'}"
    first = f"{name}{kind}: {counted}{':' if len(tallies) > 1 else ','} {held}"
    return one_line(first), one_line("; ".join([*about, *source.notes]))


def left_out_text(left_out: Mapping[str, Mapping[str, int]]) -> str:
    """ ".jfif 8, .txt 1 (not images), runs/demo/ 14 (a run, made by ddpm)"."""
    return ", ".join(
        f"{some([f'{what} {count:,}' for what, count in _most_first(counts)], KINDS_SHOWN)} ({reason})"
        for reason, counts in sorted(left_out.items(), key=lambda pair: pair[0] != NOT_IMAGES)
    )


def _classes(counted: Tally) -> str:
    if counted.classes is None:
        return "no classes"
    count, sizes = len(counted.classes), counted.classes.values()
    each = f" ({min(sizes):,} to {max(sizes):,} images each)" if count > CLASSES_SHOWN else ""
    classes = f"{count:,} class{'' if count == 1 else 'es'}"
    return f"{classes}: {some([f'{name} {n:,}' for name, n in counted.classes.items()], CLASSES_SHOWN)}{each}"


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
