"""Sources that are NumPy files: .npy and .npz with uint8 images. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ddpm.base.npz import BadArchive, array_names, map_array, read_arrays
from ddpm.base.tensors import Integers, Pixels
from ddpm.data.items import Part, Source, array_part
from ddpm.errors import InputError

SPLITS = ("train", "val", "test")
IMAGE_KEYS = ("images", "x", "arr_0", "data")
LABEL_KEYS = ("labels", "y", "label", "arr_1")
MOST_CLASSES = 100_000


def npy_source(path: Path) -> Source:
    """One array in a .npy file; it is memory-mapped, so it may be larger than memory."""
    array = _read(path, lambda: map_array(path))
    part = array_part(channels_first(array, f"'{path}'"), None, path.name)
    return Source("NumPy array", {"": lambda: part}, ())


def npz_source(path: Path) -> Source:
    """Arrays in a .npz file: images under one of IMAGE_KEYS, labels under LABEL_KEYS; or x_train, y_train, ..."""
    keys = _keys_by_split(path, _read(path, lambda: array_names(path)))
    labels = {split: None if y is None else _member(path, y) for split, (_, y) in keys.items()}
    parts = {split: partial(_npz_part, path, images, labels[split]) for split, (images, _) in keys.items()}
    numbers = [None if y is None else class_numbers(y, y.size, f"'{path}'") for y in labels.values()]
    return Source("NumPy archive", parts, number_names(numbers))


def _read(path: Path, read: Callable[[], Any], key: str = "") -> Any:
    """Call a reader and turn what it raises into a sentence for the user."""
    try:
        return read()
    except BadArchive:
        where = f" (at {key})" if key else ""
        raise InputError(f"'{path}' is cut short or damaged{where}, or not a {path.suffix} file.") from None


def _keys_by_split(path: Path, keys: Sequence[str]) -> Mapping[str, tuple[str, str | None]]:
    """{split: (key of the images, key of the labels or None)}; the split is "" where there are none."""
    split_keys = {s: (f"x_{s}", f"y_{s}" if f"y_{s}" in keys else None) for s in SPLITS if f"x_{s}" in keys}
    if split_keys:
        return split_keys
    images = next((key for key in IMAGE_KEYS if key in keys), None)
    if images is None:
        wanted = f"{', '.join(IMAGE_KEYS)}, or x_train and x_test"
        raise InputError(f"'{path}' holds {', '.join(keys) or 'nothing'}; images are looked for under {wanted}.")
    return {"": (images, next((key for key in LABEL_KEYS if key in keys), None))}


def _member(path: Path, key: str) -> npt.NDArray[Any]:
    (array,) = _read(path, lambda: read_arrays(path, key), key)
    return np.asarray(array)


def _npz_part(path: Path, key: str, labels: npt.NDArray[Any] | None) -> Part:
    images = channels_first(_member(path, key), f"{key} in '{path}'")
    numbers = None if labels is None else class_numbers(labels, len(images), f"'{path}'")
    return array_part(images, numbers, f"{path.name}:{key}")


def channels_first(array: npt.NDArray[Any], where: str) -> Pixels:
    """View uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W); anything doubtful is refused."""
    if array.dtype != np.uint8:
        raise InputError(f"{where} holds {array.dtype}: convert it to uint8, grey levels 0 to 255.")
    first, last = array.ndim == 4 and array.shape[1] in range(1, 5), array.ndim >= 3 and array.shape[-1] in range(1, 5)
    if array.size and array.ndim == 3 and not last:
        return array[:, None]
    if array.size and array.ndim == 4 and first != last:
        return array if first else array.transpose(0, 3, 1, 2)
    raise InputError(
        f"{where} has shape {array.shape}, which cannot be read as images in one way only: make it (N, H, W), "
        "(N, H, W, C) or (N, C, H, W), with C in 1 to 4 and larger H and W."
    )


def class_numbers(labels: npt.NDArray[Any], count: int, where: str) -> Integers:
    """Check labels, integers (N,) or (N, 1) from 0 on, against the count of images; returns int64 (N,)."""
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer) or len(flat) != count:
        raise InputError(
            f"the labels in {where} are {labels.dtype} of shape {labels.shape}: it takes {count} whole numbers, one an "
            "image."
        )
    if count and not 0 <= int(flat.min()) <= int(flat.max()) < MOST_CLASSES:
        raise InputError(
            f"the labels in {where} run from {flat.min()} to {flat.max()}: they must be 0 to {MOST_CLASSES - 1:,}."
        )
    return flat.astype(np.int64)


def number_names(labels: Sequence[Integers | None]) -> tuple[str, ...]:
    """Names "0", "1", ... for as many classes as the labels of all splits speak of."""
    most = max((int(numbers.max()) for numbers in labels if numbers is not None and len(numbers)), default=-1)
    return tuple(str(number) for number in range(most + 1))
