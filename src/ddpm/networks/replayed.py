"""A network whose calls are recorded once as a CUDA graph and then replayed, with one launch for all its kernels.

At a small batch the CPU cannot launch the kernels of a small network as fast as the GPU runs them; a graph can.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Call = Callable[[], Tensor]
Recorded = tuple[Callable[[], None], Tensor]
"""What makes a call again, and where it leaves its result."""


def record(call: Call, device: torch.device) -> Recorded:
    """Record a call on an NVIDIA GPU as a CUDA graph; its memory is freed with what is returned.

    call  reads tensors that stay where they are, and changes nothing else

    No other thread may read from the GPU meanwhile: what finds out beforehand that a call waits is a mode of the whole
    process, and a wait in another thread then raises RuntimeError there.

    Errors (RuntimeError): it cannot be recorded, because it waits for the GPU or the memory is too small.
    """
    # Whatever fails in the block, its stream is put back: a recording that failed does not do that itself.
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            call()  # libraries set themselves up, and tables come to the device
            _without_waiting(call)
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may take memory meanwhile
            output = call()
    return graph.replay, output


def _without_waiting(call: Call) -> None:
    """Make a call; RuntimeError where it waits for the GPU. That spoils a recording, and not only that one."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(action="ignore"):  # that this mode may miss some waiting
        torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


class Replayed:
    """A network, see denoiser.Network, that replays a call of one size; for inference, on one device.

    network  the outputs of images are independent of each other
    size     images in the recorded call; its kind is that of the first call
    record   as above

    Fewer images ride along with what lies in the other places. Calls of another kind (more images, another shape or
    type) are made plainly, and so are all if the network cannot be recorded.
    """

    def __init__(
        self, network: Callable[..., Tensor], size: int, record: Callable[[Call, torch.device], Recorded] = record
    ) -> None:
        self.network = network
        self.size = size
        self.record = record
        self.inputs: tuple[Tensor, ...] = ()
        self.recorded: Recorded | None = None

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """The network's output, in memory of its own."""
        given = (x, time) if labels is None else (x, time, labels)
        if not self.inputs:
            self._begin(given)
        if self.recorded is None or not all(map(_rides, given, self.inputs)) or len(given) != len(self.inputs):
            return self.network(x, time, labels)
        for value, place in zip(given, self.inputs, strict=True):
            place[: len(value)].copy_(value)
        replay, output = self.recorded
        replay()
        return output[: len(x)].clone()

    def _begin(self, given: tuple[Tensor, ...]) -> None:
        # Copies of the images fill the places: their numbers are such as the network takes.
        self.inputs = tuple(torch.cat([value] * -(-self.size // len(value)))[: self.size] for value in given)
        try:
            self.recorded = self.record(lambda: self.network(*self.inputs), given[0].device)
        except RuntimeError:
            self.recorded = None


def _rides(value: Tensor, place: Tensor) -> bool:
    """Whether a tensor has room in another."""
    return value.dtype == place.dtype and value.shape[1:] == place.shape[1:] and len(value) <= len(place)
