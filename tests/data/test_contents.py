"""Which files of a folder or a zip count as images; every other file is counted by kind or named."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpm
from ddpm.data.contents import LOOKED_AT, MARKS
from ddpm.data.formats import EXTENSIONS, EXTENSIONS_OF, FORMATS
from ddpm.data.preflight import inspect_source
from ddpm.data.sources import open_images
from ddpm.errors import InputError
from ddpm.evaluation.rate_plots import plot_levels
from ddpm.generation.image_folder import PROTOCOL_FILE, write_protocol

CONTAINERS = ("folder", "zip")
both = pytest.mark.parametrize("kind", CONTAINERS)
FORMAT_OF = {suffix: file_format for file_format in FORMATS for suffix in EXTENSIONS_OF[file_format]}


def names(source: str) -> list[str]:
    images = open_images(source)
    return [images.item_name(k) for k in range(len(images))]


# ---- suffixes and content -------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("suffix", EXTENSIONS)
@pytest.mark.parametrize("spell", [str.lower, str.upper])
def test_every_suffix_of_a_format_that_is_read_counts(kind, suffix, spell, tree, noise, encoded):
    mode = "1" if suffix == ".pbm" else "L" if suffix == ".pgm" else "RGB"
    content = {f"a{spell(suffix)}": encoded(noise().convert(mode), FORMAT_OF[suffix]), "b.png": noise()}
    source = tree(kind, content)
    assert (len(open_images(source)), inspect_source(source).bad) == (2, {})


@both
@pytest.mark.parametrize("file_format", [name for name in FORMATS if name not in ("TIFF", "DIB")])
@pytest.mark.parametrize("name", ["a", "a.data", "a.PNG~"])
def test_an_image_under_another_suffix_counts_by_its_content(kind, file_format, name, tree, noise, encoded):
    source = tree(kind, {name: encoded(noise(), file_format), "b.png": noise()})
    assert set(names(source)) == {name, "b.png"}


@both
def test_an_image_under_the_suffix_of_another_format_is_read_as_what_it_is(kind, tree, noise, encoded):
    images = open_images(tree(kind, {"a.jpg": encoded(noise(3))}))
    assert (images.read(0) == np.asarray(noise(3)).transpose(2, 0, 1)).all()


@both
def test_tiff_counts_without_a_suffix_only_as_raw_files_of_cameras_begin_like_it(kind, tree, noise, encoded):
    tiff = encoded(noise(), "TIFF")
    source = tree(kind, {"scan": tiff, "IMG_1.dng": tiff, "b.png": noise()})
    assert names(source) == ["b.png", "scan"]
    assert inspect_source(source).left_out == {"not images": {".dng": 1}}


@both
@pytest.mark.parametrize(
    "text", [b"", b"BMW and others", b"P5 is a format", b"GIF", b"RIFF....WAVE", b"\x89PNG", b"%!PS"]
)
def test_texts_that_begin_somewhat_like_an_image_are_none(kind, text, tree, noise):
    assert names(tree(kind, {"notes": text, "b.png": noise()})) == ["b.png"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_a_zip_of_any_method_is_one_sentence(method, tmp_path, noise, encoded):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", method) as archive:
        archive.writestr("dataset.json", b'{"labels": null}')
        archive.writestr("image", encoded(noise()))
        archive.writestr("a.png", encoded(noise()))
    data = (tmp_path / "set.zip").read_bytes()
    for place in range(30, data.index(b"PK\1\2"), 11):
        (tmp_path / "bad.zip").write_bytes(data[:place] + bytes([data[place] ^ 0x91]) + data[place + 1 :])
        with contextlib.suppress(InputError):
            open_images(str(tmp_path / "bad.zip"))


@both
def test_of_a_strange_suffix_only_so_many_files_are_looked_into(kind, tree, noise, encoded, monkeypatch):
    monkeypatch.setattr("ddpm.data.contents.LOOKED_AT", 2)
    assert LOOKED_AT >= 100
    content = {
        "0.a": b"x",
        "1.a": b"x",
        "2.a": encoded(noise()),
        "0.b": b"x",
        "1.b": encoded(noise()),
        "z.png": noise(),
    }
    assert names(tree(kind, content)) == ["1.b", "z.png"]


# ---- what is left out -----------------------------------------------------------------------------------------------


@both
def test_every_file_that_is_not_used_is_counted_by_kind(kind, tree, noise):
    texts = ["a.txt", "cat/b.TXT", "c.csv", "LICENSE", "d.a very long suffix", "cat/Thumbs.db", "sub/dataset.json"]
    hidden = [".DS_Store", ".git/a.png", "__MACOSX/cat/._1.png", "cat/.b.png"]
    source = tree(kind, {"cat/1.png": noise(), "dog/2.png": noise(1)} | dict.fromkeys([*texts, *hidden], b"text"))
    report = inspect_source(source)
    assert report.images == 2
    assert report.left_out == {
        "not images": {".txt": 2, ".csv": 1, "without suffix": 1, "other": 1, ".db": 1, ".json": 1},
        "hidden": {"without suffix": 1, ".png": 3},
    }
    said = "left out: .txt 2, .csv 1, .db 1, .json 1, other 1, without suffix 1 (not images), .png 3, "
    assert said in report.summary[1]
    assert open_images(source).summary()[1].endswith(report.summary[1].partition("; ")[2])


def test_what_lies_beside_arrays_in_a_folder_is_counted_too(tree, noise):
    idx = bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 8]) + bytes(64)
    content = {"train-images-idx3-ubyte": idx, "a.png": noise(), "b.png": noise(), "sub/c.png": noise(), ".d": b""}
    source = tree("folder", content)
    assert inspect_source(source).left_out == {"beside the arrays": {".png": 2, "sub/": 1}}
    Path(source, "train-images-idx3-ubyte").unlink()
    Path(source, "data_batch_1.bin").write_bytes(bytes(3073))
    assert "left out: .png 2, sub/ 1 (beside the arrays)" in open_images(source).summary()[1]


@both
def test_a_source_without_images_says_what_it_holds(kind, tree):
    with pytest.raises(InputError, match=r"holds no images .*\.heic 2, \.txt 1 \(not images\)"):
        open_images(tree(kind, {"a.heic": b"1", "b.heic": b"2", "c.txt": b"3"}))


def test_images_left_out_as_unreadable_are_counted(tree, noise):
    with pytest.warns(UserWarning, match="1 of 2"):
        images = open_images(tree("folder", {"a.png": noise(), "b.png": b"x"}), on_bad_image="skip")
    assert "left out: images 1 (unreadable)" in images.summary()[1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_devices_and_links_to_them_are_left_out_without_waiting(tree, noise):
    source = Path(tree("folder", {"a.png": noise()}))
    os.mkfifo(source / "b.png")
    (source / "c.png").symlink_to(source / "b.png")
    (source / "d.png").symlink_to("/dev/zero")
    assert names(str(source)) == ["a.png"]
    assert inspect_source(str(source)).left_out == {"pipes or devices": {".png": 3}}


def test_a_pipe_is_no_source(tmp_path):
    os.mkfifo(tmp_path / "set.zip")
    with pytest.raises(InputError, match=r"set\.zip"):
        open_images(str(tmp_path / "set.zip"))


# ---- outputs inside the data ----------------------------------------------------------------------------------------


def test_grids_and_plots_among_the_images_are_left_out_and_named(tree, noise):
    source = Path(tree("folder", {"cat/1.png": noise(), "dog/2.png": noise(1)}))
    before = open_images(str(source))
    ddpm.save_grid(before.array(), source / "grid.png")
    ddpm.save_grid(before.array(), source / "cat" / "grid.png")
    plot_levels([1.0, 2.0], source / "plots" / "levels.png")
    after = open_images(str(source))
    assert (after.fingerprint, after.class_names) == (before.fingerprint, ("cat", "dog"))
    named = "cat/grid.png 1, grid.png 1, plots/levels.png 1 (a grid or a plot, made by ddpm)"
    assert named in after.summary()[1]


@both
@pytest.mark.parametrize("place", ["drawn/", "cat/drawn/", "deep/er/"])
def test_a_folder_of_samples_among_the_images_is_left_out_and_named(kind, place, tree, noise, tmp_path):
    write_protocol(tmp_path, {"seed": 1})
    content = {"cat/1.png": noise(), "dog/2.png": noise(1)}
    before = open_images(tree(kind, content))
    content |= {f"{place}{PROTOCOL_FILE}": (tmp_path / PROTOCOL_FILE).read_bytes(), f"{place}000001.png": noise(5)}
    after = open_images(tree(kind, content))
    assert (after.fingerprint, after.class_names) == (before.fingerprint, before.class_names)
    assert f"{place} 2 (samples, made by ddpm)" in after.summary()[1]


def test_a_folder_of_samples_is_a_source_itself(tree, noise, tmp_path):
    write_protocol(tmp_path, {"seed": 1})
    source = tree("folder", {"000001.png": noise(5), PROTOCOL_FILE: (tmp_path / PROTOCOL_FILE).read_bytes()})
    assert names(source) == ["000001.png"]


@both
@pytest.mark.parametrize("name", MARKS)
def test_a_table_of_somebody_else_marks_no_folder(kind, name, tree, noise):
    source = tree(kind, {"cat/1.png": noise(), f"cat/{name}": b'{"recipe": "soup"}', "dog/2.png": noise(1)})
    assert open_images(source).class_names == ("cat", "dog")


def test_a_run_inside_its_data_does_not_disturb_its_resumption(tree):
    content = {f"{k % 2}/{k}.png": Image.new("L", (8, 8), 40 * k) for k in range(6)} | {"2/": b""}
    source = tree("folder", content)
    small = {"channels": 8, "groups": 4, "multipliers": [1], "blocks": 1, "attention_levels": [], "space_to_depth": 1}
    said: list[str] = []

    class Heard(ddpm.Progress):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    for train_images in (4, 8):
        given = {"data": source, "train_images": train_images, "batch_size": 4, "device": "cpu"}
        recipe = ddpm.recipe("small", **given, network=small, process={"steps": 12})
        run = ddpm.train(recipe, out=f"{source}/runs/a", progress=Heard())
    assert ddpm.show(run)["images_seen"] == 8
    assert ddpm.show(run)["class_names"] == ["0", "1"]
    assert said[0] == f"{source} (folder of images): 6 images, 2 classes: 0 3, 1 3"
    assert said[1] == "no splits; nothing left out; folders without images: 2/"
    assert any("runs/a/ " in line and "(a run, made by ddpm)" in line for line in said)
    assert any(line.startswith("Resuming at 4") for line in said)
    with pytest.raises(InputError, match="is a run"):
        open_images(str(run))


def test_names_that_are_not_utf8_are_names(tree, noise, encoded):
    source = Path(tree("folder", {"cat/1.png": noise(), "dog/2.png": noise(1)}))
    strange = os.fsdecode(b"\xff\xfe")
    (source / strange).mkdir()
    (source / strange / f"{strange}.png").write_bytes(encoded(noise(2)))
    images = open_images(str(source))
    assert images.class_names == ("cat", "dog", strange)
    assert r"\udcff\udcfe 1" in images.summary()[0]
