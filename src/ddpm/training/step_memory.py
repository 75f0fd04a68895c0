"""The memory that training takes, without computing anything: the learner's own steps on the meta device.

Tensors there have shapes and no contents, but they come and go as on a GPU. Counting what is alive gives the peak of
PyTorch's allocator in eager mode: weights, their EMA, the optimiser, activations, gradients and all that is in between.
What libraries ask for beside it (workspaces of cuDNN and cuBLAS) is not counted. A compiled network takes less.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ddpm.data.stream import Batch
from ddpm.model.recipe import Recipe, changed
from ddpm.networks.blocks import Attention, ResidualBlock
from ddpm.training.learner import Learner

STEPS = 2  # the first makes the optimiser's moments
BLOCK = 512  # bytes that an allocation on an NVIDIA GPU is rounded up to
META = torch.device("meta")

# What torch.autocast does on CUDA with the functions that a network calls; the meta device has no autocast.
CASTS: dict[Any, torch.dtype] = {
    **dict.fromkeys((F.conv2d, torch.conv2d, F.linear, F.scaled_dot_product_attention), torch.bfloat16),
    **dict.fromkeys((F.group_norm, torch.group_norm), torch.float32),
}


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of tensors alive on a device: `now`, and the most so far, `peak`."""

    def __init__(self, device: torch.device = META) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what is asked, and see what it made."""
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device == META:
            return 1  # a tensor without contents, asked for its value: the checks of a step pass
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device == self.device:
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = -(-storage.nbytes() // BLOCK) * BLOCK
            self.now += self._sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


class _AsOnCuda(TorchFunctionMode):
    """Tensors as CUDA has them: attention that keeps no matrix of weights, and the casts of autocast."""

    def __init__(self, autocast: bool) -> None:
        super().__init__()
        self.casts = CASTS if autocast else {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function with its floats cast."""
        kwargs = kwargs or {}
        dtype = self.casts.get(func)
        if dtype is not None:
            args, kwargs = tree_map_only(
                Tensor, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, (args, kwargs)
            )
        if func is F.scaled_dot_product_attention and args[0].ndim == 4:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args)[0]
        return func(*args, **kwargs)

    def within(self, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A module's forward under this mode: where a backward pass computes it again, modes around that are gone."""

        def call(*given: Any) -> Tensor:
            with self:
                return forward(*given)

        return call


def blank_batch(recipe: Recipe) -> Batch:
    """A batch of black images, of class 0 if there are classes."""
    count = recipe.batch_size
    images = torch.zeros(count, *recipe.geometry.shape, dtype=torch.uint8)
    labels = torch.zeros(count, dtype=torch.long) if recipe.network.classes else None
    return Batch(images, labels, 0, np.arange(count))


def peak_memory(recipe: Recipe) -> int:
    """Bytes at the peak of a training step of a resolved recipe on a GPU."""
    plain = changed(recipe, {"precision": "float32", "objective": {"levels": "uniform"}})
    live, batch, as_on_cuda = LiveBytes(), blank_batch(recipe), _AsOnCuda(recipe.precision == "bfloat16")
    with live, as_on_cuda:
        with META:
            learner = Learner(plain, META)
        for part in learner.network.modules():
            if isinstance(part, ResidualBlock | Attention):
                part.forward = as_on_cuda.within(part.forward)  # type: ignore[method-assign]
        for _ in range(STEPS):
            learner.step(batch)
    return live.peak
