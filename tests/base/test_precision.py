"""Precisions by name: what they set, and that they put back what they found."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch

from ddpm.base.precision import PRECISIONS, computed_in, computing
from ddpm.errors import InputError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CUDNN, MATMUL = torch.backends.cudnn, torch.backends.cuda.matmul
NEW_FLAGS = pytest.mark.skipif(not hasattr(CUDNN, "conv"), reason="this PyTorch has no fp32_precision")


def old_flags() -> tuple[bool, bool]:
    return CUDNN.allow_tf32, MATMUL.allow_tf32


def new_flags() -> tuple[str, ...]:
    return CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision, MATMUL.fp32_precision


@pytest.fixture(autouse=True)
def flags_as_they_were() -> Iterator[None]:
    """Also the new ones, which only setting the old ones brings back into step."""
    before = old_flags()
    yield
    CUDNN.allow_tf32, MATMUL.allow_tf32 = before


@pytest.mark.parametrize("found", [(True, False), (False, True), (True, True), (False, False)])
def test_tf32_is_allowed_where_it_is_named_and_nowhere_else(found: tuple[bool, bool]) -> None:
    CUDNN.allow_tf32, MATMUL.allow_tf32 = found
    for outer, inner in ((outer, inner) for outer in ("float32", "tf32") for inner in ("float32", "tf32")):
        with computing(outer, CUDA):
            with computing(inner, CUDA):
                assert old_flags() == (inner == "tf32",) * 2
            assert old_flags() == (outer == "tf32",) * 2
        assert old_flags() == found


def test_flags_are_put_back_after_an_error() -> None:
    CUDNN.allow_tf32, MATMUL.allow_tf32 = True, False
    with pytest.raises(ZeroDivisionError), computing("tf32", CUDA):
        raise ZeroDivisionError
    assert old_flags() == (True, False)


@NEW_FLAGS
def test_flags_that_were_set_the_new_way_are_put_back_that_way() -> None:
    """Set alone they are out of step with the old flags, which then cannot be read."""
    CUDNN.conv.fp32_precision, MATMUL.fp32_precision = "ieee", "tf32"
    found = new_flags()
    for precision in ("float32", "tf32"):
        with computing(precision, CUDA):
            assert old_flags() == (precision == "tf32",) * 2
            assert all((flag == "tf32") == (precision == "tf32") for flag in new_flags())
        assert new_flags() == found


def test_neither_entering_nor_leaving_warns() -> None:
    with warnings.catch_warnings(action="error"), computing("tf32", CUDA):
        pass


def test_bfloat16_is_autocast_and_float32_is_not_inside_another_autocast() -> None:
    x = torch.ones(2, 2)
    with computing("bfloat16", CPU):
        assert (x @ x).dtype == torch.bfloat16
        with computing("float32", CPU):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
    assert (x @ x).dtype == torch.float32


def test_rounded_weights_are_kept_only_for_gradients() -> None:
    with computing("bfloat16", CPU):
        assert torch.is_autocast_cache_enabled()
    with torch.no_grad(), computing("bfloat16", CPU):
        assert not torch.is_autocast_cache_enabled()


def test_a_function_computes_in_a_precision() -> None:
    one = torch.ones(1, 1)
    dtypes = {name: computed_in(name, CPU, torch.matmul)(one, one).dtype for name in PRECISIONS}
    assert dtypes == {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}


def test_another_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"no precision 'tf23' .*'tf32'"), computing("tf23", CPU):
        pass
