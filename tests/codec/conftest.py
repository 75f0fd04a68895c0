"""Images and codecs that the tests of the codec share."""

from __future__ import annotations

import numpy as np
import pytest
from codecs_of_tests import Pixels, shared

from ddpm.codec.codec_data import Codec
from ddpm.codec.encode import Encoded, encode


@pytest.fixture(scope="session")
def linear() -> Codec:
    """The codec of the model that comes with the package: tiles of 3 x 32 x 32."""
    return shared("linear")


@pytest.fixture(scope="session")
def photograph() -> Pixels:
    """A photograph, (3, 427, 640)."""
    from sklearn.datasets import load_sample_image

    return np.ascontiguousarray(load_sample_image("flower.jpg").transpose(2, 0, 1))


@pytest.fixture(scope="session")
def crops(photograph: Pixels) -> list[Pixels]:
    """Eight crops of it of 32 x 32, from all over."""
    return [photograph[:, 20 + 100 * (k // 3) :, 60 + 180 * (k % 3) :][:, :32, :32].copy() for k in range(8)]


@pytest.fixture(scope="session")
def coded(linear: Codec, crops: list[Pixels]) -> list[Encoded]:
    """The crops, compressed together without loss."""
    return encode(linear, crops)
