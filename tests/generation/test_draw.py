"""Drawing ahead: batches are finished in order, each when the next ones were begun."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from ddpm.base.tensors import fetched
from ddpm.generation.draw import behind


@pytest.mark.parametrize("ahead", [0, 1, 2, 9])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_each_is_finished_in_order_when_so_many_more_were_begun(ahead: int, count: int):
    happened: list[str] = []

    def begun() -> Iterator[Callable[[], int]]:
        for number in range(count):
            happened.append(f"begin {number}")
            yield lambda number=number: (happened.append(f"finish {number}"), number)[1]

    assert list(behind(begun(), ahead)) == list(range(count))
    for number in range(count):
        before = happened[: happened.index(f"finish {number}")]
        assert sum(word.startswith("begin") for word in before) == min(number + 1 + ahead, count)


def test_without_a_gpu_nothing_waits_for_the_next_batch():
    """A batch that took minutes is not lost because the next one was stopped."""
    finished = behind(iter([lambda: 1, lambda: 1 / 0]), 0)
    assert next(finished) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_copy_from_a_gpu_is_waited_for():
    x = torch.zeros(2**22, device="cuda")
    copies = [fetched(x.add_(1)) for _ in range(20)]
    assert [float(copy().min()) for copy in copies] == [*range(1, 21)]
