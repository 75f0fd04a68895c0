"""Drawing ahead, batches finished in order when the next ones were begun; and what is replayed on a GPU."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from drawings import Stop, contents, drawing, stopping

from ddpm.base.precision import PRECISIONS
from ddpm.base.tensors import fetched
from ddpm.generation import draw as module
from ddpm.generation.draw import behind, draw, plan_for
from ddpm.model.checkpoint import load_model
from ddpm.networks.replayed import Call, Recorded, Replayed
from ddpm.samplers.plan import Sampling
from scorings import stored_model

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


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


@CUDA
def test_a_copy_from_a_gpu_is_waited_for():
    x = torch.zeros(2**22, device="cuda")
    copies = [fetched(x.add_(1)) for _ in range(20)]
    assert [float(copy().min()) for copy in copies] == [*range(1, 21)]


@CUDA
@pytest.mark.parametrize("precision", PRECISIONS)
def test_images_of_replayed_calls_are_those_of_plain_ones(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Three batches of ten calls; the last is smaller, and rides along."""
    stored_model(tmp_path / "model")
    model = load_model(tmp_path / "model", device="cuda")
    plan = plan_for(model, Sampling(steps=10, precision=precision))
    replayed = draw(model, range(10), plan, batch_size=4).int()
    monkeypatch.setattr(module, "LEAST_REPLAYED", 10**9)
    plain = draw(model, range(10), plan, batch_size=4).int()
    assert torch.equal(replayed[:8], plain[:8])
    assert (replayed[8:] - plain[8:]).abs().max() <= 1


def by_hand(call: Call, device: torch.device) -> Recorded:
    """A CUDA graph without a GPU."""
    output = call()

    def replay() -> None:
        output.copy_(call())

    return replay, output


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_batches_that_a_stop_left_are_drawn_in_calls_of_the_whole_commands_size(
    guidance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two whole batches and a smaller one, of ten steps each: all are recorded, or what is left would not be."""
    settings = {"network": {"classes": 2}, "training": {"label_dropout": 0.1}}
    model, sizes = stored_model(tmp_path / "model", ("a", "b"), **settings), set()
    model.network.register_forward_hook(lambda module, inputs, output: sizes.add(len(inputs[0])))
    monkeypatch.setattr(module, "RECORDED_ON", "cpu")
    monkeypatch.setattr(module, "Replayed", functools.partial(Replayed, record=by_hand))
    sampling, ends = Sampling(steps=10, guidance=guidance), []
    for steps in (0, 20):
        there = tmp_path / str(steps) / "images"
        with contextlib.suppress(Stop):
            drawing(model, range(7), sampling, there).draw(batch_size=3, advance=stopping(steps))
        sizes.clear()
        drawing(model, range(7), sampling, there).draw(batch_size=3)
        assert sizes == {3 * round(guidance)}
        ends.append(contents(there))
    assert ends[0] == ends[1]
    few = plan_for(model, Sampling(steps=9, guidance=guidance))
    assert len(draw(model, range(7), few, batch_size=3)) == 7
    assert sizes == {3 * round(guidance), round(guidance)}, "27 steps are too few, and their calls are as they come"


def test_the_default_device_draws_nothing_differently(tmp_path: Path):
    """On "meta", the default device has no numbers."""
    model = stored_model(tmp_path / "model", ("a", "b"), network={"classes": 2})
    plan = plan_for(model, Sampling(steps=2))
    with torch.device("meta"):
        found = draw(model, range(3), plan)
    assert torch.equal(found, draw(model, range(3), plan))


def test_nothing_is_recorded_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "Replayed", lambda *given: pytest.fail("it is recorded"))
    model = stored_model(tmp_path / "model")
    draw(model, range(8), plan_for(model, Sampling(steps=10)), batch_size=2)
