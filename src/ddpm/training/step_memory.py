"""The memory that training takes, without computing anything: the learner's own step on the meta device.

Tensors there have shapes and no contents, but they come and go as on a GPU. Counting what is alive gives the peak of
PyTorch's allocator: weights, their EMA, the optimiser, activations, gradients and all that is in between. Libraries ask
for workspaces beside it, which only convolutions in strict float32 have large; those are guessed.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ddpm.data.stream import Batch
from ddpm.model.recipe import Recipe, changed
from ddpm.networks.blocks import Attention, ResidualBlock, normalised
from ddpm.training.averages import follow
from ddpm.training.learner import Learner

BLOCK = 512  # bytes that an allocation on an NVIDIA GPU is rounded up to
META = torch.device("meta")
CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
WORKSPACE = 4.0  # of strict float32 convolutions on NVIDIA GPUs; of two networks measured it was 2.3 and 7.0

# What torch.autocast does on CUDA with the functions that a network calls; the meta device has no autocast.
CASTS: dict[Any, torch.dtype] = {
    **dict.fromkeys((F.conv2d, torch.conv2d, F.linear, F.scaled_dot_product_attention), torch.bfloat16)
}


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of tensors alive on a device: `now`, and the most so far, `peak`.

    workspace  of a convolution, as a multiple of what it reads and writes
    """

    def __init__(self, device: torch.device = META, *, workspace: float = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.workspace = device, workspace
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
        if self.workspace and func in CONVOLUTIONS:
            touched = sum(tensor.nbytes for tensor in tree_leaves((args, out)) if isinstance(tensor, Tensor))
            self.peak = max(self.peak, self.now + int(self.workspace * touched))
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


class _Fused(torch.autograd.Function):
    """A normalisation as a compiled network has it: one kernel, which keeps what goes in and nothing in between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The shape of the result."""
        ctx.save_for_backward(x, weight)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, ...]:
        """The shapes of the gradients."""
        x, weight = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


class _AsOnCuda(TorchFunctionMode):
    """What functions of the network leave alive on CUDA: attention keeps no matrix of weights, autocast casts, and
    torch.compile fuses normalisations."""

    def __init__(self, *, autocast: bool, compiled: bool) -> None:
        super().__init__()
        self.casts, self.compiled = CASTS if autocast else {}, compiled

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, or what stands in for it."""
        kwargs = kwargs or {}
        if func is normalised and self.compiled:
            return _Fused.apply(args[0], args[1].weight, args[1].bias)  # type: ignore[no-untyped-call]
        if func in self.casts:
            dtype = self.casts[func]
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


def peak_memory(recipe: Recipe, *, compiled: bool = False) -> int:
    """Bytes at the peak of a training step of a resolved recipe on a GPU.

    compiled  whether torch.compile compiles the network: it keeps less of what is between convolutions
    """
    parts = {"batch_size": min(recipe.batch_size, 2 * (recipe.micro_batch or recipe.batch_size))}  # all more are alike
    plain = changed(recipe, {"precision": "float32", "objective": {"levels": "uniform"}, **parts})
    live = LiveBytes(workspace=WORKSPACE if recipe.precision == "float32" else 0)
    masks = saved_tensors_hooks(_without_masks, _again)
    as_on_cuda = _AsOnCuda(autocast=recipe.precision == "bfloat16", compiled=compiled)
    with live, as_on_cuda:
        with META:
            learner = Learner(plain, META)
        for part in learner.network.modules():
            if isinstance(part, ResidualBlock | Attention):
                part.forward = as_on_cuda.within(part.forward)  # type: ignore[method-assign]
        weights = list(learner.network.parameters())
        moments = [torch.empty_like(weight) for weight in [*weights, *weights]]  # Adam's
        with masks if compiled else contextlib.nullcontext():
            learner.gradient(blank_batch(plain))
        follow(learner.ema, learner.network, 0.5, torch.ones((), dtype=torch.bool, device=META))
    del moments
    return live.peak


def _without_masks(kept: Tensor) -> Tensor | torch.Size:
    """What dropout kept is computed again for the gradient."""
    return kept.shape if kept.dtype == torch.bool else kept


def _again(kept: Tensor | torch.Size) -> Tensor:
    return torch.empty(kept, dtype=torch.bool, device=META) if isinstance(kept, torch.Size) else kept
