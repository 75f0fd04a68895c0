"""Open a source as one sequence of uint8 images of one geometry; problems are found here, before a training step."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from ddpm.base.geometry import Geometry
from ddpm.base.tensors import Integers, Pixels, as_array
from ddpm.data.arrays import channels_first
from ddpm.data.decode import BadImage
from ddpm.data.grammar import choose_split, cut, find_source, parse_source
from ddpm.data.items import ArrayItems, Items, Part, Source, array_part
from ddpm.data.scan import Look, common_channels, in_threads, narrow_range, narrow_ranges, scan, suggested_size
from ddpm.data.sizing import ALPHA, FITS, fitted, flattened, has_alpha, has_colour
from ddpm.data.summary import summary, tally
from ddpm.errors import InputError, MixedSizes, known, some

ON_BAD_IMAGE = ("stop", "skip")
ALPHA_CHOICES = 'alpha = "drop" (keeps the colours), "white" or "black" (lays them over it), or "keep" (--alpha)'
NO_SOURCE = Source("", {}, ())


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A sequence of uint8 images of one geometry, read when asked for.

    name         the source as the user wrote it
    labels       int64 (N,) class numbers, or None without classes
    class_names  () without classes
    fingerprint  SHA-256 (hex) of what it holds and of the rule that brings it to its geometry
    items, fit   the images as they lie there, and how they come to the size
    source       what they were taken from, and split: which of its splits, "" without
    ground       how their alpha is taken away first, as in sizing.flattened; None leaves it
    """

    name: str
    geometry: Geometry
    labels: Integers | None
    class_names: tuple[str, ...]
    fingerprint: str
    items: Items
    fit: str
    source: Source = NO_SOURCE
    split: str = ""
    ground: str | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int | slice) -> Pixels:
        return self.array(range(len(self))[index]) if isinstance(index, slice) else self.read(index)

    def read(self, index: int) -> Pixels:
        """One image, (C, H, W), the caller's to keep; a negative index counts from the end."""
        return np.array(self._fitted(range(len(self))[index]))

    def array(self, indices: Sequence[int] | None = None) -> Pixels:
        """Several images, or all, (B, C, H, W); files are decoded on several threads."""
        numbers = range(len(self))
        rows = numbers if indices is None else [numbers[index] for index in indices]
        images = np.empty((len(rows), *self.geometry.shape), np.uint8)
        if isinstance(self.items, ArrayItems) and self.items.images.shape[1:] == self.geometry.shape:
            images[:] = self.items.images[self.items.rows[np.asarray(rows, np.int64)]]
            return images
        for place, pixels in enumerate(in_threads(self._fitted, rows, threads=True)):
            images[place] = pixels
        return images

    def summary(self) -> tuple[str, str]:
        """Two lines: how many images in which classes; which splits, what was left out and why."""
        return summary(self.name, self.source, {self.split: tally(self.labels, self.class_names, len(self))})

    def item_name(self, index: int) -> str:
        """What the image is called where it lies."""
        return self.items.name(range(len(self))[index])

    def _fitted(self, index: int) -> Pixels:
        try:
            pixels = self.items.image(index).pixels
        except BadImage as error:
            name = self.items.name(index)
            raise InputError(f"{name} in '{self.name}' could be read before, but no longer: {error}.") from None
        return fitted(flattened(pixels, self.ground), self.geometry, self.fit)


ImageData = str | os.PathLike[str] | ArrayLike | ImageSet
"""What stands for images: a source, uint8 arrays (N, H, W), (N, H, W, C) or (N, C, H, W), or an ImageSet."""


def open_images(
    src: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    fit: str = "crop",
    channels: int | None = None,
    on_bad_image: str = "stop",
    alpha: str | None = None,
    default_split: str | None = "train",
) -> ImageSet:
    """Open a source (the grammar is in grammar.py) and look at all of its images.

    size           (height, width) to bring every image to by `fit`; None: they must agree
    fit            "crop" or "resize"; see sizing.py
    channels       1 grey, 2 grey + alpha, 3 RGB, 4 RGBA; None: the fewest that lose nothing
    on_bad_image   "stop" raises InputError that names them, "skip" leaves them out with a warning
    alpha          "keep", "drop", "white" or "black", see sizing.flattened; None keeps it if all images have it, and
                   raises InputError if only some do and it is see-through
    default_split  taken where the source has splits and names none; None: that is an error
    """
    _check_arguments(size, fit, channels, on_bad_image, alpha)
    name = parse_source(src)
    source = find_source(name)
    split = choose_split(source, name, default_split)
    whole = cut(source.splits[split](), name)
    looks = _looks(whole.items, channels)
    part, looks = _without_bad(whole, looks, name.text, on_bad_image)
    if bad := len(whole.items) - len(part.items):
        source = replace(source, left_out={**source.left_out, "unreadable": {"images": bad}})
    rows = part.items if isinstance(part.items, ArrayItems) else None
    notes = narrow_ranges(looks) if rows is None else [narrow_range(rows.levels())]
    source = replace(source, notes=(*source.notes, *filter(None, notes)))
    looks, ground = _without_alpha(looks, name.text, alpha, channels)
    geometry = _geometry(looks, name.text, size, channels)
    return _image_set(name.text, part, geometry, source, split, fit if size else None, ground)


def image_set(
    data: ImageData,
    *,
    size: tuple[int, int] | None = None,
    fit: str = "crop",
    channels: int | None = None,
    alpha: str | None = None,
) -> ImageSet:
    """Images as an ImageSet: a source, an array that channels_first can read, or an ImageSet.

    size, fit, alpha  as in open_images
    channels          of a source, as there
    """
    if isinstance(data, str | os.PathLike):
        return open_images(data, size=size, fit=fit, channels=channels, alpha=alpha, default_split=None)
    if isinstance(data, ImageSet):
        found = data
    else:
        images = channels_first(as_array(data, "images"), "the array")
        found = _image_set("array", array_part(images, None, "array"), Geometry(*images.shape[1:]))
    known("alpha", alpha, ALPHA)
    ground = alpha if alpha != "keep" and has_alpha(found.geometry.channels) else None
    geometry = Geometry(found.geometry.channels - (ground is not None), *(size or found.geometry.size))
    if geometry == found.geometry:
        return found
    rule = f"{found.fingerprint}/{geometry}/{fit}{f'/{ground}' if ground else ''}"
    fingerprint = hashlib.sha256(rule.encode()).hexdigest()
    how = (fit if size else found.fit), (ground or found.ground)
    return replace(found, geometry=geometry, fingerprint=fingerprint, fit=how[0], ground=how[1])


def _image_set(
    name: str,
    part: Part,
    geometry: Geometry,
    source: Source = NO_SOURCE,
    split: str = "",
    fit: str | None = None,
    ground: str | None = None,
) -> ImageSet:
    """A part with its fingerprint: a hash of the content, of the labels and of the rules for size and alpha, if any.

    Its classes are those that occur; the fingerprint takes their numbers in the source.
    """
    labels, names = part.labels, ()
    marks = b"none" if labels is None else np.ascontiguousarray(labels, "<i8").tobytes()
    rule = f"{part.items.digest()}/{geometry}/{fit or 'as it is'}/" + (f"{ground}/" if ground else "")
    fingerprint = hashlib.sha256(rule.encode() + marks).hexdigest()
    if labels is not None:
        present, labels = np.unique(labels, return_inverse=True)
        names = tuple(source.class_names[number] for number in present)
    return ImageSet(name, geometry, labels, names, fingerprint, part.items, fit or "crop", source, split, ground)


def _check_arguments(
    size: tuple[int, int] | None, fit: str, channels: int | None, on_bad_image: str, alpha: str | None
) -> None:
    if size is not None and min(size) < 1:
        raise InputError(f"size {size[0]}x{size[1]} has no pixels: choose a height and a width of at least 1.")
    known("fit", str(fit), FITS)
    known("on_bad_image", str(on_bad_image), ON_BAD_IMAGE)
    if channels is not None and channels not in range(1, 5):
        raise InputError(f"channels = {channels} is impossible: choose 1 grey, 2 grey + alpha, 3 RGB or 4 RGBA.")
    if alpha is not None:
        known("alpha", str(alpha), ALPHA)
        if alpha != "keep" and channels is not None and has_alpha(channels):
            raise InputError(
                f'alpha = "{alpha}" takes away what channels = {channels} wants: leave out one of the two.'
            )


def _looks(items: Items, channels: int | None) -> list[Look]:
    """A look at every image; rows of one array are alike, so one speaks for all unless channels may be dropped."""
    if isinstance(items, ArrayItems):
        _, depth, height, width = items.images.shape
        if channels in (None, depth):
            return [Look(items.name(0), None, "", depth, (height, width))]
    return scan(items)


def _without_bad(part: Part, looks: list[Look], src: str, on_bad_image: str) -> tuple[Part, list[Look]]:
    bad = [f"{seen.name} ({seen.problem})" for seen in looks if seen.problem]
    if not bad:
        return part, looks
    count = f"{len(bad)} of {len(looks)} images in '{src}'"
    found = f"{count} cannot be read: {some(bad)}"
    if on_bad_image == "stop":
        raise InputError(f'{found}; repair or remove them, or set on_bad_image = "skip" to leave them out.')
    good = [index for index, seen in enumerate(looks) if not seen.problem]
    if not good:
        raise InputError(f"{found}; no image is left.")
    warnings.warn(f"left out {count}, which cannot be read: {some(bad)}.", stacklevel=3)
    return part.select(good), [looks[index] for index in good]


def _without_alpha(
    looks: list[Look], src: str, alpha: str | None, channels: int | None
) -> tuple[list[Look], str | None]:
    """Looks at the images as they are without their alpha, and the ground it goes to; None where it stays."""
    clear = [seen.name for seen in looks if seen.see_through]
    if alpha is None and channels is None and clear and not all(has_alpha(seen.channels) for seen in looks):
        raise InputError(
            f"of {len(looks)} images in '{src}', {len(clear)} {'is' if len(clear) == 1 else 'are'} see-through "
            f"({some(clear)}), and others have no alpha: choose what becomes of it, {ALPHA_CHOICES}."
        )
    if alpha in (None, "keep") or not any(has_alpha(seen.channels) for seen in looks):
        return looks, None
    opaque = [replace(seen, channels=3 if has_colour(seen.channels) else 1, see_through=False) for seen in looks]
    return opaque, alpha


def _geometry(looks: Sequence[Look], src: str, size: tuple[int, int] | None, channels: int | None) -> Geometry:
    other = next((seen for seen in looks if seen.size != looks[0].size), None)
    if size is None and other is not None:
        sizes = " and ".join(f"{seen.name} is {seen.size[0]}x{seen.size[1]}" for seen in (looks[0], other))
        advice = f"give --size {suggested_size(looks)} (or another) to crop or resize them"
        raise MixedSizes(f"the images in '{src}' differ in size: {sizes} (height x width); {advice}.")
    if channels is not None:
        _check_nothing_lost(looks, src, channels)
    return Geometry(channels or common_channels(looks), *(size or looks[0].size))


def _check_nothing_lost(looks: Sequence[Look], src: str, channels: int) -> None:
    """Dropping alpha that is opaque everywhere, or colour that is grey everywhere, loses nothing and is allowed."""
    kept = common_channels(looks)
    lossy = {
        "colour": next((seen for seen in looks if seen.colourful and not has_colour(channels)), None),
        "transparency": next((seen for seen in looks if seen.see_through and not has_alpha(channels)), None),
    }
    for what, seen in lossy.items():
        if seen is not None:
            or_else = f", or {ALPHA_CHOICES}" if what == "transparency" else ""
            raise InputError(
                f"channels = {channels} loses the {what} of {seen.name} in '{src}': choose {kept}, which keeps all"
                f"{or_else}."
            )
