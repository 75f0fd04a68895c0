"""Sources that are NumPy files: .npy and .npz with uint8 images. Nothing is ever unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ddpm.base.tensors import Integers, Pixels
from ddpm.data.items import Part, Source, array_part
from ddpm.errors import InputError

SPLITS = ("train", "val", "test")
IMAGE_KEYS = ("images", "x", "arr_0", "data")
LABEL_KEYS = ("labels", "y", "label", "arr_1")
MOST_CLASSES = 100_000
NUMPY_ERRORS = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def npy_source(path: Path) -> Source:
    """One array in a .npy file; it is memory-mapped, so it may be larger than memory."""
    array = _load(path)
    if not isinstance(array, np.ndarray):
        raise InputError(f"'{path}' is an .npz file under another name; rename it to .npz.")
    part = array_part(channels_first(array, f"'{path}'"), None, path.name)
    return Source("NumPy array", {"": lambda: part}, ())


def npz_source(path: Path) -> Source:
    """Arrays in a .npz file: images under one of IMAGE_KEYS, labels under LABEL_KEYS; or x_train, y_train, ..."""
    archive = _load(path)
    if isinstance(archive, np.ndarray):
        raise InputError(f"'{path}' is an .npy file under another name; rename it to .npy.")
    keys = _keys_by_split(path, archive.files)
    labels = {split: None if y is None else _member(path, archive, y) for split, (_, y) in keys.items()}

    def part(split: str) -> Callable[[], Part]:
        return lambda: _npz_part(path, archive, keys[split][0], labels[split])

    numbers = [None if y is None else class_numbers(y, y.size, f"'{path}'") for y in labels.values()]
    return Source("NumPy archive", {split: part(split) for split in keys}, number_names(numbers))


def _load(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except NUMPY_ERRORS as error:
        raise InputError(f"'{path}' {_complaint(error)}.") from None


def _complaint(error: Exception) -> str:
    if "Object arrays" in str(error):
        return "holds Python objects, which are not read; a plain uint8 array is needed"
    return "is cut short or damaged, or not a NumPy file"


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


def _member(path: Path, archive: Any, key: str) -> npt.NDArray[Any]:
    try:
        member: npt.NDArray[Any] = archive[key]
    except NUMPY_ERRORS as error:
        raise InputError(f"'{path}' {_complaint(error)} (at {key}).") from None
    return member


def _npz_part(path: Path, archive: Any, key: str, labels: npt.NDArray[Any] | None) -> Part:
    images = channels_first(_member(path, archive, key), f"{key} in '{path}'")
    numbers = None if labels is None else class_numbers(labels, len(images), f"'{path}'")
    return array_part(images, numbers, f"{path.name}:{key}")


def channels_first(array: npt.NDArray[Any], where: str) -> Pixels:
    """View uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W); anything doubtful is refused."""
    if array.dtype != np.uint8:
        raise InputError(f"{where} holds {array.dtype}; uint8 grey levels 0..255 are needed, so convert it knowingly.")
    first, last = array.ndim == 4 and array.shape[1] in range(1, 5), array.ndim >= 3 and array.shape[-1] in range(1, 5)
    if array.size and array.ndim == 3 and not last:
        return array[:, None]
    if array.size and array.ndim == 4 and first != last:
        return array if first else array.transpose(0, 3, 1, 2)
    fits = "(N, H, W), (N, H, W, C) or (N, C, H, W) with C in 1..4 and larger H and W would fit"
    raise InputError(f"{where} has shape {array.shape}, which cannot be read as images in one way only; {fits}.")


def class_numbers(labels: npt.NDArray[Any], count: int, where: str) -> Integers:
    """Check labels, integers (N,) or (N, 1) from 0 on, against the count of images; returns int64 (N,)."""
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer) or len(flat) != count:
        came = f"{labels.dtype} of shape {labels.shape}"
        raise InputError(f"the labels in {where} are {came}; one whole number per image ({count}) would fit.")
    if count and not 0 <= int(flat.min()) <= int(flat.max()) < MOST_CLASSES:
        came = f"run from {flat.min()} to {flat.max()}"
        raise InputError(f"the labels in {where} {came}; 0 to {MOST_CLASSES - 1} would fit.")
    return flat.astype(np.int64)


def number_names(labels: Sequence[Integers | None]) -> tuple[str, ...]:
    """Names "0", "1", ... for as many classes as the labels of all splits speak of."""
    most = max((int(numbers.max()) for numbers in labels if numbers is not None and len(numbers)), default=-1)
    return tuple(str(number) for number in range(most + 1))
