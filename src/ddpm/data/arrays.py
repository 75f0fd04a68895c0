"""Sources that are NumPy files: .npy and .npz with uint8 images. Nothing is ever unpickled."""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ddpm.base.npz import BadArchive, array_names, map_array, read_arrays
from ddpm.base.tensors import Integers, Pixels
from ddpm.data.items import Part, Source, array_part
from ddpm.data.splits import SPLIT_NAMES
from ddpm.errors import InputError, some

SPLIT_KEYS = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("images_{}", "labels_{}"), ("{}_data", "{}_labels"))
"""Of images and labels, with a name of the split in them: those of Keras and of MedMNIST, and relatives."""
IMAGE_KEYS = ("images", "x", "arr_0", "data")
LABEL_KEYS = ("labels", "y", "label", "arr_1")
NAMES = "class_names"
"""What the labels are called, the k-th name for the label k, as `ddpm sample` writes them."""
MOST_CLASSES = 100_000
SMALLEST_SIDE = 8  # pixels, of images that lie in rows


def npy_source(path: Path) -> Source:
    """One array in a .npy file; it is memory-mapped, so it may be larger than memory."""
    array = _read(path, lambda: map_array(path))
    part = array_part(channels_first(array, f"'{path}'"), None, path.name)
    return Source("NumPy array", {"": lambda: part}, ())


def npz_source(path: Path) -> Source:
    """Arrays in a .npz file: images under one of IMAGE_KEYS, labels under LABEL_KEYS; or by split, see SPLIT_KEYS.

    The labels' names are those under NAMES if it holds a string for each, all different; else they are numbers.
    """
    every = _read(path, lambda: array_names(path))
    keys = _keys_by_split(path, every)
    labels = {split: None if y is None else _labels(path, y) for split, (_, y) in keys.items()}
    numbers, names = labelled_splits(labels)
    given = _given_names(path, names) if names and NAMES in every else ()
    parts = {split: partial(_npz_part, path, images, numbers[split]) for split, (images, _) in keys.items()}
    used = {key for pair in keys.values() for key in pair} | ({NAMES} if given else set())
    rest = [key for key in every if key not in used]
    return Source("NumPy archive", parts, given or names, {"other arrays": dict.fromkeys(rest, 1)} if rest else {})


def _read(path: Path, read: Callable[[], Any], key: str = "") -> Any:
    """Call a reader and turn what it raises into a sentence for the user."""
    try:
        return read()
    except BadArchive:
        where = f" (at {key})" if key else ""
        raise InputError(f"'{path}' is cut short or damaged{where}, or not a {path.suffix} file.") from None


def _keys_by_split(path: Path, keys: Sequence[str]) -> Mapping[str, tuple[str, str | None]]:
    """{split: (key of the images, key of the labels or None)}, in any case; the split is "" where there are none."""
    written = {key.lower(): key for key in keys}
    splits: dict[str, tuple[str, str | None]] = {}
    for (split, names), (images, labels) in itertools.product(SPLIT_NAMES.items(), SPLIT_KEYS):
        for name in names:
            if images.format(name) in written:
                splits.setdefault(split, (written[images.format(name)], written.get(labels.format(name))))
    whole = next((written[key] for key in IMAGE_KEYS if key in written), None)
    if splits and whole is not None:
        both = f"images of splits ({', '.join(images for images, _ in splits.values())}) and {whole} beside them"
        raise InputError(f"'{path}' holds {both}, so what to take is open: leave out one of them.")
    if splits:
        return splits
    if whole is None:
        wanted = f"{', '.join(IMAGE_KEYS)}, or x_train and x_test, or train_images and test_images"
        held = ", ".join(keys) or some(_files(path)) or "nothing"
        raise InputError(f"'{path}' holds {held}; images are looked for under {wanted}.")
    return {"": (whole, next((written[key] for key in LABEL_KEYS if key in written), None))}


def _files(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:  # which was read before
        return [name for name in archive.namelist() if not name.endswith("/")]


def _member(path: Path, key: str) -> npt.NDArray[Any]:
    (array,) = _read(path, lambda: read_arrays(path, key), key)
    return np.asarray(array)


def _labels(path: Path, key: str) -> Integers:
    labels = _member(path, key)
    return class_numbers(labels, len(labels) if labels.ndim else 1, f"'{path}' (at {key})")


def _given_names(path: Path, numbers: Sequence[str]) -> tuple[str, ...]:
    """What the archive calls the labels of these numbers; () unless it does so in one way."""
    try:
        names = _member(path, NAMES)
    except InputError:
        return ()
    distinct = names.ndim == 1 and names.dtype.kind == "U" and len(set(names.tolist())) == len(names)
    return tuple(names[list(map(int, numbers))].tolist()) if distinct and int(numbers[-1]) < len(names) else ()


def _npz_part(path: Path, key: str, numbers: Integers | None) -> Part:
    count = None if numbers is None else len(numbers)
    images = channels_first(_member(path, key), f"{key} in '{path}'", count=count, planes="data" in key.lower())
    if numbers is not None:
        check_count(numbers, len(images), f"'{path}'")
    return array_part(images, numbers, f"{path.name}:{key}")


def channels_first(array: npt.NDArray[Any], where: str, *, count: int | None = None, planes: bool = False) -> Pixels:
    """View uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W); anything doubtful is refused.

    count   of the labels, where there are some: 3 labels make (3, H, W) three images, else it may be one
    planes  read rows (N, 3 * S * S) too, as ImageNet's 32 x 32 version has them: red, green, blue, one after the other
    """
    if not array.size:
        raise InputError(f"{where} holds no images: its shape is {array.shape}.")
    if array.dtype != np.uint8:
        raise InputError(f"{where} holds {array.dtype}: convert it to uint8, grey levels 0 to 255.")
    shape, few = array.shape, range(1, 5)
    side = math.isqrt(shape[1] // 3) if array.ndim == 2 else 0
    if planes and side >= SMALLEST_SIDE and 3 * side * side == shape[1]:
        return array.reshape(-1, 3, side, side)
    first, last = array.ndim == 4 and shape[1] in few, array.ndim >= 3 and shape[-1] in few
    if array.ndim == 3 and not last and (shape[0] not in (2, 3, 4) or count == shape[0]):
        return array[:, None]
    if array.ndim == 4 and first != last:
        return array if first else array.transpose(0, 3, 1, 2)
    raise InputError(
        f"{where} has shape {shape}, which cannot be read as images in one way only: make it {_advice(shape)}."
    )


def _advice(shape: tuple[int, ...]) -> str:
    """Which shapes an array may have been meant as."""
    if len(shape) == 3 and shape[0] in (2, 3, 4):
        channels, height, width = shape
        return f"(1, {channels}, {height}, {width}) for one image or ({channels}, 1, {height}, {width}) for grey ones"
    if len(shape) == 3 and shape[2] in range(1, 5) and min(shape):
        height, width, channels = shape
        return f"(1, {height}, {width}, {channels}) for one image or ({height}, 1, {width}, {channels}) for grey ones"
    if len(shape) == 2 and min(shape):
        count, length = shape
        grey, side = math.isqrt(length), math.isqrt(length // 3)
        if 3 * side * side == length:
            rows = f"({count}, 3, {side}, {side}) or ({count}, {side}, {side}, 3), as the colours lie in a row"
        else:
            rows = f"({count}, {grey}, {grey})" if grey * grey == length else "(N, H, W)"
        return f"{rows}, or (1, {count}, {length}) for one grey image"
    return "(N, H, W), (N, H, W, C) or (N, C, H, W), with C in 1 to 4 and larger H and W"


def labelled(labels: npt.NDArray[Any]) -> tuple[Integers, tuple[str, ...]]:
    """Number the classes that occur: int64 (N,) from 0 without gaps, and the names, the labels as they were written.

    labels  whole numbers (N,), so that 1, 5, 5 become 0, 1, 1 with the names "1" and "5"
    """
    values, numbers = np.unique(labels, return_inverse=True)
    return numbers.reshape(-1).astype(np.int64), tuple(str(value) for value in values.tolist())


def labelled_splits(labels: Mapping[str, Integers | None]) -> tuple[dict[str, Integers | None], tuple[str, ...]]:
    """The same for several splits, whose classes are numbered together; a split without labels stays without."""
    present = {split: values for split, values in labels.items() if values is not None}
    if not present:
        return dict(labels), ()
    numbers, names = labelled(np.concatenate(list(present.values())))
    ends = np.cumsum([len(values) for values in present.values()])[:-1]
    found = dict(zip(present, np.split(numbers, ends), strict=True))
    return {split: found.get(split) for split in labels}, names


def class_numbers(labels: npt.NDArray[Any], count: int, where: str) -> Integers:
    """Labels as they are written, int64 (N,), from whole numbers (N,) or (N, 1) or one-hot rows (N, K), K at least 2.

    count  of the images, which the labels must have
    where  what the error calls them

    Errors (InputError): another count, other shapes, several classes an image, numbers below 0 or too large.
    """
    flat = _one_column(labels, where)
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer):
        raise InputError(
            f"the labels in {where} are {labels.dtype} of shape {labels.shape}: it takes {count:,} whole numbers, one "
            "an image."
        )
    check_count(flat, count, where)
    if count and not 0 <= int(flat.min()) <= int(flat.max()) < MOST_CLASSES:
        raise InputError(
            f"the labels in {where} run from {flat.min()} to {flat.max()}: they must lie in 0 to {MOST_CLASSES - 1:,}."
        )
    return flat.astype(np.int64)


def check_count(labels: Integers, count: int, where: str) -> None:
    """Raise InputError unless there is one label an image."""
    if len(labels) != count:
        raise InputError(f"there are {len(labels):,} labels in {where} for {count:,} images: it takes one an image.")


def _one_column(labels: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    """(N, 1) as (N,), and one-hot rows, each a single 1 among 0s of any type, as the places of their 1s."""
    if labels.ndim != 2 or labels.dtype.kind not in "buif":
        return labels
    if labels.shape[1] == 1:
        return labels[:, 0]
    of_two = (labels == 0) | (labels == 1)
    if of_two.all() and (labels.sum(axis=1) == 1).all():
        places: Integers = labels.argmax(axis=1)
        return places
    row = int(np.flatnonzero(~of_two.all(axis=1) | (labels.sum(axis=1) != 1))[0])
    several = "several classes or none" if of_two.all() else "other numbers than one 1 among 0s"
    raise InputError(
        f"the labels in {where} have shape {labels.shape}, and row {row} holds {several}: it takes one class an image, "
        "as a whole number or a one-hot row."
    )
