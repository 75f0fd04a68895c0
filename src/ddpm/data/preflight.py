"""What is in a source, and what is wrong with it, before a step is taken: the report of `ddpm data`."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ddpm.base.image_io import MODES
from ddpm.base.progress import one_line
from ddpm.data.decode import POLICY
from ddpm.data.grammar import check_whole, choose_split, cut, find_source, parse_source
from ddpm.data.scan import Look, common_channels, narrow_ranges, scan, span, suggested_size
from ddpm.data.sizing import has_alpha, has_colour
from ddpm.data.sources import ALPHA_CHOICES
from ddpm.data.summary import Tally, summary, tally
from ddpm.errors import some

SHOWN = 5  # sizes, groups of duplicates and bad files that the terminal shows


@dataclass(frozen=True)
class Duplicates:
    """Images with equal pixels: groups, images in them, images of test that are in train too, and the first groups."""

    groups: int
    images: int
    shared_by_splits: int
    examples: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class SourceReport:
    """What a source holds.

    summary   two lines: how many images in which classes; which splits, what was left out and why
    images    readable and unreadable together; splits: the same by split, {} without
    sizes     {"HxW": count}, most frequent first; modes: {Pillow's mode: count}
    channels  what a model sees, 0 if nothing is readable
    levels    the lowest and the highest of all images, alpha apart, and the highest that their files could hold
    alpha     how many images have it; see_through: those whose alpha is not opaque, by name
    classes   {name: count}
    left_out  {reason: {kind or name: files}}
    bad       {name: reason}
    """

    source: str
    kind: str
    summary: tuple[str, str]
    images: int
    splits: dict[str, int]
    sizes: dict[str, int]
    modes: dict[str, int]
    channels: int
    levels: tuple[int, int, int]
    alpha: int
    see_through: tuple[str, ...]
    classes: dict[str, int]
    left_out: dict[str, dict[str, int]]
    duplicates: Duplicates
    bad: dict[str, str]
    suggestions: tuple[str, ...]
    policy: str = POLICY

    def table(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Plain text for a terminal."""
        rows = [
            ("sizes", _counts(self.sizes)),
            ("modes", _counts(self.modes)),
            ("channels", f"{self.channels} ({MODES.get(self.channels, 'nothing readable')})"),
            ("levels", "{:,} to {:,} of 0 to {:,}".format(*self.levels)),
            ("alpha", _alpha_line(self.images - len(self.bad), self.alpha, self.see_through)),
            ("duplicates", _duplicates_line(self.duplicates)),
            ("unreadable", str(len(self.bad))),
        ]
        groups = [f"  equal: {some(group)}" for group in self.duplicates.examples]
        bad = [f"  {name}: {reason}" for name, reason in self.bad.items()]
        hints = [f"suggestion: {hint}" for hint in self.suggestions]
        table = [f"{key:<11} {value}" for key, value in rows]
        return [*self.summary, *map(one_line, [*table, *groups, *bad, *hints, f"policy: {self.policy}"])]


def inspect_source(src: str | os.PathLike[str]) -> SourceReport:
    """Look at a source, all of its splits unless one is named; bad images are reported, not raised."""
    name = parse_source(src)
    source = find_source(name)
    check_whole(source, name)
    one = name.split or name.bounds  # a slice is cut from one split, the one that training takes
    splits = [choose_split(source, name, "train")] if one else list(source.splits)
    parts = {split: cut(source.splits[split](), name) for split in splits}
    looks = {split: scan(part.items) for split, part in parts.items()}
    everything = [seen for seen_of_split in looks.values() for seen in seen_of_split]
    good = [seen for seen in everything if not seen.problem]
    duplicates = _duplicates(looks)
    tallies = {split: tally(part.labels, source.class_names, len(part.items)) for split, part in parts.items()}
    return SourceReport(
        source=name.text,
        kind=source.kind,
        summary=summary(name.text, source, tallies),
        images=len(everything),
        splits={split: len(seen) for split, seen in looks.items() if split},
        sizes=dict(Counter(f"{seen.size[0]}x{seen.size[1]}" for seen in good).most_common()),
        modes=dict(Counter(seen.mode for seen in good).most_common()),
        channels=common_channels(good) if good else 0,
        levels=span(good) if good else (0, 0, 255),
        alpha=sum(has_alpha(seen.channels) for seen in good),
        see_through=tuple(seen.name for seen in good if seen.see_through),
        classes=_classes(tallies, source.class_names),
        left_out={reason: dict(counts) for reason, counts in source.left_out.items()},
        duplicates=duplicates,
        bad={seen.name: seen.problem for seen in everything if seen.problem},
        suggestions=tuple(_suggestions(everything, good, duplicates)),
    )


def _classes(tallies: Mapping[str, Tally], class_names: Sequence[str]) -> dict[str, int]:
    """{name: count}, classes without an image here included."""
    counted = [found.classes for found in tallies.values() if found.classes is not None]
    return {name: sum(classes.get(name, 0) for classes in counted) for name in class_names} if counted else {}


def _duplicates(looks: Mapping[str, Sequence[Look]]) -> Duplicates:
    """Group the readable images of all splits by their pixels."""
    groups: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for split, seen_of_split in looks.items():
        for seen in seen_of_split:
            if not seen.problem:
                groups[seen.digest].append((split, seen.name))
    several = [group for group in groups.values() if len(group) > 1]
    shared = [group for group in several if {"train", "test"} <= {split for split, _ in group}]
    return Duplicates(
        groups=len(several),
        images=sum(map(len, several)),
        shared_by_splits=sum(split == "test" for group in shared for split, _ in group),
        examples=tuple(tuple(name for _, name in group) for group in several[:SHOWN]),
    )


def _suggestions(everything: Sequence[Look], good: Sequence[Look], duplicates: Duplicates) -> list[str]:
    hints = []
    if len(good) < len(everything):
        hints.append('repair or remove the unreadable files, or set on_bad_image = "skip"')
    if good:
        hints += _size_hints(good) + _channel_hints(good) + narrow_ranges(good)
    if duplicates.shared_by_splits:
        hints.append("images that are in train and in test flatter every score; remove them from one")
    return hints


def _size_hints(good: Sequence[Look]) -> list[str]:
    sizes = {seen.size for seen in good}
    if len(sizes) > 1:
        return [f"sizes differ: give one, such as --size {suggested_size(good)}"]
    height, width = sizes.pop()
    if height % 8 or width % 8:
        below, above = (f"{max(8, (height + k) // 8 * 8)}x{max(8, (width + k) // 8 * 8)}" for k in (0, 7))
        needs = f"needs --size {below} or {above}"
        return [f"{height}x{width} is not divisible by 8: a network that halves three times {needs}"]
    return []


def _channel_hints(good: Sequence[Look]) -> list[str]:
    hints = []
    alpha, clear = [seen for seen in good if has_alpha(seen.channels)], any(seen.see_through for seen in good)
    if alpha and not clear:
        hints.append("the alpha channel is opaque everywhere: leave it out, nothing is lost")
    if clear and len(alpha) < len(good):
        hints.append(f"some images are see-through and others have no alpha: choose {ALPHA_CHOICES}")
    if any(has_colour(seen.channels) for seen in good) and not any(seen.colourful for seen in good):
        hints.append("every image is grey though stored in colour: make them grey, nothing is lost")
    return hints


def _alpha_line(images: int, alpha: int, see_through: Sequence[str]) -> str:
    if not alpha:
        return "none"
    clear = f"{len(see_through)} see-through: {some(see_through)}" if see_through else "opaque everywhere"
    return f"in {alpha} of {images} images, {clear}"


def _counts(counts: Mapping[str, int]) -> str:
    """ "28x28 (60000), 32x32 (7) and 3 more"."""
    return some([f"{name} ({count})" for name, count in counts.items()], SHOWN) or "none"


def _duplicates_line(found: Duplicates) -> str:
    if not found.groups:
        return "none"
    shared = f", {found.shared_by_splits} of test also in train" if found.shared_by_splits else ""
    return f"{found.images} images in {found.groups} groups{shared}"
