"""The same image on every machine: golden files, and processes that compute in every other way there is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from codecs_of_tests import GOLDEN, decoded, opened, pixels_hash, shared
from decode_golden import decode_all, entries
from tests.devices import OnCpu

from ddpm.codec import decode as decoding
from ddpm.codec import progressive
from ddpm.codec.decode import LOSSLESS, LOSSY
from ddpm.codec.encode import MARGIN, encode
from ddpm.codec.randomness import words

FAST = {
    "two threads, contiguous memory": {"OMP_NUM_THREADS": "2", "LAYOUT": "contiguous_format"},
    "no vectors, no oneDNN": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN": "off"},
    "one tile at a time, channels last, oneDNN with SSE4.1": {
        "BATCH": "1",
        "LAYOUT": "channels_last",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
}
SLOW = {
    "one thread": {},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "one tile at a time": {"BATCH": "1"},
    "contiguous memory": {"LAYOUT": "contiguous_format"},
    "channels last": {"LAYOUT": "channels_last"},
    "without oneDNN": {"ONEDNN": "off"},
    "ATen without vectors": {"ATEN_CPU_CAPABILITY": "default"},
    "ATen with AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "MKL compatible": {"MKL_CBWR": "COMPATIBLE"},
    "oneDNN with SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
}
WAYS = [*FAST.values(), *(pytest.param(way, marks=pytest.mark.slow) for way in SLOW.values())]


@pytest.mark.parametrize("name", sorted(entries()))
def test_golden_file_decodes_to_its_pixels_for_ever(name: str):
    entry = entries()[name]
    found = decoded(shared(entry["model"]), [(GOLDEN / name).read_bytes()])[0]
    assert found.status == entry["status"]
    assert found.image is not None
    assert pixels_hash(found.image) == entry["sha256"]


def test_golden_files_cover_what_there_is():
    every = entries().values()
    assert {entry["model"] for entry in every} == {"linear", "fashion-mnist"}
    assert {entry["status"] for entry in every} == {LOSSLESS, LOSSY}
    assert {entry["kind"] for entry in every} >= {"colour", "grey", "grey on colour", "tiles", "stored", "seeds"}


@pytest.fixture(scope="module")
def base() -> np.ndarray:
    """Guesses of this process."""
    return decode_all()[1]


@pytest.mark.parametrize("way", WAYS, ids=[*FAST, *SLOW])
def test_every_way_to_compute_decodes_golden_files_to_their_pixels(
    way: dict[str, str], base: np.ndarray, tmp_path: Path
):
    """In a process of its own: some settings count only at its start."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **way}
    settings = [way.get(name, usual) for name, usual in (("BATCH", "64"), ("LAYOUT", ""), ("ONEDNN", "on"))]
    command = [sys.executable, Path(__file__).with_name("decode_golden.py"), tmp_path / "found.npz", *settings]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as found:
        assert found["hashes"].tolist() == [entry["sha256"] for _, entry in sorted(entries().items())]
        # Far inside the margin that the encoder keeps, in its unit of sixteenths of a grey level.
        assert np.abs(found["guesses"] - base).max() * 127.5 * 16 < MARGIN / 100


@pytest.mark.parametrize(("batch_size", "together"), [(1, 1), (64, 2**15)])
def test_a_file_among_many_decodes_to_its_pixels(batch_size: int, together: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoding, "MOST_TOGETHER", together)
    data, entry = (GOLDEN / "grey-tiles.dpc").read_bytes(), entries()["grey-tiles.dpc"]
    for found in decoded(shared("fashion-mnist"), [data] * 17, batch_size=batch_size):  # 68 tiles
        assert found.status == LOSSLESS
        assert pixels_hash(found.image) == entry["sha256"]


@pytest.mark.parametrize("name", ["lossy.dpc", "tiles.dpc"])
def test_the_default_device_decodes_nothing_differently(name: str):
    """On "meta", the default device has no numbers."""
    codec = shared("linear")
    with torch.device("meta"):
        assert words(1, count=3).tolist() == words(1, count=4).tolist()[:3]
        found = decoded(codec, [(GOLDEN / name).read_bytes()])[0]
    assert pixels_hash(found.image) == entries()[name]["sha256"]


def test_network_is_never_asked_in_float32(monkeypatch: pytest.MonkeyPatch):
    codec = opened("fashion-mnist")
    network = codec.chain.denoiser.network
    assert isinstance(network, torch.nn.Module)
    types: set[torch.dtype] = set()
    for module in network.modules():
        module.register_forward_hook(lambda module, inputs, output: types.add(output.dtype))
    image = np.zeros((1, 28, 28), np.uint8)
    one = encode(codec, [image])[0]
    assert decoded(codec, [one.data])[0].status == LOSSLESS
    assert types == {torch.float64}
    assert {p.dtype for p in network.parameters()} == {torch.float64}


def test_model_that_is_off_by_a_millionth_still_gives_the_same_coarse_image():
    """The lossy layer needs no exactness: only the last image's rounding does."""
    codec = opened("linear")
    network = codec.chain.denoiser.network
    assert isinstance(network, torch.nn.Module)
    data = (GOLDEN / "tiles.dpc").read_bytes()
    before = decoded(codec, [data], most_bytes=len(data) // 8)[0].image
    with torch.no_grad():
        network.variance.mul_(1 + 1e-6)  # type: ignore[operator, union-attr]
    after = decoded(codec, [data], most_bytes=len(data) // 8)[0].image
    assert np.abs(before.astype(int) - after).max() <= 1


def test_no_step_brings_anything_to_the_cpu_or_from_it(monkeypatch: pytest.MonkeyPatch):
    """On "meta", where nothing can be read, an encoder comes down to where the bits of all steps are fetched.

    The search is slow there, and has such a test of its own.
    """
    found = {bits: torch.zeros(3, bits, dtype=torch.uint8, device="meta") for bits in range(100)}
    monkeypatch.setattr(progressive, "simulate", lambda wanted, share, bits, step: found[bits])
    codec = opened("fashion-mnist")
    network = codec.chain.denoiser.network
    assert isinstance(network, torch.nn.Module)
    assert codec.at_once() == 16
    network.to("meta")
    assert codec.at_once() == 2**17 // 28**2
    assert codec.at_once(7) == 7
    images, start = (torch.zeros(3, 1, 28, 28, dtype=torch.float64, device="meta") for _ in range(2))
    steps = []
    for advance in (lambda tiles: None, steps.append):  # tables come to the device once
        with OnCpu() as watched, pytest.raises(NotImplementedError, match="Cannot copy out of meta"):
            codec.chain.encode(images, start, steps=2, advance=advance)
    assert watched.seen == []
    assert steps == [3, 3]
