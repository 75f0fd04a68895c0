"""Named tensors in files, of safetensors or of PyTorch: no code in them is run, and they take no more than they are."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ddpm.base.files import read_bytes, refusals
from ddpm.errors import DamagedFile


def read_safetensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it, on the CPU. Errors: damaged (DamagedFile)."""
    with _opened(path) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  not a dictionary
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}


def tensor_names(path: Path) -> list[str]:
    """The names of the tensors in a safetensors file, which are not read. Errors: damaged (DamagedFile)."""
    with _opened(path) as file:
        return list(file.keys())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, open: keys() and get_tensor(name)."""
    with refusals(path, "read"), path.open("rb"):  # else safetensors hides the operating system's reason
        pass
    try:
        if not _is_unicode(path):  # safetensors opens no such path
            found = safetensors.torch.load(read_bytes(path))
            yield SimpleNamespace(keys=found.keys, get_tensor=found.__getitem__)
            return
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except Exception:  # types that PyTorch has not, names that are none, and more
        raise DamagedFile(f"'{path}' is cut short or damaged: it is not a safetensors file.") from None


def _is_unicode(path: Path) -> bool:
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


def read_pickled(path: Path) -> Any:
    """What torch.save wrote, if it is tensors and plain values, on the CPU. Errors: anything else (DamagedFile)."""
    content = read_bytes(path)
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if sum(member.file_size for member in archive.infolist()) > len(content):
                    raise ValueError("torch.save packs nothing")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # a damaged pickle fails in every way there is
        raise DamagedFile(f"'{path}' is cut short, damaged, or holds more than tensors; only those are read.") from None


def is_plain(value: object, shape: tuple[int, ...]) -> bool:
    """Whether a value is a tensor of floats of a shape, in memory, as torch.save and safetensors give it."""
    if not isinstance(value, Tensor) or value.device.type != "cpu" or value.layout != torch.strided:
        return False
    return value.is_floating_point() and tuple(value.shape) == shape


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Which values are NaN or infinite, in words; "" if none is."""
    counts = {name: tensor.numel() - int(torch.isfinite(tensor).sum()) for name, tensor in tensors.items()}
    bad = [name for name, count in counts.items() if count]
    if not bad:
        return ""
    more = f", and some of {len(bad) - 1} more tensors" if len(bad) > 1 else ""
    return f"{counts[bad[0]]:,} of the {tensors[bad[0]].numel():,} values of {bad[0]} are NaN or infinite{more}"
