"""A compiled network computes what it computed before, and nothing of it is written down or copied."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.networks.test_blocks import normal, tiny
from torch import Tensor

from ddpm.base.noise import stream_keys
from ddpm.base.precision import computing
from ddpm.networks.compiled import compile_network
from ddpm.networks.linear import LinearDenoiser

TIMES, LABELS = torch.tensor([0, 5, 999]), torch.tensor([0, 1, 0])
DROPS = stream_keys("dropout", 0, torch.arange(3))


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A compiler that compiles nothing, and notes each call of what it made."""
    calls: list[Any] = []

    def compiled(body: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        assert options == {"dynamic": False, "fullgraph": True}

        def call(network: torch.nn.Module, *given: Tensor | None) -> Tensor:
            calls.append(network)
            return body(network, *given)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    return calls


def test_only_the_network_itself_is_compiled_not_its_copies(compiler: list[Any]):
    network, x = tiny(), normal(3, 2, 8, 8)
    before, names = network(x, TIMES), list(network.state_dict())
    assert compile_network(network, lambda: network(x, TIMES)) == "The network is compiled, which took 0 s."
    assert torch.equal(network(x, TIMES), before)
    assert compiler == [network, network]
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), tiny()):
        assert torch.equal(other(x, TIMES), before)
    assert compiler == [network, network]
    assert list(network.state_dict()) == names


def test_the_network_within_a_linear_denoiser_is_compiled(compiler: list[Any]):
    network = LinearDenoiser((2, 8, 8), np.linspace(9, -9, 1000), tiny()).double()
    compile_network(network, lambda: network(normal(3, 2, 8, 8), TIMES))
    assert compiler == [network.correction]


@pytest.mark.parametrize(
    ("error", "reason"), [(RuntimeError("no compiler.\nTry another."), "no compiler"), (KeyError(), "KeyError")]
)
def test_a_network_that_cannot_be_compiled_stays_as_it_is(error: Exception, reason: str, monkeypatch):
    def fails(*given: object) -> Tensor:
        raise error

    monkeypatch.setattr(torch, "compile", lambda body, **options: fails)
    network, x = tiny(), normal(3, 2, 8, 8)
    before = network(x, TIMES)
    said = compile_network(network, lambda: network(x, TIMES))
    assert said == f"The network could not be compiled and runs in eager mode: {reason}."
    assert torch.equal(network(x, TIMES), before)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), MemoryError(), RuntimeError("CUDA error: out of memory")])
def test_a_trial_that_memory_does_not_hold_is_no_compilers_fault(error: Exception):
    def full() -> None:
        raise error

    with pytest.raises(type(error)):
        compile_network(tiny(), full)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "checkpointing"), [("float32", False), ("bfloat16", True)])
def test_compiled_equals_eager(precision: str, checkpointing: bool):
    """A training step with dropout and classes, and a call without gradients: outputs to 1e-5 in float32, and on
    average no farther from float64 than twice eager mode, since rounding depends on what is fused."""
    network = tiny(dropout=0.2, classes=3, checkpointing=checkpointing).train()
    x = normal(3, 2, 8, 8)

    def step(precision: str = precision) -> dict[str, Tensor]:
        network.zero_grad()
        with computing(precision, torch.device("cpu")):
            out = network(x, TIMES, LABELS, drops=DROPS)
            out.square().mean().backward()
        gradients = {name: parameter.grad.double() for name, parameter in network.named_parameters()}
        return gradients | {"out": out.detach().double()}

    def call() -> Tensor:
        with torch.no_grad():
            return network(x, TIMES, LABELS)

    truth = step("float32")
    network, x = network.float(), x.float()
    plain, eager = call(), step()
    assert compile_network(network, step).startswith("The network is compiled, which took ")
    found = step()
    names = [name for name in truth if not name.endswith("key.bias")]  # their gradients cancel in the softmax
    errors, usual = (
        torch.stack([(one[name] - truth[name]).norm() / truth[name].norm() for name in names]) for one in (found, eager)
    )
    assert max(errors.max(), usual.max()) < (1e-4 if precision == "float32" else 0.1)
    assert errors.mean() < 2 * usual.mean()
    if precision == "float32":
        assert (found["out"] - eager["out"]).abs().max() < 1e-5 * eager["out"].abs().max()
        assert (call() - plain).abs().max() < 1e-5 * plain.abs().max()
