"""Running out of memory becomes one sentence, whoever says it; other errors stay what they are."""

from __future__ import annotations

import pytest
import torch

from ddpm.base.device_memory import within_memory
from ddpm.errors import InputError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_too_little_memory_is_said_with_what_to_do(error: Exception):
    said = r"^1,024 images at a time .* memory of cpu: choose a smaller batch size\.$"
    with pytest.raises(InputError, match=said), within_memory(1024, CPU):
        raise error


def test_the_cpu_s_own_allocator_is_understood():
    with pytest.raises(InputError, match=r"2 images .*: take less"), within_memory(2, CPU, "take less"):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="sizes"), within_memory(2, CPU):
        raise RuntimeError("the sizes differ")
