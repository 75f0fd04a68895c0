"""Codecs, golden files and hashes of images, for the tests of the codec."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ddpm
from ddpm.base.tensors import Pixels
from ddpm.codec.codec_data import Codec, make_codec, read_codec_data
from ddpm.codec.container import Cursor, read_header
from ddpm.codec.decode import Decoded, decode, open_file

PROJECT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).resolve().parent / "golden"


def opened(run: str) -> Codec:
    """A codec of its own of a run; fashion-mnist stands for the model in models/."""
    model = ddpm.load(PROJECT / "models" / run if run == "fashion-mnist" else run, device="cpu")
    made = read_codec_data(model)
    assert made is not None
    return make_codec(model, made)


shared = functools.cache(opened)


def decoded(codec: Codec, files: Sequence[bytes], most_bytes: int | None = None, **options: Any) -> list[Decoded]:
    """Open files and decode them together."""
    return decode(codec, [open_file(codec, data, most_bytes) for data in files], **options)


def header_bytes(data: bytes) -> int:
    cursor = Cursor(data)
    read_header(cursor)
    return cursor.place


def pixels_hash(image: Pixels) -> str:
    """SHA-256 of an image's shape and pixels."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
