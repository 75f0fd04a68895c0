"""What a file says of itself: its header, and where its steps lie, as decoding prefixes shows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from codecs_of_tests import Pixels, decoded

import ddpm
from ddpm.codec.codec_data import SIDECAR, Codec, read_codec_data
from ddpm.codec.container import GREY, LOSSLESS, SEEDS, Cursor, Header, read_header
from ddpm.codec.describe import describe_file, find_codec_data
from ddpm.codec.encode import encode, stored
from ddpm.errors import DamagedFile, InputError, WrongModel
from ddpm.training.linear_model import make_linear


@pytest.fixture(scope="module")
def image(photograph: Pixels) -> Pixels:
    """Two tiles."""
    return photograph[:, 200:212, 300:340].copy()


@pytest.fixture(scope="module")
def lossy(linear: Codec, image: Pixels) -> bytes:
    """Of an odd number of steps of tiles."""
    return encode(linear, [image], most_bytes=[101])[0].data


def test_header_is_told_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    data = Header(LOSSLESS | GREY | SEEDS, b"abcd", (5, 7), seeds=((1, 3), (4, 1))).pack()
    table = describe_file(data + b"more")
    assert table == {
        "bytes": len(data) + 4,
        "height": 5,
        "width": 7,
        "kind": "lossless",
        "grey_on_colour": True,
        "fingerprint": "61626364",
        "class": None,
        "reseeded_tiles": 2,
    }
    assert describe_file(Header(4, b"abcd", (5, 7)).pack())["kind"] == "stored"
    assert describe_file(Header(16, b"abcd", (5, 7), units=3, label=9).pack())["class"] == 9


def test_steps_lie_where_decoding_finds_them(linear: Codec, lossy: bytes):
    table = describe_file(lossy)
    units = read_header(Cursor(lossy)).units
    assert units is not None
    assert (table["model"], table["kind"], table["state"], table["tiles"]) == ("linear", "lossy", "whole", 2)
    assert table["progressive_end"] == table["bytes"] == len(lossy)
    rows = table["steps"]
    assert [row["step"] for row in rows] == list(range(len(linear.chain.steps) + 1))
    assert [row["level"] for row in rows] == list(linear.chain.levels)
    assert [row["there"] for row in rows] == [2 * row["step"] <= units for row in rows]
    assert rows[0]["bytes"] == table["header_bytes"]
    for row in rows[1:]:
        assert row["psnr"] == pytest.approx(10 * np.log10(4 / linear.chain.errors[row["step"]]))
        if row["there"]:
            prefixes = [lossy[: row["bytes"] - less] for less in (0, 1)]
            assert [one.steps[0] for one in decoded(linear, prefixes)] == [row["step"], row["step"] - 1]
    assert rows[0]["psnr"] is None


def test_state_of_a_file_is_whole_cut_or_damaged(linear: Codec, lossy: bytes, image: Pixels):
    flipped = lossy[:30] + bytes([lossy[30] ^ 1]) + lossy[31:]
    png = stored(linear, image).data
    states = {"whole": (lossy, png), "cut": (lossy[:-1], lossy[:40], png[:-1]), "damaged": (flipped,)}
    for state, files in states.items():
        assert [describe_file(data)["state"] for data in files] == [state] * len(files)
    assert "steps" not in describe_file(png)
    assert not describe_file(lossy[:40])["steps"][10]["there"]
    for broken in (lossy + b"x", Header(0, lossy[5:9], (12, 40), units=10**4).pack()):
        with pytest.raises(DamagedFile):
            describe_file(broken)


def test_model_is_found_where_models_lie_or_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    model = ddpm.load(make_linear(ddpm.images("digits:train[0:64]"), "mine"))
    bare = ddpm.load(make_linear(ddpm.images("digits:test"), "bare"))
    ddpm.tune_codec(model, "digits:train[0:64]", fit_steps=1, progress=False)
    made = read_codec_data(model)
    assert made is not None
    wanted = made.own_sha256[:8]
    assert find_codec_data(wanted, None) is None
    found = find_codec_data(wanted, "mine")
    assert found is not None
    assert (found[0], found[1].made.own_sha256, found[1].shape) == ("mine", made.own_sha256, (1, 8, 8))
    with pytest.raises(WrongModel, match=f"00000000.*{made.own_sha256}"):
        find_codec_data("00000000", "mine")
    with pytest.raises(WrongModel, match=wanted):
        find_codec_data(wanted, "bare")
    with pytest.raises(InputError, match="nothing-here"):
        find_codec_data(wanted, "nothing-here")
    Path("runs/broken/checkpoints").mkdir(parents=True)
    shutil.copytree("bare", "models/a")
    SIDECAR.path(bare).write_text("damaged")
    shutil.copytree("bare", "models/b")
    shutil.copytree("mine", "runs/c")
    found = find_codec_data(wanted, None)
    assert found is not None
    assert found[0] == "runs/c"
    with pytest.raises(DamagedFile):
        find_codec_data(wanted, "bare")
