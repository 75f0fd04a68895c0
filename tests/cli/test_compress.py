"""ddpm compress, decompress and show FILE, as a person meets them. The bytes are tested in tests/codec."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commandline import TINY, done, sentence, snapshot, type_in
from PIL import Image

import ddpm
from ddpm.codec.codec_data import read_codec_data


@pytest.fixture
def files(here: Path) -> list[Path]:
    """Two digits, and a larger grey image of an odd size."""
    images = ddpm.images("digits:test")
    arrays = [images[0][0], images[1][0], np.tile(images[2][0], (2, 2))[:13, :11]]
    files = [Path(f"{name}.png") for name in ("one", "two", "odd")]
    for file, array in zip(files, arrays, strict=True):
        Image.fromarray(array).save(file)
    return files


def same(one: Path, other: Path) -> bool:
    first, second = Image.open(one), Image.open(other)
    return first.mode == second.mode and bool((np.asarray(first) == np.asarray(second)).all())


# ---- there and back -------------------------------------------------------------------------------------------------


def test_compressed_images_come_back_exactly_and_the_report_is_about_the_files(coded: Path, files: list[Path]):
    end = done("compress", coded, *files, "--out", "files")
    assert sorted(file.name for file in Path("files").iterdir()) == ["odd.dpc", "one.dpc", "two.dpc"]
    table = json.loads(done("compress", coded, *files, "--out", "files", "--force", "--json").out)
    sizes = [(Path("files") / f"{file.stem}.dpc").stat().st_size for file in files]
    assert [row["bytes"] for row in table["files"]] == sizes
    assert table["bits_per_dim"] == pytest.approx(8 * sum(sizes) / (64 + 64 + 143))
    assert (table["lossless"], table["verified"], table["bytes"]) == (True, True, sum(sizes))
    assert "3 files, lossless" in end.out
    assert "1 file, lossless, not verified" in done(
        "compress", coded, files[0], "--out", "files", "--force", "--no-verify").out  # fmt: skip
    back = done("decompress", coded, *sorted(Path("files").iterdir()), "--out", "back")
    assert back.out.count("exact") == 3
    assert all(same(file, Path("back") / file.name) for file in files)


def test_rate_and_bytes_bound_the_file(coded: Path, files: list[Path]):
    done("compress", coded, *files, "--out", "small", "--bytes", "22")
    assert all(file.stat().st_size <= 22 for file in Path("small").iterdir())
    assert "lossy" in done("compress", coded, files[2], "--out", "rate", "--rate", "2").out
    assert Path("rate/odd.dpc").stat().st_size <= 2 * 143 / 8
    assert "lossy" in done("decompress", coded, "rate/odd.dpc", "--out", "back").out


@pytest.mark.parametrize("reconstruct", ["mean", "flow"])
def test_prefix_of_a_file_is_an_image(reconstruct: str, coded: Path, files: list[Path]):
    done("compress", coded, files[2], "--out", "files", "--bytes", "1000")
    data = Path("files/odd.dpc").read_bytes()
    Path("cut.dpc").write_bytes(data[: len(data) // 2])
    words = ("--reconstruct", reconstruct)
    cut = done("decompress", coded, "cut.dpc", "--out", "back", *words)
    assert "ddpm: 'cut.dpc': " in cut.err
    assert cut.out.startswith("back/cut.png: the image so far")
    asked = done("decompress", coded, "files/odd.dpc", "--bytes", str(len(data) // 2), "--out", "back", *words)
    assert "ddpm:" not in asked.err
    assert same(Path("back/cut.png"), Path("back/odd.png"))
    assert Image.open("back/odd.png").size == (11, 13)


def test_photographs_of_any_size_and_class_come_back(kinds_run: Path, kinds: Path):
    shutil.copytree(kinds_run, "run")
    done("tune", "codec", "run", "--fit-steps", "5")
    Image.open(kinds / "china" / "0.png").crop((0, 0, 24, 16)).save("small.png")
    Image.open("small.png").convert("L").save("grey.png")
    done("compress", "run", "small.png", "grey.png", "--out", "files")
    done("decompress", "run", "files/small.dpc", "files/grey.dpc", "--out", "back")
    assert all(same(Path(name), Path("back") / name) for name in ("small.png", "grey.png"))
    done("compress", "run", "small.png", "--out", "lossy", "--bytes", "200")
    assert json.loads(done("show", "lossy/small.dpc", "run", "--json").out)["class"] in (0, 1)


def test_many_images_are_written_as_they_are_done(coded: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("ddpm.codec.to_files", "ddpm.codec.from_files"):
        monkeypatch.setattr(f"{name}.GROUP", 1)
    for k, image in enumerate(ddpm.images("digits:test[0:5]").array()):
        Image.fromarray(image[0]).save(f"{k}.png")
    names = [f"{k}.png" for k in range(5)]
    done("compress", coded, *names, "--out", "files", "--batch-size", "2")
    done("decompress", coded, *(f"files/{k}.dpc" for k in range(5)), "--out", "back", "--batch-size", "2")
    assert all(same(Path(name), Path("back") / name) for name in names)


def test_linear_stands_where_a_run_stands(kinds: Path):
    Image.open(kinds / "flower" / "2.png").crop((0, 0, 33, 31)).save("a.png")
    done("compress", "linear", "a.png", "--out", "files")
    done("decompress", "linear", "files/a.dpc", "--out", "back")
    assert same(Path("a.png"), Path("back/a.png"))
    assert "model         linear" in done("show", "files/a.dpc").out
    assert "alone" in done("show", "linear").out


def test_folders_are_looked_through_and_a_bad_image_stops_no_other(coded: Path, files: list[Path]):
    Path("in/sub").mkdir(parents=True)
    for file in files[:2]:
        file.rename(Path("in/sub") / file.name)
    Path("in/bad.png").write_bytes(b"none")
    Path("in/notes.txt").write_text("mine")
    end = type_in("compress", coded, "in", "odd.png", "--out", "files")
    assert end.code == 2
    assert [line for line in end.err.splitlines() if line.startswith("ddpm: ")] == [
        "ddpm: 'in/bad.png': it cannot be read: not an image of a known format."
    ]
    assert "3 files, lossless, decompressed and compared" in end.out
    assert "; 1 refused\n" in end.out
    Path("in/bad.png").unlink()
    again = done("compress", coded, "in", "odd.png", "--out", "files")
    assert again.out.count(", there already") == 3
    back = done("decompress", coded, "files", "--out", "back")
    names = [line.split(":")[0] for line in back.out.splitlines()]
    assert names == ["back/odd.png", "back/sub/one.png", "back/sub/two.png"]
    assert back.out.count("exact\n") == 3
    assert same(Path("in/sub/one.png"), Path("back/sub/one.png"))
    assert done("decompress", coded, "files", "--out", "back").out.count("exact, there already\n") == 3


def test_names_of_files_never_break_a_line_of_a_report(coded: Path, files: list[Path]):
    Path("in").mkdir()
    files[0].rename("in/a\nb\x1b[31m.png")
    Path("in/c\nd.png").write_bytes(b"none")
    end = type_in("compress", coded, "in", "--out", "files")
    assert end.out.splitlines()[0].startswith(r"files/a\nb\x1b[31m.dpc: ")
    assert len(end.out.splitlines()) == 2
    assert [line for line in end.err.splitlines() if "d.png" in line] == [
        r"ddpm: 'in/c\nd.png': it cannot be read: not an image of a known format."
    ]
    Path("files/e\n.dpc").write_bytes(b"none")
    back = type_in("decompress", coded, "files", "--out", "back")
    assert back.out == "back/a\\nb\\x1b[31m.png: exact\n"
    assert any(line.startswith(r"ddpm: 'files/e\n.dpc': ") for line in back.err.splitlines())


def test_files_stay_readable_while_training_goes_on_until_prune_is_told(coded: Path, files: list[Path]):
    shutil.copytree(coded, "run")
    needed = max(Path("run/checkpoints").iterdir())
    done("compress", "run", files[0], "--out", "files")
    done("train", "digits", "--out", "run", *TINY, "--set", "train_images=192")
    names = sorted(entry.name for entry in Path("run/checkpoints").iterdir())
    assert names == [needed.name, "0000000160", "0000000192"]
    said = f"'{needed}', which is not the newest checkpoint of its run"
    assert done("decompress", "run", "files/one.dpc", "--out", "back").out == f"back/one.png: exact; by {said}\n"
    assert same(files[0], Path("back/one.png"))
    shown = done("show", "files/one.dpc", "run").out
    assert f"model         run, checkpoint {needed}, which is not its newest\n" in shown
    fingerprint = json.loads(done("show", "files/one.dpc", "--json").out)["fingerprint"]
    assert f"{needed}/codec-averaged.json: .dpc files with fingerprint {fingerprint} need" in done("show", "run").out
    kept = f"kept  {needed}: .dpc files with fingerprint {fingerprint} need it\n0 removed, 3 left\n"
    assert done("prune", "run").out == kept
    gone = kept.replace("kept", "removed").replace("0 removed, 3", "1 removed, 2")
    assert done("prune", "run", "--codec").out == gone
    assert fingerprint in sentence(type_in("decompress", "run", "files/one.dpc", "--out", "again"), 3)


# ---- what files say -------------------------------------------------------------------------------------------------


def test_show_lists_the_steps_of_a_file(coded: Path, files: list[Path]):
    done("compress", coded, *files[:2], "--out", "files", "--bytes", "1000")
    end = done("show", "files/one.dpc", coded)
    rows = [line.split() for line in end.out.splitlines() if line.strip()[:1].isdigit()]
    assert [int(row[0]) for row in rows] == list(range(len(rows)))
    assert [int(row[1]) for row in rows] == sorted((int(row[1]) for row in rows), reverse=True)
    table = json.loads(done("show", "files/one.dpc", coded, "--json").out)
    assert table["steps"][-1]["bytes"] + 2 == table["progressive_end"] == table["bytes"]
    assert all(step["there"] for step in table["steps"])
    assert "behind" not in end.out
    shutil.copytree(coded, "runs/mine")
    assert json.loads(done("show", "files/one.dpc", "--json").out)["model"] == "runs/mine"
    done("compress", coded, files[0], "--out", "exact")
    table = json.loads(done("show", "exact/one.dpc", "--json").out)
    rest = Path("exact/one.dpc").stat().st_size - table["progressive_end"]
    assert f"{rest:,} bytes behind" in done("show", "exact/one.dpc").out


def test_show_without_the_model_says_which_it_wants(coded: Path, files: list[Path]):
    done("compress", coded, files[0], "--out", "files")
    fingerprint = read_codec_data(ddpm.load(coded)).own_sha256[:8]
    said = done("show", "files/one.dpc").out
    assert fingerprint in said
    assert "not found" in said
    assert fingerprint in sentence(type_in("show", "files/one.dpc", "linear"), 3)


def test_show_says_what_is_wrong_with_a_file(coded: Path, files: list[Path]):
    done("compress", coded, files[2], "--out", "files", "--bytes", "1000")
    data = Path("files/odd.dpc").read_bytes()
    Path("cut.dpc").write_bytes(data[:-3])
    Path("flipped.dpc").write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    Path("trailing.dpc").write_bytes(data + b"x")
    Path("text.dpc").write_text("another file")
    Path("text.txt").write_text("another file")
    for name, state in (("files/odd.dpc", "whole"), ("cut.dpc", "cut"), ("flipped.dpc", "damaged")):
        assert json.loads(done("show", name, coded, "--json").out)["state"] == state
    for name, code in (("text.dpc", 4), ("trailing.dpc", 4), ("text.txt", 2)):
        assert f"'{name}'" in sentence(type_in("show", name, coded), code)


def test_stored_file_has_no_coarser_image(coded: Path):
    Image.new("L", (32, 32), 200).save("plain.png")  # a hundred bytes as PNG, and the same index bits as anything else
    assert "1 stored as PNG" in done("compress", coded, "plain.png", "--out", "files").out
    assert "as PNG" in done("show", "files/plain.dpc", coded).out
    end = type_in("decompress", coded, "files/plain.dpc", "--bytes", "40", "--out", "back")
    assert end.code == 2
    assert "'files/plain.dpc'" in end.err
    end = done("decompress", coded, "files/plain.dpc", "--out", "back")
    assert end.err.count("ddpm:") == 0
    assert same(Path("plain.png"), Path("back/plain.png"))
    Path("cut.dpc").write_bytes(Path("files/plain.dpc").read_bytes()[:-3])
    end = type_in("decompress", coded, "cut.dpc", "--out", "back")
    assert (end.code, "ddpm: 'cut.dpc': " in end.err, Path("back/cut.png").exists()) == (4, True, False)


def test_each_bad_file_is_answered_and_the_good_ones_are_decompressed(coded: Path, files: list[Path]):
    done("compress", coded, *files, "--out", "files")
    good = Path("files/one.dpc").read_bytes()
    bad = {
        "trailing": good + b"x",
        "short": good[:9],
        "other": b"GIF89a and more",
        "version": good[:3] + b"\x07" + good[4:],
        "flipped": good[:-1] + bytes([good[-1] ^ 255]),
    }
    for name, data in bad.items():
        Path(f"{name}.dpc").write_bytes(data)
    end = type_in("decompress", coded, *(f"{name}.dpc" for name in bad), "files/two.dpc", "--out", "back")
    assert end.code == 4
    said = [line for line in end.err.splitlines() if line.startswith("ddpm: ")]
    assert [line.split("'")[1] for line in said] == [f"{name}.dpc" for name in bad]
    assert all(line.endswith(".") for line in said)
    assert same(Path("two.png"), Path("back/two.png"))
    assert "flipped.png: exact" not in end.out
    assert not any((Path("back") / f"{name}.png").exists() for name in list(bad)[:4])


# ---- codec data -----------------------------------------------------------------------------------------------------


def test_first_compress_makes_the_codec_data_and_says_so_and_force_makes_files_unreadable(
    run: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
):
    made = ddpm.api.tune_codec  # as it is, but with few steps
    monkeypatch.setattr(ddpm.api, "tune_codec", lambda *args, **how: made(*args, **how | {"fit_steps": 5}))
    first = done("compress", run, files[0], "--out", "files")
    assert "on digits" in first.err
    assert len(list(run.glob("checkpoints/*/codec-averaged.json"))) == 1
    before = snapshot(run)
    second = done("compress", run, files[1], "--out", "files")
    assert "codec data" not in second.err
    assert snapshot(run) == before
    done("decompress", run, "files/one.dpc", "files/two.dpc", "--out", "back")
    old = read_codec_data(ddpm.load(run)).own_sha256
    done("tune", "codec", run, "--force", "--seed", "1")
    new = read_codec_data(ddpm.load(run)).own_sha256
    end = type_in("decompress", run, "files/one.dpc", "--out", "again")
    assert end.code == 3
    assert old[:8] in end.err
    assert new[:8] in end.err
    assert not Path("again").exists()


def test_decompress_never_makes_codec_data(coded: Path, run: Path, files: list[Path], no_calls: None):
    Path("one.dpc").write_bytes(header(coded))
    before = snapshot(run)
    assert "codec-averaged.json" in sentence(type_in("decompress", run, "one.dpc", "--out", "back"), 3)
    assert snapshot(run) == before


def header(coded: Path) -> bytes:
    """A file with a header and nothing behind it."""
    from ddpm.codec.container import LOSSLESS, Header

    fingerprint = read_codec_data(ddpm.load(coded)).own_sha256
    return Header(LOSSLESS, bytes.fromhex(fingerprint)[:4], (8, 8)).pack()
