"""Sources in the fixed layouts of well-known sets: IDX (MNIST), CIFAR-10 binary, and the digits inside scikit-learn."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from ddpm.base.files import read_bytes
from ddpm.base.npz import BadArchive, check_unpacked, reading
from ddpm.base.tensors import Integers, Pixels
from ddpm.data.arrays import check_count, labelled, labelled_splits
from ddpm.data.items import Part, Source, array_part
from ddpm.errors import InputError

IDX_TYPES = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
IDX_SPLITS = {"train": ("train",), "test": ("t10k", "test")}
CIFAR_FILES = {"train": [f"data_batch_{k}.bin" for k in range(1, 6)], "test": ["test_batch.bin"]}
CIFAR_NAMES = {"batches.meta.txt", *(name for names in CIFAR_FILES.values() for name in names)}
CIFAR_CLASSES = 10
CIFAR_NUMBERS = tuple(str(number) for number in range(CIFAR_CLASSES))
MOST_META_BYTES = 2**16
CIFAR_RECORD = 1 + 3 * 32 * 32  # label, then red, green and blue planes
DIGITS_TRAIN = 1500
PIECE = 2**20  # bytes read at a time


def find_idx(folder: Path, what: str) -> dict[str, Path]:
    """{split: file} for "images-idx3" or "labels-idx1"; an unpacked file is preferred to its .gz."""
    names = [what + "-ubyte", what.replace("-idx", ".idx") + "-ubyte"]
    found: dict[str, Path] = {}
    for split, stems in IDX_SPLITS.items():
        paths = [folder / f"{stem}-{name}{end}" for end in ("", ".gz") for stem in stems for name in names]
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found[split] = path
    return found


def idx_source(folder: Path) -> Source:
    """A folder in the layout of MNIST: train-images-idx3-ubyte, t10k-labels-idx1-ubyte, ..., each perhaps .gz."""
    images, label_files = find_idx(folder, "images-idx3"), find_idx(folder, "labels-idx1")
    labels = {split: _read_idx(path, dimensions=1).astype(np.int64) for split, path in label_files.items()}
    numbers, names = labelled_splits({split: labels.get(split) for split in images})
    parts = {split: partial(_idx_part, path, numbers[split]) for split, path in images.items()}
    return Source("IDX folder", parts, names)


def _idx_part(path: Path, labels: Integers | None) -> Part:
    images = _read_idx(path, dimensions=3)
    if not images.size:
        raise InputError(f"'{path}' holds no images.")
    if labels is not None:
        check_count(labels, len(images), f"the file beside '{path}'")
    return array_part(images[:, None], labels, path.name)


def _read_idx(path: Path, dimensions: int) -> Pixels:
    """Big-endian header (0, 0, 8 = uint8, dimensions), one uint32 per dimension, then the bytes."""
    with _unpacked(path) as file:
        head = file.read(4 + 4 * dimensions)
        if head[:2] == b"\0\0" and len(head) > 3 and head[2] in IDX_TYPES and (head[2], head[3]) != (8, dimensions):
            raise InputError(
                f"'{path}' holds {head[3]}-dimensional {IDX_TYPES[head[2]]}, by its header: it takes "
                f"{dimensions}-dimensional uint8."
            )
        if len(head) < 4 + 4 * dimensions or tuple(head[:4]) != (0, 0, 8, dimensions):
            raise InputError(f"'{path}' is cut short or damaged, or not an IDX file of {dimensions}-dimensional uint8.")
        shape = tuple(np.frombuffer(head, ">u4", offset=4).tolist())
        size, packed = math.prod(shape), path.stat().st_size
        if path.suffix == ".gz":
            check_unpacked(size, packed, path)
        elif size != packed - len(head):
            raise InputError(
                f"'{path}' is cut short or damaged: its header says {shape}, and {packed - len(head):,} bytes follow."
            )
        body, done = np.empty(size, np.uint8), 0
        while count := file.readinto(body.data[done : done + PIECE]):
            done += count
        if done < size or file.read(1):
            raise InputError(f"'{path}' is cut short or damaged: its header says {shape}, and other bytes follow.")
    return body.reshape(shape)


@contextmanager
def _unpacked(path: Path) -> Iterator[io.BufferedIOBase]:
    """The bytes of a file, unpacked as they are read if it ends in .gz."""
    try:
        with reading(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except BadArchive:
        raise InputError(f"'{path}' is cut short or damaged.") from None


def is_cifar(folder: Path) -> bool:
    """Whether the folder holds CIFAR-10 in its binary version; of the Python version it says what to do."""
    if any((folder / name).is_file() for names in CIFAR_FILES.values() for name in names):
        return True
    if (folder / "data_batch_1").is_file():
        raise InputError(f"'{folder}' is the Python version of CIFAR-10, a pickle: download the binary version.")
    return False


def cifar_source(folder: Path) -> Source:
    """CIFAR-10, binary version: records of one label byte and 3 x 32 x 32 uint8; names from batches.meta.txt."""
    present = {s: [folder / n for n in names if (folder / n).is_file()] for s, names in CIFAR_FILES.items()}
    parts = {split: partial(_cifar_part, paths, split) for split, paths in present.items() if paths}
    meta = folder / "batches.meta.txt"
    text = read_bytes(meta, MOST_META_BYTES).decode("utf-8", "replace") if meta.is_file() else ""
    names = tuple(text.split()) if len(set(text.split())) == len(text.split()) == CIFAR_CLASSES else CIFAR_NUMBERS
    return Source("CIFAR-10 binary folder", parts, names)


def _cifar_part(paths: list[Path], split: str) -> Part:
    records = np.concatenate([_cifar_records(path) for path in paths])
    return array_part(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64), split)


def _cifar_records(path: Path) -> Pixels:
    body = np.frombuffer(read_bytes(path), np.uint8)
    if not body.size or body.size % CIFAR_RECORD:
        raise InputError(f"'{path}' is cut short or damaged: CIFAR-10 has records of {CIFAR_RECORD} bytes.")
    wrong = np.flatnonzero(body[::CIFAR_RECORD] >= CIFAR_CLASSES)
    if len(wrong):
        raise InputError(
            f"'{path}' is damaged, or not CIFAR-10: record {wrong[0]:,} has the label "
            f"{body[wrong[0] * CIFAR_RECORD]}, and labels go from 0 to {CIFAR_CLASSES - 1}."
        )
    return body.reshape(-1, CIFAR_RECORD)


def digits_source() -> Source:
    """scikit-learn's 1,797 handwritten digits, 1 x 8 x 8; grey level g in 0..16 becomes round(g * 255 / 16).

    Its rows come writer by writer, so its first 1,500 would be other hands than its last 297. One frozen permutation,
    RandomState(0), comes first: then train and test are drawn alike, and distances to both may be compared.
    """
    from sklearn.datasets import load_digits  # slow to import

    bunch = load_digits()
    order = np.random.RandomState(0).permutation(len(bunch.images))
    images = np.rint(bunch.images * 255 / 16).astype(np.uint8)[:, None]
    whole = array_part(images, bunch.target.astype(np.int64), "digits")
    rows = {"train": order[:DIGITS_TRAIN].tolist(), "test": order[DIGITS_TRAIN:].tolist()}
    parts = {split: partial(whole.select, chosen) for split, chosen in rows.items()}
    return Source("digits of scikit-learn", parts, labelled(bunch.target)[1])
