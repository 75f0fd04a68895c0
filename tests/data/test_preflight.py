"""The report of `ddpm data` counts what is there and names what is wrong, without raising for it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ddpm.data.decode import POLICY
from ddpm.data.preflight import inspect_source
from ddpm.data.sources import open_images
from ddpm.errors import InputError


@pytest.fixture
def report(folder, noise):
    files = {
        "train/cat/1.png": noise(0),
        "train/cat/same.png": noise(0),
        "train/dog/2.png": noise(1, size=(20, 33)),
        "train/dog/cut.png": b"\x89PNG\r\n",
        "test/cat/leak.png": noise(0),
        "test/cat/grey.png": noise(2, "L"),
    }
    return inspect_source(folder(files))


def test_everything_is_counted(report):
    assert (report.kind, report.images, report.channels) == ("folder of images", 6, 3)
    assert report.splits == {"train": 4, "test": 2}
    assert report.sizes == {"16x16": 4, "20x33": 1}
    assert report.modes == {"RGB": 4, "L": 1}
    assert report.classes == {"cat": 4, "dog": 2}


def test_duplicates_are_grouped_by_their_pixels_and_named(report):
    found = report.duplicates
    assert (found.groups, found.images, found.shared_by_splits) == (1, 3, 1)
    assert found.examples == (("train/cat/1.png", "train/cat/same.png", "test/cat/leak.png"),)


def test_a_source_without_duplicates_or_bad_images_says_none():
    lines = inspect_source("digits:test[0:10]").lines()
    assert [" ".join(line.split()) for line in lines if line.startswith(("dupl", "unre"))] == [
        "duplicates none",
        "unreadable 0",
    ]


def test_equal_bytes_of_another_shape_are_no_duplicates(folder):
    files = {"a.png": Image.new("L", (4, 2)), "b.png": Image.new("L", (2, 4)), "c.bmp": Image.new("L", (2, 4))}
    assert inspect_source(folder(files)).duplicates.examples == (("b.png", "c.bmp"),)


def test_unreadable_files_are_reported_by_name_with_the_reason(report):
    assert list(report.bad) == ["train/dog/cut.png"]
    assert all(report.bad.values())


def test_suggestions_say_what_to_do(report):
    said = "\n".join(report.suggestions)
    assert "--size 16" in said
    assert 'on_bad_image = "skip"' in said
    assert "train and in test" in said


def test_the_report_is_json_and_lines(report):
    assert json.loads(json.dumps(report.table()))["duplicates"]["images"] == 3
    lines = report.lines()
    assert all(isinstance(line, str) and "\n" not in line for line in lines)
    text = "\n".join(lines)
    for part in (
        report.source,
        "6 images: train 4 (2 classes: cat 2, dog 2), test 2 (1 class: cat 2)",
        "splits train, test; nothing left out",
        "16x16 (4)",
        "RGB (4)",
        "cut.png",
        "leak.png",
        "3 images in 1 groups, 1 of test also in train",
        POLICY,
    ):
        assert part in text


def test_the_first_two_lines_say_images_classes_splits_and_what_was_left_out(report):
    assert tuple(report.lines()[:2]) == report.summary == tuple(report.table()["summary"])


def test_one_split_or_slice_is_looked_at_alone():
    assert inspect_source("digits").splits == {"train": 1500, "test": 297}
    assert inspect_source("digits:test[0:10]").splits == {"test": 10}
    assert inspect_source("digits:testing").splits == {"test": 297}


def test_a_slice_is_cut_from_the_split_that_training_takes():
    looked_at, trained_on = inspect_source("digits[0:7]"), open_images("digits[0:7]")
    assert (looked_at.images, looked_at.splits) == (7, {"train": 7})
    assert trained_on.fingerprint == open_images("digits:train[0:7]").fingerprint
    assert (trained_on.array() == open_images("digits:train")[0:7]).all()
    with pytest.raises(InputError, match=r"digits:train or digits:test"):
        open_images("digits[0:7]", default_split=None)


def test_a_set_of_bad_images_only_is_reported_too(folder):
    report = inspect_source(folder({"a.png": b"", "b.png": b"x"}))
    assert (report.images, report.channels, len(report.bad)) == (2, 0, 2)
    assert report.lines()


def test_a_size_no_network_halves_thrice_is_pointed_out(tmp_path):
    np.save(tmp_path / "set.npy", np.zeros((5, 28, 40), np.uint8))
    assert "--size 24x40 or 32x40" in inspect_source(str(tmp_path / "set.npy")).suggestions[0]


def test_useless_channels_are_pointed_out(folder, noise):
    said = inspect_source(folder({"a.png": noise(0, "L").convert("RGBA")})).suggestions
    assert any("opaque everywhere" in line for line in said)
    assert any("grey though stored in colour" in line for line in said)


def test_fashion_mnist_has_no_duplicate_and_no_bad_image(data_root):
    report = inspect_source(str(data_root / "fashion-mnist:test"))
    assert (report.images, report.modes, report.bad) == (10_000, {"L": 10_000}, {})
    assert set(report.classes.values()) == {1000}
