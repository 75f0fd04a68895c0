"""How a source is written: path first, then slice, then split; what is no source gets one sentence."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ddpm.data.grammar import parse_source
from ddpm.data.preflight import inspect_source
from ddpm.data.sources import open_images
from ddpm.errors import InputError


@pytest.fixture
def split_array(tmp_path: Path) -> str:
    """Ten grey images for train, four for test; every image of train is its own number."""
    numbers = np.arange(10, dtype=np.uint8)[:, None, None]
    arrays = {"x_train": numbers + np.zeros((10, 8, 8), np.uint8), "x_test": np.full((4, 8, 8), 99, np.uint8)}
    np.savez(tmp_path / "set.npz", **arrays, y_train=np.arange(10)[:, None] % 3, y_test=np.zeros((4, 1), np.int64))
    return str(tmp_path / "set.npz")


@pytest.mark.parametrize("bounds", ["[2:5]", "[:3]", "[-4:]", "[1:-1]", "[:]", "[ 3 : 40 ]"])
def test_a_slice_means_what_it_means_in_python(bounds, split_array):
    images = open_images(split_array + ":train" + bounds)
    expected = list(eval(f"list(range(10)){bounds}"))
    assert images.array()[:, 0, 0, 0].tolist() == expected
    assert (images.labels == np.array(expected) % 3).all()
    assert images.class_names == ("0", "1", "2")
    assert images.name == split_array + ":train" + bounds


@pytest.mark.parametrize("bounds", ["[5:5]", "[10:]", "[7:3]"])
def test_an_empty_slice_is_refused(bounds, split_array):
    with pytest.raises(InputError, match=re.escape(bounds)):
        open_images(split_array + bounds)


def test_a_split_left_out_is_the_default_one_or_an_error(split_array):
    assert len(open_images(split_array)) == 10
    assert len(open_images(split_array, default_split="test")) == 4
    assert len(open_images(split_array + ":test", default_split=None)) == 4
    with pytest.raises(InputError, match=r"set\.npz:train or .*set\.npz:test"):
        open_images(split_array, default_split=None)
    with pytest.raises(InputError, match=r"'val'.*:train or .*:test"):
        open_images(split_array + ":val")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_single_split_needs_no_name_where_none_is_asked_for(split, folder, noise):
    source = folder({f"{split}/a.png": noise()})
    assert open_images(source, default_split=None).split == split
    with pytest.raises(InputError, match=f"no split 'val': choose .*:{split}"):
        open_images(source, default_split="val")


def test_a_split_asked_of_a_source_without_splits_is_an_error(folder, noise):
    source = folder({"a.png": noise()})
    with pytest.raises(InputError, match=":train"):
        open_images(source + ":train")
    assert len(open_images(source, default_split=None)) == 1


@pytest.mark.parametrize("name", ["cats[0:1]", "cats:train", "digits"])
def test_a_path_that_exists_is_taken_as_it_is(name, folder, noise, tmp_path, monkeypatch):
    folder({"a.png": noise(), "b.png": noise(1)}, name=name)
    monkeypatch.chdir(tmp_path)
    assert len(open_images(name)) == 2
    assert len(open_images(name + "[1:2]")) == 1


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (r"C:\data\set.npz", r"C:\data\set.npz"),
        (r"C:\set:test[0:9]", r"C:\set"),
        ("C:set", "C:set"),
        ("D:/x:y/z", "D:/x:y/z"),
    ],
)
def test_a_drive_letter_is_no_source_with_a_split(text, path, monkeypatch):
    monkeypatch.setattr("ddpm.data.grammar._exists", lambda name: name == path)
    assert parse_source(text).path == path
    assert parse_source(text).split == ("test" if ":test" in text else None)


@pytest.mark.parametrize("source", ["nowhere", "nowhere:train[0:5]", "hf:cifar10", "", " ", "no\0where", "x" * 5000])
@pytest.mark.parametrize("verb", [open_images, inspect_source])
def test_what_does_not_exist_is_named_with_what_would_fit(source, verb):
    with pytest.raises(InputError, match=r"a folder of images, a \.zip") as caught:
        verb(source)
    assert source.split(":train")[0] in str(caught.value)


def test_a_file_of_another_kind_is_no_source(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"notes\.txt.*a folder of images"):
        open_images(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize("files", [{}, {"notes.txt": b"hello", ".hidden.png": b"", "__MACOSX/a.png": b""}])
@pytest.mark.parametrize("verb", [open_images, inspect_source])
def test_a_folder_without_images_is_named(files, verb, folder):
    source = folder(files)
    with pytest.raises(InputError, match=r"\.png, ") as caught:
        verb(source)
    assert source in str(caught.value)


def packed(name: str, encoded, noise) -> bytes:
    """A sound file of each kind that is read as a whole."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    idx = bytes([0, 0, 8, 3, 0, 0, 0, 20, 0, 0, 0, 8, 0, 0, 0, 8]) + pixels.tobytes()
    stream = io.BytesIO()
    if name == "set.zip":
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("a.png", encoded(noise()))
    elif name == "set.npz":
        np.savez(stream, images=pixels)
    elif name == "set.npy":
        np.save(stream, pixels)
    else:
        stream.write({".gz": gzip.compress(idx), ".bin": bytes(3073)}.get(Path(name).suffix, idx))
    return stream.getvalue()


WHOLE = ("set.zip", "set.npz", "set.npy", "train-images-idx3-ubyte.gz", "train-images-idx3-ubyte", "data_batch_1.bin")


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("part", [0.0, 0.5, 0.97])
def test_a_source_cut_short_is_named(name, part, tmp_path, noise, encoded):
    path, data = tmp_path / name, packed(name, encoded, noise)
    source = str(path if name.startswith("set") else tmp_path)
    path.write_bytes(data)
    assert len(open_images(source)) >= 1
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError, match="damaged") as caught:
        open_images(source)
    assert name in str(caught.value)
