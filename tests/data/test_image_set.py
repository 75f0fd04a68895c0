"""The front door of images: a source, an array or an ImageSet, and an InputError for anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import ddpm
from ddpm.base.geometry import Geometry
from ddpm.data.preflight import inspect_source
from ddpm.data.sources import image_set, open_images
from ddpm.errors import InputError

PIXELS = np.random.default_rng(7).integers(0, 256, (6, 3, 9, 12), np.uint8)
GREY = PIXELS[:, 0]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (PIXELS, PIXELS),
        (PIXELS.transpose(0, 2, 3, 1), PIXELS),
        (GREY, GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (torch.from_numpy(PIXELS), PIXELS),
        (list(GREY), GREY[:, None]),
        (PIXELS[::2], PIXELS[::2]),
    ],
    ids=["NCHW", "NHWC", "NHW", "N1HW", "NHW1", "tensor", "list of arrays", "a view"],
)
def test_arrays_of_every_layout_are_images(data: object, expected: np.ndarray):
    images = image_set(data)
    assert images.geometry == Geometry(*expected.shape[1:])
    assert len(images) == len(expected)
    np.testing.assert_array_equal(images.array(), expected)
    np.testing.assert_array_equal(images.array([-1, 0]), expected[[-1, 0]])
    np.testing.assert_array_equal(np.asarray(images), expected)
    assert (images.name, images.labels, images.class_names) == ("array", None, ())


def test_a_source_is_text_or_a_path_and_an_image_set_is_itself(tmp_path: Path):
    np.savez(tmp_path / "set.npz", images=PIXELS)
    for source in (tmp_path / "set.npz", str(tmp_path / "set.npz"), f"{tmp_path / 'set.npz'}[0:6]"):
        images = image_set(source)
        np.testing.assert_array_equal(images.array(), PIXELS)
        assert images.name == str(source)
        assert image_set(images) is images
    assert len(image_set("digits:test")) == 297
    with pytest.raises(InputError, match="digits:train or digits:test"):
        image_set("digits")  # which of them is not for a function to guess


def test_the_fingerprint_of_an_array_is_that_of_the_same_array_on_disk(tmp_path: Path):
    np.save(tmp_path / "set.npy", PIXELS)
    known = image_set(PIXELS).fingerprint
    assert known == open_images(str(tmp_path / "set.npy")).fingerprint
    assert known == image_set(PIXELS.transpose(0, 2, 3, 1)).fingerprint
    others = (PIXELS[::-1], PIXELS[:5], PIXELS ^ 1, PIXELS[:, :, :, :11], GREY)
    assert len({known, *(image_set(other).fingerprint for other in others)}) == 6


WRONG = {
    "nothing": None,
    "number": 7,
    "table": {"images": PIXELS},
    "names": ["a.png", "b.png"],
    "bytes": b"digits",
    "function": open_images,
    "empty list": [],
    "of two sizes": [PIXELS[0], PIXELS[0, :, :5]],
    "floats": PIXELS / 255,
    "float tensor": torch.zeros(6, 3, 9, 12),
    "with a gradient": torch.zeros((6, 3, 9, 12), requires_grad=True),
    "wide integers": PIXELS.astype(int),
    "objects": PIXELS.astype(object),
    "flat": PIXELS.reshape(6, -1),
    "one colour image": PIXELS[0].transpose(1, 2, 0),
    "five axes": PIXELS[None],
    "small either way": np.zeros((5, 3, 8, 4), np.uint8),
    "none": PIXELS[:0],
}
ANYTHING = {
    "image_set": image_set,
    "evaluate_fid": lambda wrong: ddpm.evaluate_fid(wrong, "digits:test", features="pixels"),
    "evaluate_fid, data": lambda wrong: ddpm.evaluate_fid("digits:test", wrong, features="pixels"),
}


@pytest.mark.parametrize("verb", ANYTHING)
@pytest.mark.parametrize("case", WRONG)
def test_anything_else_is_an_input_error(case: str, verb: str):
    with pytest.raises(InputError):
        ANYTHING[verb](WRONG[case])


@pytest.mark.parametrize("verb", [open_images, inspect_source, ddpm.images, ddpm.inspect])
@pytest.mark.parametrize("wrong", [None, 7, b"digits", ["digits"], PIXELS, {}])
def test_what_is_no_source_is_an_input_error_where_only_sources_are_taken(wrong: object, verb: Callable[..., object]):
    with pytest.raises(InputError):
        verb(wrong)


@pytest.mark.parametrize("size", [0, -8, 6.5, "big", True, (6, 6), [6]])
def test_a_size_is_one_number_or_two_with_a_cross(size: object):
    for good, expected in ((6, (6, 6)), ("6", (6, 6)), ("6x7", (6, 7)), (np.int64(6), (6, 6))):
        assert ddpm.images("digits:test[0:2]", size=good).geometry.size == expected
    with pytest.raises(InputError, match="size"):
        ddpm.images("digits:test[0:2]", size=size)
