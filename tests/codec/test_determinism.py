"""The same picture on every machine: golden files, and processes that compute in every other way there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from codecs_of_tests import GOLDEN, opened, pixels_hash

from ddpm.codec.decode import LOSSLESS, LOSSY, decode
from ddpm.codec.encode import MARGIN, encode

WAYS: dict[str, dict[str, str]] = {
    "one thread": {},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "one tile at a time": {"CODEC_BATCH": "1"},
    "contiguous memory": {"CODEC_LAYOUT": "contiguous_format"},
    "channels last": {"CODEC_LAYOUT": "channels_last"},
    "without oneDNN": {"CODEC_ONEDNN": "0"},
    "ATen without vectors": {"ATEN_CPU_CAPABILITY": "default"},
    "ATen with AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "MKL compatible": {"MKL_CBWR": "COMPATIBLE"},
    "oneDNN with SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
}


def golden() -> dict[str, dict[str, str]]:
    """Of each committed file: the model it wants, what it is, and the SHA-256 of its pixels."""
    return json.loads((GOLDEN / "golden.json").read_text())


@pytest.mark.parametrize("name", sorted(golden()))
def test_golden_file_decodes_to_its_pixels_for_ever(name: str):
    entry = golden()[name]
    found = decode(opened(entry["model"]), [(GOLDEN / name).read_bytes()])[0]
    assert found.status == entry["status"]
    assert found.picture is not None
    assert pixels_hash(found.picture) == entry["sha256"]


def test_golden_files_cover_what_there_is():
    entries = golden().values()
    assert {entry["model"] for entry in entries} == {"linear", "fashion-mnist"}
    assert {entry["status"] for entry in entries} == {LOSSLESS, LOSSY}
    assert {entry["kind"] for entry in entries} >= {"colour", "grey", "grey on colour", "tiles", "stored", "seeds"}


CHILD = """
import hashlib, json, os, sys
import numpy as np, torch
sys.path.insert(0, {tests!r})
from codecs_of_tests import GOLDEN, opened, pixels_hash
from ddpm.codec.decode import decode
if os.environ.get("CODEC_ONEDNN") == "0":
    torch.backends.mkldnn.enabled = False
guesses = []
found = {{}}
from ddpm.codec.progressive import Chain
plain = Chain.last_x0
def noted(self, x, counts, labels=None, **rest):
    out = plain(self, x, counts, labels, **rest)
    guesses.append(out.numpy().ravel())
    return out
Chain.last_x0 = noted
for name, entry in sorted(json.loads((GOLDEN / "golden.json").read_text()).items()):
    codec = opened(entry["model"])
    layout = os.environ.get("CODEC_LAYOUT")
    if layout:
        codec.chain.denoiser.network.to(memory_format=getattr(torch, layout))
    size = int(os.environ.get("CODEC_BATCH", "64"))
    found[name] = pixels_hash(decode(codec, [(GOLDEN / name).read_bytes()], batch_size=size)[0].picture)
np.save(sys.argv[1], np.concatenate(guesses))
print(json.dumps(found))
"""


def child(way: dict[str, str], out: Path) -> tuple[dict[str, str], np.ndarray]:
    """Decode all golden files in a process of its own: hashes of the pixels, and the guesses before rounding."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **way}
    script = CHILD.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", script, str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), np.load(out)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return child({}, tmp_path_factory.mktemp("base") / "guesses.npy")[1]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_compute_decodes_golden_files_to_their_pixels(way: str, base: np.ndarray, tmp_path: Path):
    hashes, guesses = child(WAYS[way], tmp_path / "guesses.npy")
    assert hashes == {name: entry["sha256"] for name, entry in golden().items()}
    # Far inside the margin that the encoder keeps, in its unit of sixteenths of a grey level.
    assert np.abs(guesses - base).max() * 127.5 * 16 < MARGIN / 100


@pytest.mark.parametrize("batch_size", [1, 64])
def test_a_file_among_many_decodes_to_its_pixels(batch_size: int):
    data, entry = (GOLDEN / "grey-tiles.dpc").read_bytes(), golden()["grey-tiles.dpc"]
    for found in decode(opened("fashion-mnist"), [data] * 17, batch_size=batch_size):  # 68 tiles
        assert found.status == LOSSLESS
        assert pixels_hash(found.picture) == entry["sha256"]


def test_network_is_never_asked_in_float32(monkeypatch: pytest.MonkeyPatch):
    codec = opened("fashion-mnist")
    network = codec.chain.denoiser.network
    assert isinstance(network, torch.nn.Module)
    types: set[torch.dtype] = set()
    for module in network.modules():
        module.register_forward_hook(lambda module, inputs, output: types.add(output.dtype))
    picture = np.zeros((1, 28, 28), np.uint8)
    one = encode(codec, [picture])[0]
    assert decode(codec, [one.data])[0].status == LOSSLESS
    assert types == {torch.float64}
    assert {p.dtype for p in network.parameters()} == {torch.float64}


def test_model_that_is_off_by_a_millionth_still_gives_the_same_coarse_picture():
    """The lossy layer needs no exactness: only the last picture's rounding does."""
    codec = opened("linear")
    network = codec.chain.denoiser.network
    assert isinstance(network, torch.nn.Module)
    data = (GOLDEN / "tiles.dpc").read_bytes()
    before = decode(codec, [data], most_bytes=len(data) // 8)[0].picture
    with torch.no_grad():
        network.variance.mul_(1 + 1e-6)  # type: ignore[operator, union-attr]
    after = decode(codec, [data], most_bytes=len(data) // 8)[0].picture
    assert np.abs(before.astype(int) - after).max() <= 1
