"""The precision that networks compute in, by its name, on any device and in any version of PyTorch from 2.6.

"float32" is strict. PyTorch itself lets convolutions on NVIDIA GPUs round their factors to TF32, with 10 bits of
mantissa; "tf32" lets matrix products do so too. "bfloat16", with 7 bits, is autocast. Weights stay what they are.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch

from ddpm.errors import known

PRECISIONS = ("float32", "tf32", "bfloat16")
STRICT = PRECISIONS[0]

P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in one of PRECISIONS inside the block, and as before after it; costs some 20 microseconds.

    PyTorch's flags of TF32 are the whole process's: threads that compute at once on GPUs must want the same of it.
    Without gradients, autocast keeps no rounded weights: a CUDA graph that used them would outlive them.
    """
    known("precision", precision, PRECISIONS)
    rounding = _rounding(precision == "tf32") if device.type == "cuda" else contextlib.nullcontext()
    with rounding, _autocast(device.type, precision == "bfloat16"):
        yield


def computed_in(precision: str, device: torch.device, function: Callable[P, R]) -> Callable[P, R]:
    """A function, such as a network, that computes in one of PRECISIONS."""

    def call(*given: P.args, **named: P.kwargs) -> R:
        with computing(precision, device):
            return function(*given, **named)

    return call


def _autocast(device: str, enabled: bool) -> contextlib.AbstractContextManager[None]:
    if not enabled and not torch.amp.is_autocast_available(device):  # as on "meta"
        return contextlib.nullcontext()
    return torch.autocast(device, torch.bfloat16, enabled, cache_enabled=torch.is_grad_enabled())


@contextlib.contextmanager
def _rounding(allowed: bool) -> Iterator[None]:
    """Allow TF32, or not.

    PyTorch 2.9 brought `fp32_precision`, and setting `allow_tf32` sets it too; not the other way round, and
    torch.compile then refuses the two as mixed. So the old flags are set, and all of them put back.
    """
    _warned_unheard()
    before = []
    for owner, name in _flags():
        with contextlib.suppress(RuntimeError):  # where somebody has set the new flags alone
            before.append((owner, name, getattr(owner, name)))
    try:
        torch.backends.cudnn.allow_tf32 = allowed
        torch.backends.cuda.matmul.allow_tf32 = allowed
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def _flags() -> Iterator[tuple[Any, str]]:
    """Every flag of TF32 that this version of PyTorch has: the old ones first, which move the new ones."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    yield from ((cudnn, "allow_tf32"), (matmul, "allow_tf32"))
    if hasattr(cudnn, "conv"):
        yield from ((part, "fp32_precision") for part in (cudnn.conv, cudnn.rnn, matmul))


@functools.cache
def _warned_unheard() -> None:
    """Take the one warning, that new flags are there, with which versions from 2.9 on answer to an old one."""
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(RuntimeError):
        _ = torch.backends.cudnn.allow_tf32
