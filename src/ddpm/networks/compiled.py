"""Networks whose arithmetic torch.compile has turned into few large kernels.

Which networks are compiled is remembered beside them, not in them: state dicts, copies and pickles are as ever.
"""

from __future__ import annotations

import functools
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddpm.base.device_memory import out_of_memory

Body = Callable[..., Tensor]

_COMPILED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def run(body: Body, network: nn.Module, *given: Tensor | None) -> Tensor:
    """body(network, *given), compiled if the network is."""
    return (_compiled(body) if network in _COMPILED else body)(network, *given)


@functools.cache
def _compiled(body: Body) -> Any:
    return torch.compile(body, dynamic=False, fullgraph=True)


def compile_network(network: nn.Module, trial: Callable[[], object]) -> str:
    """Compile a network if that is possible here; whatever was compiled for other networks is forgotten.

    network  a U-Net, or one with a U-Net inside
    trial    calls it as it will be called, forward and perhaps backward: this is when compilers work and fail
    returns  a sentence: how long it took, or why the network stays as it is
    """
    torch.compiler.reset()
    _compiled.cache_clear()
    _COMPILED.clear()
    _COMPILED.update(network.modules())
    start = time.monotonic()
    try:
        with warnings.catch_warnings(action="ignore"):
            trial()
    except Exception as error:  # compilers fail in many ways, and none of them should end a run
        if out_of_memory(error):
            raise
        _COMPILED.clear()
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        return f"The network could not be compiled and runs in eager mode: {reason}."
    return f"The network is compiled, which took {time.monotonic() - start:.0f} s."
