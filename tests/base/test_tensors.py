"""Tables read at levels, means over images, and whatever stands for an array."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddpm.base.tensors import as_array, gather, mean_over_image, to_device
from ddpm.errors import InputError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (3, 7)])
def test_a_table_is_read_at_one_level_an_image_and_rounded_once(dtype: torch.dtype, shape: tuple[int, ...]):
    table, levels = np.array([0.1, 1 / 3, 2 / 3, 1e-5]), torch.tensor([3, 1, 1])
    found = gather(table, levels, torch.empty(shape, dtype=dtype))
    assert found.shape == (3, *[1] * (len(shape) - 1))
    assert found.dtype == dtype
    assert found.flatten().tolist() == torch.tensor([1e-5, 1 / 3, 1 / 3], dtype=torch.float64).to(dtype).tolist()


def test_a_mean_over_images_leaves_the_batch():
    values = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert mean_over_image(values).tolist() == [5.5, 17.5]


def test_on_the_cpu_nothing_is_copied():
    values = torch.arange(3)
    assert to_device(values, torch.device("cpu")).data_ptr() == values.data_ptr()


def test_arrays_tensors_and_lists_of_numbers_are_arrays():
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for given in (values, torch.from_numpy(values), [row for row in values]):
        found = as_array(given, "values")
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, values)
    assert as_array(torch.ones(2, requires_grad=True), "values").tolist() == [1, 1]
    assert as_array([[1, 2.5]], "values").dtype == np.float64
    assert as_array(True, "values").dtype == np.bool_


@pytest.mark.parametrize("wrong", [None, "text", b"text", {}, {1}, [None], ["a"], [[1], [1, 2]], object(), 1j])
def test_anything_else_is_an_input_error(wrong: object):
    with pytest.raises(InputError, match=r"^values must be"):
        as_array(wrong, "values")
