"""Codecs, golden files and hashes of pictures, for the tests of the codec."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

import ddpm
from ddpm.base.tensors import Pixels
from ddpm.codec.codec_data import Codec, codec_data_of, make_codec

PROJECT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).resolve().parent / "golden"


def opened(run: str) -> Codec:
    """A run's codec; fashion-mnist stands for the model in models/."""
    model = ddpm.load(PROJECT / "models" / run if run == "fashion-mnist" else run, device="cpu")
    made = codec_data_of(model)
    assert made is not None
    return make_codec(model, made)


def pixels_hash(picture: Pixels) -> str:
    """SHA-256 of a picture's shape and pixels."""
    return hashlib.sha256(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).hexdigest()
