"""ddpm compress, decompress, tune --codec, show FILE and evaluate --metric codec, as a person meets them."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from commandline import done, sentence, snapshot, start, type_in
from PIL import Image

import ddpm
from ddpm.codec.codec_data import codec_data_of
from ddpm.errors import DamagedFile, InputError, PartialImageWarning, WrongModel

FIT = ("--fit-steps", "20")


def made(tmp_path_factory: pytest.TempPathFactory, run: Path, *words: str | Path) -> Path:
    """A copy of a run with its codec made."""
    copy = tmp_path_factory.mktemp("coded") / run.name
    shutil.copytree(run, copy)
    done("tune", copy, "--codec", *FIT, *words)
    return copy


@pytest.fixture(scope="session")
def coded(tmp_path_factory: pytest.TempPathFactory, digits_run: Path) -> Path:
    """Grey, 8 x 8, without classes."""
    return made(tmp_path_factory, digits_run)


@pytest.fixture(scope="session")
def coded_kinds(tmp_path_factory: pytest.TempPathFactory, kinds_run: Path) -> Path:
    """RGB, 16 x 24, two classes."""
    return made(tmp_path_factory, kinds_run)


@pytest.fixture(scope="session")
def coded_guided(tmp_path_factory: pytest.TempPathFactory, guided_run: Path) -> Path:
    """Grey, ten classes, also learned without."""
    return made(tmp_path_factory, guided_run)


@pytest.fixture
def pictures(here: Path) -> list[Path]:
    """Two digits, and a larger grey picture of an odd size."""
    images = ddpm.images("digits:test")
    arrays = [images[0][0], images[1][0], np.tile(images[2][0], (2, 2))[:13, :11]]
    files = [here / f"{name}.png" for name in ("one", "two", "odd")]
    for file, array in zip(files, arrays, strict=True):
        Image.fromarray(array).save(file)
    return files


def same(one: Path, other: Path) -> bool:
    first, second = Image.open(one), Image.open(other)
    return first.mode == second.mode and bool((np.asarray(first) == np.asarray(second)).all())


# ---- there and back -------------------------------------------------------------------------------------------------


def test_compressed_pictures_come_back_exactly(coded: Path, pictures: list[Path]):
    end = done("compress", coded, *pictures, "--out", "files")
    assert "3 files, lossless, decompressed and compared" in end.out
    assert sorted(file.name for file in Path("files").iterdir()) == ["odd.dpc", "one.dpc", "two.dpc"]
    back = done("decompress", coded, *sorted(Path("files").iterdir()), "--out", "back")
    assert back.out.count("exact") == 3
    for file in pictures:
        assert same(file, Path("back") / file.name)


def test_report_is_about_the_files_on_disk(coded: Path, pictures: list[Path]):
    table = json.loads(done("compress", coded, *pictures, "--out", "files", "--json").out)
    sizes = [(Path("files") / f"{file.stem}.dpc").stat().st_size for file in pictures]
    assert [row["bytes"] for row in table["files"]] == sizes
    assert table["bytes"] == sum(sizes)
    assert table["bits_per_dim"] == pytest.approx(8 * sum(sizes) / (64 + 64 + 143))
    assert table["stored"] == sum(row["stored"] for row in table["files"])
    assert (table["lossless"], table["verified"]) == (True, True)
    unchecked = done("compress", coded, pictures[0], "--out", "files", "--force", "--no-verify")
    assert "not verified" in unchecked.out


def test_photographs_of_any_size_and_class_come_back(coded_kinds: Path, kinds: Path):
    files = sorted(kinds.glob("*/*.png"))[:2]
    grey = Path("grey.png")
    Image.open(files[0]).convert("L").save(grey)
    for file in files:
        shutil.copy(file, f"{file.parent.name}-{file.name}")
    inputs = [*(Path(f"{file.parent.name}-{file.name}") for file in files), grey]
    done("compress", coded_kinds, *inputs, "--out", "files")
    done("decompress", coded_kinds, *sorted(Path("files").iterdir()), "--out", "back")
    for file in inputs:
        assert same(file, Path("back") / file.name)


def test_class_is_chosen_by_the_encoder_and_stands_in_the_header(coded_kinds: Path, coded_guided: Path, photos: Path):
    done("compress", coded_kinds, sorted(photos.glob("*.png"))[0], "--out", "files", "--bytes", "60")
    assert json.loads(done("show", next(Path("files").iterdir()), coded_kinds, "--json").out)["class"] in (0, 1)
    Image.fromarray(ddpm.images("digits:test")[5][0]).save("five.png")
    done("compress", coded_guided, "five.png", "--out", "free", "--bytes", "40")
    assert json.loads(done("show", "free/five.dpc", coded_guided, "--json").out)["class"] is None
    done("decompress", coded_guided, "free/five.dpc", "--out", "back")


def test_rate_and_bytes_bound_the_file(coded: Path, pictures: list[Path]):
    done("compress", coded, *pictures, "--out", "small", "--bytes", "22")
    assert all(file.stat().st_size <= 22 for file in Path("small").iterdir())
    end = done("compress", coded, pictures[2], "--out", "rate", "--rate", "2")
    assert Path("rate/odd.dpc").stat().st_size <= 2 * 143 / 8
    assert "lossy" in end.out
    assert "lossy" in done("decompress", coded, "rate/odd.dpc", "--out", "back").out


@pytest.mark.parametrize("reconstruct", ["mean", "flow"])
def test_prefix_of_a_file_is_a_picture(reconstruct: str, coded: Path, pictures: list[Path]):
    done("compress", coded, pictures[2], "--out", "files", "--bytes", "1000")
    data = Path("files/odd.dpc").read_bytes()
    Path("cut.dpc").write_bytes(data[: len(data) // 2])
    words = ("--reconstruct", reconstruct)
    cut = done("decompress", coded, "cut.dpc", "--out", "back", *words)
    assert "'cut.dpc': it is cut short: this is the picture after" in cut.err
    assert cut.out.startswith("back/cut.png: the picture so far")
    more = done("decompress", coded, "cut.dpc", "--bytes", "5000", "--out", "more", *words)
    assert "'cut.dpc': it is cut short" in more.err
    asked = done("decompress", coded, "files/odd.dpc", "--bytes", str(len(data) // 2), "--out", "back", *words)
    assert "cut" not in asked.err
    assert same(Path("back/cut.png"), Path("back/odd.png"))
    assert Image.open("back/odd.png").size == (11, 13)


# ---- what files say -------------------------------------------------------------------------------------------------


def test_show_lists_the_steps_of_a_file(coded: Path, pictures: list[Path]):
    done("compress", coded, *pictures[:2], "--out", "files", "--bytes", "1000")
    end = done("show", "files/one.dpc", coded)
    rows = [line.split() for line in end.out.splitlines() if line.strip()[:1].isdigit()]
    assert [int(row[0]) for row in rows] == list(range(len(rows)))
    assert [int(row[1]) for row in rows] == sorted((int(row[1]) for row in rows), reverse=True)
    table = json.loads(done("show", "files/one.dpc", coded, "--json").out)
    assert table["steps"][-1]["bytes"] + 2 == table["progressive_end"] == table["bytes"]
    assert all(step["there"] for step in table["steps"])
    shutil.copytree(coded, "runs/mine")
    assert json.loads(done("show", "files/one.dpc", "--json").out)["model"] == "runs/mine"


def test_show_without_the_model_says_which_it_wants(coded: Path, pictures: list[Path]):
    done("compress", coded, pictures[0], "--out", "files")
    model = codec_data_of(ddpm.load(coded))
    assert model is not None
    said = done("show", "files/one.dpc").out
    assert model.own_sha256[:8] in said
    assert "not found here" in said
    assert model.own_sha256[:8] in sentence(type_in("show", "files/one.dpc", "linear"), 3)


def test_linear_stands_where_a_run_stands(photos: Path):
    files = sorted(photos.glob("*.png"))[:1]
    done("compress", "linear", *files, "--out", "files")
    done("decompress", "linear", f"files/{files[0].stem}.dpc", "--out", "back")
    assert same(files[0], Path("back") / files[0].name)
    assert "model         linear" in done("show", f"files/{files[0].stem}.dpc").out
    assert "alone" in done("show", "linear").out


def test_linear_model_of_own_images(photos: Path):
    end = done("tune", "linear", "--codec", "--data", photos, "--out", "mine", *FIT)
    assert "fingerprint" in end.out
    file = sorted(photos.glob("*.png"))[0]
    done("compress", "mine", file, "--out", "files")
    done("decompress", "mine", f"files/{file.stem}.dpc", "--out", "back")
    assert same(file, Path("back") / file.name)
    again = type_in("tune", "linear", "--codec", "--data", photos, "--out", "mine")
    assert "mine' is there already" in sentence(again)
    refused = type_in("tune", "linear", "--codec", "--data", photos)
    assert "--codec of linear is fixed" in sentence(refused)


# ---- codec data -----------------------------------------------------------------------------------------------------


def test_first_compress_makes_the_codec_and_says_so(
    digits_run: Path, here: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ddpm.tuning.codec.FIT_STEPS", 20)
    shutil.copytree(digits_run, "run")
    first = done("compress", "run", pictures[0], "--out", "files")
    assert "is made once, on digits" in first.err
    assert "codec-averaged.json: made in" in first.err
    second = done("compress", "run", pictures[1], "--out", "files")
    assert "made" not in second.err
    done("decompress", "run", "files/one.dpc", "files/two.dpc", "--out", "back")


@pytest.mark.parametrize("there", ["cut short", "of other weights", "empty"])
def test_data_that_are_of_no_use_are_not_replaced_without_force_either(there: str, coded: Path):
    shutil.copytree(coded, "run")
    side = next(Path("run").glob("checkpoints/*/codec-averaged.json"))
    text = side.read_text()
    weights = json.loads(text)["weights_sha256"]
    side.write_text({"cut short": text[:900], "of other weights": text.replace(weights, "0" * 64), "empty": ""}[there])
    before = snapshot(Path("run"))
    assert "--force replaces it" in sentence(type_in("tune", "run", "--codec", *FIT))
    assert snapshot(Path("run")) == before
    done("tune", "run", "--codec", "--force", *FIT)


def test_two_that_make_the_codec_at_once_do_not_overwrite_each_other(digits_run: Path, here: Path):
    shutil.copytree(digits_run, "run")
    both = [
        start("tune", "run", "--codec", "--fit-steps", "40", "--seed", str(seed), cwd=here, stderr=subprocess.PIPE)
        for seed in (1, 2)
    ]
    said = [one.communicate()[1].decode() for one in both]
    assert sorted(one.returncode for one in both) == [0, 2], said
    made = codec_data_of(ddpm.load("run"))
    assert made is not None
    assert made.seed == 1 + [one.returncode for one in both].index(0)


def test_codec_data_are_replaced_by_force_alone(coded: Path, pictures: list[Path]):
    shutil.copytree(coded, "run")
    done("compress", "run", pictures[0], "--out", "files")
    before = snapshot(Path("run"))
    assert "can no longer be read; --force replaces it" in sentence(type_in("tune", "run", "--codec", *FIT))
    assert snapshot(Path("run")) == before
    done("tune", "run", "--codec", "--force", "--seed", "1", *FIT)
    end = type_in("decompress", "run", "files/one.dpc", "--out", "back")
    assert end.code == 3
    old, new = (codec_data_of(ddpm.load(run)) for run in (coded, "run"))
    assert old is not None
    assert new is not None
    assert old.own_sha256[:8] in end.err
    assert new.own_sha256 in end.err
    assert not Path("back/one.png").exists()


def test_decompress_never_makes_codec_data(coded: Path, digits_run: Path, pictures: list[Path], no_calls: None):
    shutil.copytree(digits_run, "run")
    Path("one.dpc").write_bytes(ddpm_file(coded))
    end = type_in("decompress", "run", "one.dpc", "--out", "back")
    assert end.code == 3
    assert "is missing" in end.err
    assert "SHA-256" in end.err
    assert not list(Path("run").glob("**/codec-*"))


def ddpm_file(coded: Path) -> bytes:
    """A file with a header and nothing behind it."""
    from ddpm.codec.container import LOSSLESS, Header

    data = codec_data_of(ddpm.load(coded))
    assert data is not None
    return Header(LOSSLESS, bytes.fromhex(data.own_sha256)[:4], (8, 8)).pack()


def test_data_of_other_weights_and_damaged_data_are_named(coded: Path, pictures: list[Path]):
    done("compress", coded, pictures[0], "--out", "files")
    shutil.copytree(coded, "run")
    side = next(Path("run").glob("checkpoints/*/codec-averaged.json"))
    table = json.loads(side.read_text())
    side.write_text(side.read_text().replace(table["weights_sha256"][:20], "0" * 20))
    for words in (("compress", "run", pictures[1]), ("decompress", "run", "files/one.dpc")):
        end = type_in(*words, "--out", "out", "--force")
        assert end.code == 4, end.err
        assert "codec-averaged.json" in end.err


def test_codec_data_are_listed_by_show_and_never_made_on_what_they_are_judged_by(coded: Path):
    assert "codec-averaged.json" in done("show", coded).out
    assert "the codec was made on images of" in sentence(
        type_in("evaluate", coded, "--data", "digits:train", "--metric", "codec", "--limit", "3", "--keep", "kept")
    )


# ---- evaluate -------------------------------------------------------------------------------------------------------


def test_evaluate_measures_files_beside_other_formats(coded: Path):
    words = ("--data", "digits:test", "--metric", "codec", "--limit", "5", "--keep", "kept")
    end = done("evaluate", coded, *words)
    first, second = (json.loads(done("evaluate", coded, *words, "--json").out)["codec"] for _ in range(2))
    assert first.pop("seconds").keys() == second.pop("seconds").keys()
    assert first == second
    report = json.loads(Path("kept/codec.json").read_text())
    files = sorted(Path("kept/codec").glob("*.dpc"))
    assert len(files) == report["images"] == 5
    sizes = [file.stat().st_size for file in files]
    assert report["lossless"] == pytest.approx(np.mean(sizes))
    assert report["bits_per_dim"] == pytest.approx(8 * np.mean(sizes) / 64)
    assert {"PNG", "WebP", "JPEG"} <= {other["name"] for other in report["others"]}
    assert f"{np.mean(sizes):.1f}" in end.out
    for name in ("codec.png", "codec-strip.png", "codec-bytes.png"):
        assert Image.open(Path("kept") / name).size[0] > 300
    assert len(report["psnr"]) == len(report["prefixes"]) == len(report["theory"])
    for row, size in zip(report["files"], sizes, strict=True):
        assert row["bytes"] == size
        if not row["stored"]:
            assert row["residual_bytes"] <= 1.005 * row["ideal_bytes"] + 8


def test_evaluate_wants_a_codec_that_was_made(digits_run: Path):
    end = type_in("evaluate", digits_run, "--data", "digits:test", "--metric", "codec", "--keep", "kept")
    assert end.code == 2
    assert "was not made yet; `ddpm tune" in end.err


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_pictures_that_fit_nothing_are_refused_before_anything_is_written(coded: Path, here: Path, no_calls: None):
    Image.new("RGB", (8, 8)).save("colour.png")
    Image.new("RGBA", (8, 8)).save("alpha.png")
    Image.new("P", (8, 8)).save("palette.png")
    Image.new("I;16", (8, 8)).save("deep.png")
    Image.new("L", (8, 8)).save("grey.png")
    Image.new("L", (8, 8)).save("grey.bmp")
    Path("text.png").write_text("no picture")
    Path("folder").mkdir()
    before = snapshot(here)
    cases = {
        ("colour.png",): "in colour and the model",
        ("alpha.png",): "has mode RGBA; 8-bit grey",
        ("palette.png",): "has mode P",
        ("deep.png",): "has mode I;16",
        ("text.png",): "not an image",
        ("missing.png",): "no such file",
        ("folder",): "is a directory",
        ("grey.png", "grey.bmp"): "would both become 'out/grey.dpc'",
        ("grey.png", "--rate", "0"): "--rate 0.0 bits",
        ("grey.png", "--rate", "inf"): "--rate inf bits",
        ("grey.png", "grey.png"): "'grey.png' was given twice",
        ("grey.png", "--rate", "1", "--bytes", "30"): "leave one of them out",
        ("grey.png", "--bytes", "3"): "'grey.png': 3 bytes are fewer than a header takes",
    }
    for words, said in cases.items():
        assert said in sentence(type_in("compress", coded, *words, "--out", "out")), words
    assert snapshot(here) == before


def test_outputs_that_are_there_need_force(coded: Path, pictures: list[Path]):
    done("compress", coded, pictures[0], "--out", "files")
    assert "'files/one.dpc' is there already; --force" in sentence(
        type_in("compress", coded, pictures[0], "--out", "files")
    )
    done("compress", coded, pictures[0], "--out", "files", "--force")
    done("decompress", coded, "files/one.dpc", "--out", "back")
    assert "'back/one.png' is there already" in sentence(type_in("decompress", coded, "files/one.dpc", "--out", "back"))
    done("decompress", coded, "files/one.dpc", "--out", "back", "--force")


def test_each_bad_file_is_answered_and_the_good_ones_are_decompressed(coded: Path, pictures: list[Path]):
    done("compress", coded, *pictures, "--out", "files")
    good = Path("files/one.dpc").read_bytes()
    Path("trailing.dpc").write_bytes(good + b"x")
    Path("short.dpc").write_bytes(good[:9])
    Path("other.dpc").write_bytes(b"GIF89a and more")
    Path("version.dpc").write_bytes(good[:3] + b"\x07" + good[4:])
    Path("flipped.dpc").write_bytes(good[:-1] + bytes([good[-1] ^ 255]))
    names = ["trailing", "short", "other", "version", "flipped"]
    end = type_in("decompress", coded, *(f"{name}.dpc" for name in names), "files/two.dpc", "--out", "back")
    assert end.code == 4
    for name, said in zip(
        names, ["after its end", "inside its header", "no .dpc file", "version 7", "damaged"], strict=True
    ):
        assert f"ddpm: '{name}.dpc': " in end.err
        assert said in next(line for line in end.err.splitlines() if name in line)
    assert same(Path("two.png"), Path("back/two.png"))
    assert "flipped.png: exact" not in end.out
    assert not any((Path("back") / f"{name}.png").exists() for name in names[:4])


def test_stored_file_has_no_coarser_picture(coded: Path):
    Image.new("L", (64, 64), 200).save("plain.png")  # a hundred bytes as PNG, and the same index bits as anything else
    assert "dimension, stored by ordinary means" in done("compress", coded, "plain.png", "--out", "files").out
    shown = done("show", "files/plain.dpc", coded).out
    assert "stored by ordinary means: no prefix of it is a picture" in shown.replace(", whole", "")
    refused = type_in("decompress", coded, "files/plain.dpc", "--bytes", "40", "--out", "back")
    assert "has no coarser picture" in sentence(refused)
    end = done("decompress", coded, "files/plain.dpc", "--out", "back")
    assert end.err.count("ddpm:") == 0
    assert same(Path("plain.png"), Path("back/plain.png"))
    Path("cut.dpc").write_bytes(Path("files/plain.dpc").read_bytes()[:-3])
    cut = type_in("decompress", coded, "cut.dpc", "--out", "back")
    assert (cut.code, "has none before its end" in cut.err) == (4, True)


def test_show_says_what_is_wrong_with_a_file(coded: Path, pictures: list[Path]):
    done("compress", coded, pictures[2], "--out", "files", "--bytes", "1000")
    data = Path("files/odd.dpc").read_bytes()
    Path("cut.dpc").write_bytes(data[:-3])
    Path("flipped.dpc").write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    Path("trailing.dpc").write_bytes(data + b"x")
    for name, state in (("files/odd.dpc", "whole"), ("cut.dpc", "cut"), ("flipped.dpc", "damaged")):
        assert json.loads(done("show", name, coded, "--json").out)["state"] == state
    Path("text.dpc").write_text("no file of ours")
    assert "'text.dpc': it is no .dpc file" in sentence(type_in("show", "text.dpc"), 4)
    assert "'trailing.dpc': it has 1 byte after its end" in sentence(type_in("show", "trailing.dpc", coded), 4)


def test_files_of_raw_weights_are_known_by_show(coded: Path, pictures: list[Path]):
    shutil.copytree(coded, "run")
    done("tune", "run", "--codec", "--weights", "raw", *FIT)
    done("compress", "run", pictures[0], "--out", "files", "--weights", "raw")
    assert "step  level" in done("show", "files/one.dpc", "run").out
    assert type_in("decompress", "run", "files/one.dpc", "--out", "back").code == 3
    done("decompress", "run", "files/one.dpc", "--out", "back", "--weights", "raw")


def test_many_pictures_are_written_as_they_are_done(coded: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("ddpm.cli.compress", "ddpm.cli.decompress"):  # the package has functions of these names
        monkeypatch.setattr(importlib.import_module(name), "GROUP", 1)
    for k, picture in enumerate(ddpm.images("digits:test[0:5]").array()):
        Image.fromarray(picture[0]).save(f"{k}.png")
    names = [f"{k}.png" for k in range(5)]
    done("compress", coded, *names, "--out", "files", "--batch-size", "2")
    done("decompress", coded, *(f"files/{k}.dpc" for k in range(5)), "--out", "back", "--batch-size", "2")
    assert all(same(Path(name), Path("back") / name) for name in names)


def test_options_that_would_do_nothing_are_refused(coded: Path):
    assert "--force means nothing without --codec" in sentence(type_in("tune", coded, "--variance", "--force"))
    assert "--fit-steps means nothing" in sentence(type_in("tune", coded, "--variance", *FIT))
    assert "new linear model" in sentence(type_in("tune", coded, "--codec", "--out", "there"))
    Path("x.dpc").write_bytes(ddpm_file(coded))
    assert "no way 'median'" in sentence(
        type_in("decompress", coded, "x.dpc", "--out", "back", "--reconstruct", "median")
    )
    assert "'x.dpc': 4 bytes do not reach the end of its header; 13 would fit" in sentence(
        type_in("decompress", coded, "x.dpc", "--out", "back", "--bytes", "4")
    )


def test_models_of_other_channels_are_refused(tmp_path: Path):
    Image.new("LA", (8, 8), (3, 200)).save("a.png")
    Path("la").mkdir()
    for k in range(4):
        Image.fromarray(np.full((8, 8, 2), 40 * k, np.uint8), "LA").save(f"la/{k}.png")
    words = ("process.steps=12", "network.channels=8", "network.groups=4", "batch_size=2", "train_images=2")
    done("train", "small", "--data", "la", "--out", "run", *(word for setting in words for word in ("--set", setting)))
    assert "has 2 channels; the codec holds grey (1) and RGB (3)" in sentence(type_in("tune", "run", "--codec"))


# ---- in Python ------------------------------------------------------------------------------------------------------


def test_bytes_in_the_library_are_the_picture(coded: Path):
    model, test = ddpm.load(coded), ddpm.images("digits:test")
    data = ddpm.compress(model, test[0])
    assert isinstance(data, bytes)
    assert (ddpm.decompress(model, data) == test[0]).all()
    small = ddpm.compress(model, test[0], most_bytes=25)
    assert len(small) <= 25
    assert ddpm.decompress(model, small).shape == (1, 8, 8)
    assert ddpm.decompress(model, memoryview(data)).flags.writeable
    for size in (-5, 0, 20.5):
        with pytest.raises(InputError, match="are no size; 100 would fit"):
            ddpm.compress(model, test[0], most_bytes=size)
    with pytest.raises(InputError, match="a rate of inf"):
        ddpm.compress(model, test[0], rate=float("inf"))
    with pytest.raises(InputError, match="leave one of them out"):
        ddpm.compress(model, test[0], most_bytes=25, rate=3.0)


def test_cut_bytes_warn_and_damaged_ones_carry_the_coarse_picture(coded: Path):
    model = ddpm.load(coded)
    noise = np.random.default_rng(0).integers(100, 140, (1, 8, 8), dtype=np.uint8)
    data = ddpm.compress(model, noise, most_bytes=10**4)
    with pytest.warns(PartialImageWarning, match="cut short"):
        assert ddpm.decompress(model, data[:-4]).shape == (1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ddpm.decompress(model, data, most_bytes=len(data) - 4).shape == (1, 8, 8)
    place = len(data) - 4
    with pytest.raises(DamagedFile, match="progressive layer is damaged") as caught:
        ddpm.decompress(model, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    assert caught.value.picture.shape == (1, 8, 8)


def test_library_names_the_wrong_model(coded: Path, coded_guided: Path):
    data = ddpm.compress(ddpm.load(coded), ddpm.images("digits:test")[0])
    with pytest.raises(WrongModel, match="it wants the model with fingerprint"):
        ddpm.decompress(ddpm.load(coded_guided), data)
