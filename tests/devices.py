"""Where tensors lie: a mode that keeps the operations on the CPU while other work is on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class OnCpu(TorchDispatchMode):
    """Keeps, inside its block, each operation that takes or gives a tensor on the CPU, and the shapes of those.

    With a network on "meta", where nothing can be read, such a tensor would be copied to a GPU at every step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[tuple[int, ...]]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        there = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        here = [tuple(tensor.shape) for tensor in there if tensor.device == torch.device("cpu")]
        if here:
            self.seen.append((str(func), here))
        return out
