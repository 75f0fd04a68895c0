"""Replayed networks: what is recorded, what rides along, and what is called plainly. A CUDA graph is played by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddpm.networks.replayed import Call, Recorded, Replayed

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


class Network:
    """Outputs that depend on everything, image by image; how often it was called, and with how many."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        self.sizes.append(len(x))
        shift = time.to(x.dtype) if labels is None else time.to(x.dtype) - 10 * labels
        return torch.sin(3 * x) + shift.reshape(-1, 1, 1, 1)


class Recorder:
    """Makes the call again into the same memory, as a CUDA graph does."""

    def __init__(self) -> None:
        self.replays = self.recordings = 0

    def __call__(self, call: Call, device: torch.device) -> Recorded:
        output = call()
        self.recordings += 1

        def replay() -> None:
            self.replays += 1
            output.copy_(call())

        return replay, output


def given(count: int, seed: int = 0, shape: tuple[int, ...] = (2, 3, 4)) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *shape, generator=random).to(memory_format=torch.channels_last)
    return x, torch.randint(100, (count,), generator=random), torch.randint(5, (count,), generator=random)


@pytest.mark.parametrize("counts", [(5, 5, 3, 5, 1), (2, 5, 1), (3,)])
@pytest.mark.parametrize("classes", [False, True])
def test_replayed_calls_give_what_the_network_gives(classes: bool, counts: tuple[int, ...]) -> None:
    recorder, network = Recorder(), Network()
    replayed = Replayed(network, 5, recorder)
    for seed, count in enumerate(counts):
        inputs = given(count, seed)[: 2 + classes]
        assert torch.equal(replayed(*inputs), Network()(*inputs))
    assert (recorder.recordings, recorder.replays) == (1, len(counts))
    assert set(network.sizes) == {5}, "fewer images ride along, at first too"


def test_an_output_is_not_overwritten_by_the_next() -> None:
    replayed = Replayed(Network(), 4, Recorder())
    first, kept = replayed(*given(4)), Network()(*given(4))
    replayed(*given(4, seed=1))
    assert torch.equal(first, kept)


def test_the_inputs_of_the_first_call_may_be_changed_afterwards() -> None:
    replayed, inputs = Replayed(Network(), 4, Recorder()), given(4)
    replayed(*inputs)
    inputs[0].zero_()
    assert torch.equal(replayed(*given(4)), Network()(*given(4)))


OTHERS: dict[str, Callable[[], tuple[Tensor, ...]]] = {
    "more images": lambda: given(6),
    "another shape": lambda: given(4, shape=(2, 4, 4)),
    "another type": lambda: (given(4)[0].double(), *given(4)[1:]),
    "real times": lambda: (given(4)[0], given(4)[1].double(), given(4)[2]),
    "no labels": lambda: given(4)[:2],
}


@pytest.mark.parametrize("other", OTHERS)
def test_calls_of_another_kind_are_made_plainly(other: str) -> None:
    recorder = Recorder()
    replayed = Replayed(Network(), 4, recorder)
    replayed(*given(4))
    assert torch.equal(replayed(*OTHERS[other]()), Network()(*OTHERS[other]()))
    assert torch.equal(replayed(*given(4, seed=1)), Network()(*given(4, seed=1)))
    assert (recorder.recordings, recorder.replays) == (1, 2)


def test_a_network_that_cannot_be_recorded_is_tried_once_and_called_plainly() -> None:
    tries = []

    def refuse(call: Call, device: torch.device) -> Recorded:
        tries.append(device)
        raise RuntimeError("operation not permitted when stream is capturing")

    network = Network()
    replayed = Replayed(network, 4, refuse)
    for seed in range(3):
        assert torch.equal(replayed(*given(4, seed)), Network()(*given(4, seed)))
    assert len(tries) == 1
    assert network.sizes == [4, 4, 4]


@CUDA
def test_a_graph_on_a_gpu_gives_what_the_network_gives() -> None:
    network = torch.nn.Conv2d(2, 2, 3, padding=1).cuda()
    inputs = [tuple(value.cuda() for value in given(4, seed)) for seed in range(4)]
    with torch.no_grad():
        replayed = Replayed(lambda x, time, labels: network(x) + time.reshape(-1, 1, 1, 1), 4)
        for x, time, labels in inputs:
            assert torch.equal(replayed(x, time, labels), network(x) + time.reshape(-1, 1, 1, 1))
    assert replayed.recorded is not None


@CUDA
def test_a_network_that_waits_for_the_gpu_is_called_plainly() -> None:
    replayed = Replayed(lambda x, time, labels: x.cpu().cuda(), 4)
    for seed in range(3):
        x, time, labels = (value.cuda() for value in given(4, seed))
        assert torch.equal(replayed(x, time, labels), x)
    assert replayed.recorded is None
    assert torch.cuda.get_sync_debug_mode() == 0
