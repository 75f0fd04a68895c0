"""Running out of a device's memory is the user's to mend: one sentence says with what."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ddpm.errors import InputError

UNALLOCATED = ("allocate memory", "out of memory", "ALLOC_FAILED")
"""In messages of plain RuntimeErrors: of PyTorch's allocator on the CPU, of CUDA itself, of cuBLAS and cuDNN."""


@contextlib.contextmanager
def within_memory(count: int, device: torch.device, advice: str = "choose a smaller batch size") -> Iterator[None]:
    """Work on so many images at a time; an InputError with the advice where the device has no memory for them."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise InputError(f"{count:,} images at a time are too many for the memory of {device}: {advice}.") from None


def out_of_memory(error: Exception) -> bool:
    """Whether an error of PyTorch, or of a library below it, means that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in UNALLOCATED)
