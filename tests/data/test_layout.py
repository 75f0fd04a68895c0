"""Folders and zips are laid out by one rule: splits, classes, buckets, and the one folder around all."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from ddpm.data.preflight import inspect_source
from ddpm.data.sources import open_images
from ddpm.data.splits import SPLIT_NAMES, split_named
from ddpm.errors import InputError

CONTAINERS = ("folder", "zip")
NAMES = [(split, name) for split, names in SPLIT_NAMES.items() for name in names]
both = pytest.mark.parametrize("kind", CONTAINERS)


def grey(level: int) -> Image.Image:
    return Image.new("L", (8, 8), level)


def files(*paths: str) -> dict[str, Image.Image]:
    """An image at each path, its level the place in the list."""
    return {path: grey(level) for level, path in enumerate(paths)}


def levels(source: str, **options: object) -> list[int]:
    return open_images(source, **options).array()[:, 0, 0, 0].tolist()


# ---- splits ---------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(("split", "name"), NAMES)
@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
def test_a_split_has_every_name_people_use_in_any_case(kind, split, name, spell, tree):
    other = "test" if split == "train" else "train"
    source = tree(kind, files(f"{spell(name)}/1.png", f"{other}/2.png"))
    for asked in (split, name, spell(name)):
        assert levels(f"{source}:{asked}") == [0]
    assert inspect_source(source).splits == {split: 1, other: 1}


def test_other_names_are_no_splits():
    others = ["", "trains", "evaluation", "tests", "devel", "train1", "train20171", "set", "2017", "trainset2017"]
    assert not any(map(split_named, others))


@both
@pytest.mark.parametrize("ending", ["2017", "_images", "-Imgs", "set", "_set"])
def test_a_split_may_have_a_year_or_what_it_holds_in_its_name(kind, ending, tree):
    source = tree(kind, files(f"train{ending}/1.png", f"Val{ending}/2.png"))
    assert inspect_source(source).splits == {"train": 1, "val": 1}
    assert levels(f"{source}:val{ending}") == levels(f"{source}:val") == [1]


DEEPER = {
    "beside a logo": (("data/train/1.png", "data/test/2.png", "logo.png"), "train and test", "data/", "data"),
    "two sets": (("a/train/1.png", "a/test/2.png", "b/train/3.png"), "train and test", "a/ and b/", "a"),
    "MVTec": (("nut/train/good/1.png", "nut/test/bad/2.png", "pin/test/bad/3.png"), "train and test", "nut/", "nut"),
    "images and masks": (("images/train/1.png", "masks/train/1.png"), "train", "images/ and masks/", "images"),
    "one of several": (("cat/1.png", "dog/deep/Val2017/2.png"), "Val2017", "dog/deep/", "dog/deep"),
    "around all": (("set/a/train/1.png", "set/b/2.png"), "train", "set/a/", "set/a"),
}


@both
@pytest.mark.parametrize("case", DEEPER)
@pytest.mark.parametrize("verb", [open_images, inspect_source])
def test_splits_that_lie_deeper_are_refused_with_their_places(kind, case, verb, tree):
    paths, names, places, first = DEEPER[case]
    source = tree(kind, files(*paths))
    with pytest.raises(InputError, match=rf"has {names} below {places}.*or rename what is no split") as caught:
        verb(source)
    if kind == "folder":
        assert f"name one of them, such as '{source}/{first}'" in str(caught.value)
        assert inspect_source(f"{source}/{first}").splits
    else:
        assert f"unpack it, and name one of them, such as {first}/" in str(caught.value)


@both
def test_a_dataset_json_at_the_root_says_that_folders_below_are_no_splits(kind, tree):
    content = files("a/train/1.png", "b/test/2.png")
    labels = {"labels": [[path, k] for k, path in enumerate(content)]}
    assert levels(tree(kind, content | {"dataset.json": json.dumps(labels).encode()})) == [0, 1]


@both
@pytest.mark.parametrize("beside", ["car/3.png", "3.png", "masks/train/3.png"])
@pytest.mark.parametrize("verb", [open_images, inspect_source])
def test_images_beside_splits_are_refused_with_the_choices(kind, beside, verb, tree):
    source = tree(kind, files("train/1.png", "test/2.png", beside))
    with pytest.raises(InputError, match=rf"{beside}.*:train or .*:test"):
        verb(source)
    assert levels(f"{source}:test") == [1]


@both
def test_images_beside_a_single_split_are_refused_in_the_singular(kind, tree):
    source = tree(kind, files("eval/1.png", "train/2.png"))
    with pytest.raises(InputError, match=r"has train, and images beside it \(eval/1\.png\): choose .*:train, or move"):
        open_images(source)


@both
def test_other_files_beside_splits_do_no_harm(kind, tree):
    source = tree(kind, {**files("train/1.png", "test/2.png"), "README.md": b"hello", "labels/1.txt": b"0"})
    assert levels(source) == [0]


@both
def test_two_folders_for_one_split_are_refused(kind, tree):
    with pytest.raises(InputError, match=r"val/ and valid/, and both mean val"):
        open_images(tree(kind, files("val/1.png", "valid/2.png")))


@both
def test_classes_of_a_split_are_its_own(kind, tree):
    source = tree(kind, files("train/a/1.png", "train/b/2.png", "test/b/3.png", "test/c/4.png"))
    train, test = open_images(source), open_images(f"{source}:test")
    assert (train.class_names, train.labels.tolist()) == (("a", "b"), [0, 1])
    assert (test.class_names, test.labels.tolist()) == (("b", "c"), [0, 1])


@both
@pytest.mark.parametrize("unlabelled", ["test/1.png", "test/00000/1.png"])
def test_an_unlabelled_split_takes_no_classes_from_another(kind, unlabelled, tree):
    source = tree(kind, files("train/cat/1.png", "train/dog/2.png", unlabelled))
    train, test = open_images(source), open_images(f"{source}:test")
    assert (train.class_names, train.labels.tolist()) == (("cat", "dog"), [0, 1])
    assert (test.class_names, test.labels) == ((), None)
    assert "train 2 (2 classes: cat 1, dog 1), test 1 (no classes)" in inspect_source(source).summary[0]


# ---- classes --------------------------------------------------------------------------------------------------------


@both
def test_folders_of_images_are_classes(kind, tree):
    images = open_images(tree(kind, files("cat/1.png", "cat/deep/2.png", "dog/1.png")))
    assert (images.class_names, images.labels.tolist()) == (("cat", "dog"), [0, 0, 1])


@both
def test_an_image_in_no_folder_means_no_classes_and_is_named(kind, tree):
    images = open_images(tree(kind, files("cat/1.png", "dog/1.png", "0.png")))
    assert images.labels is None
    assert "no classes, because 1 of 3 images lies in no folder (0.png)" in images.summary()[1]


@both
@pytest.mark.parametrize("buckets", [("00000", "01000"), ("000000", "000001")])
@pytest.mark.parametrize("below", ["", "train/"])
def test_bucket_folders_are_no_classes_and_said(kind, buckets, below, tree):
    images = open_images(tree(kind, files(*(f"{below}{bucket}/1.png" for bucket in buckets))))
    assert (images.labels, images.class_names) == (None, ())
    assert f"numbered folders such as {below}{buckets[0]}/ are no classes" in images.summary()[1]


@both
@pytest.mark.parametrize("names", [("0", "1"), ("00000", "cat"), ("1998", "2005")])
def test_other_numbered_folders_are_classes(kind, names, tree):
    assert open_images(tree(kind, files(*(f"{name}/1.png" for name in names)))).class_names == names


@both
@pytest.mark.parametrize("empty", [{"owl/": b""}, {"owl/readme.txt": b"none left"}])
@pytest.mark.parametrize("below", ["", "train/"])
def test_a_folder_without_images_is_said_and_is_no_class(kind, empty, below, tree):
    content = files(f"{below}cat/1.png", f"{below}dog/2.png")
    images = open_images(tree(kind, content | {f"{below}{path}": data for path, data in empty.items()}))
    assert images.class_names == ("cat", "dog")
    assert f"folders without images: {below}owl/" in images.summary()[1]


@both
def test_an_empty_split_is_said(kind, tree):
    source = tree(kind, files("train/1.png", "test/2.png") | {"val/": b""})
    assert "folders without images: val/" in inspect_source(source).summary[1]


@both
def test_classes_that_a_slice_leaves_without_images_are_not_learned_and_said(kind, tree):
    images = open_images(tree(kind, files("a/1.png", "b/2.png", "c/3.png")) + "[1:]")
    assert (images.class_names, images.labels.tolist()) == (("b", "c"), [0, 1])
    assert "classes without images here: a" in images.summary()[1]


# ---- the folder around all ------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("around", ["mydata/", "a/b/"])
@pytest.mark.parametrize(
    ("paths", "class_names"),
    [
        (("cat/1.png", "dog/2.png"), ("cat", "dog")),
        (("Train/cat/1.png", "Train/dog/2.png", "Test/3.png"), ("cat", "dog")),
    ],
)
def test_one_folder_around_splits_or_classes_is_looked_through(kind, around, paths, class_names, tree):
    content = {**files(*(around + path for path in paths)), "readme.txt": b"hello", "__MACOSX/._a.png": b""}
    images = open_images(tree(kind, content))
    assert (images.class_names, images.array()[:, 0, 0, 0].tolist()) == (class_names, [0, 1])


def test_one_folder_in_a_zip_is_no_class_and_in_a_folder_it_is_one(tree):
    content = files("photos/1.png", "photos/2.png")
    assert open_images(tree("zip", content)).class_names == ()
    assert open_images(tree("folder", content)).class_names == ("photos",)


@both
def test_names_with_backslashes_are_paths_in_a_zip(kind, tree):
    slash = "\\" if kind == "zip" else "/"
    images = open_images(tree(kind, files(f"train{slash}cat{slash}1.png", f"train{slash}dog{slash}2.png")))
    assert images.class_names == ("cat", "dog")


# ---- dataset.json ---------------------------------------------------------------------------------------------------


def index(*labels: int | None, name: str = "0000{}/{}.png") -> bytes:
    pairs = [[name.format(k % 2, k), label] for k, label in enumerate(labels) if label is not None]
    return json.dumps({"labels": pairs}).encode()


BUCKETS = tuple(f"0000{k % 2}/{k}.png" for k in range(4))


@both
@pytest.mark.parametrize("around", ["", "mydata/", "a/b/"])
def test_dataset_json_labels_a_folder_as_it_labels_a_zip(kind, around, tree):
    content = files(*(around + path for path in BUCKETS)) | {f"{around}dataset.json": index(2, 0, 1, 2)}
    images = open_images(tree(kind, content))
    named = {images.item_name(k): images.class_names[images.labels[k]] for k in range(4)}
    assert named == {around + path: str(label) for path, label in zip(BUCKETS, (2, 0, 1, 2), strict=True)}
    assert images.summary()[1].startswith("no splits; nothing left out")


@both
@pytest.mark.parametrize(("labels", "names"), [((1, 2, 10, 1), ("1", "2", "10")), ((0, 7, 7, 3), ("0", "3", "7"))])
def test_numbers_from_one_or_with_gaps_keep_their_names(kind, labels, names, tree):
    images = open_images(tree(kind, files(*BUCKETS) | {"dataset.json": index(*labels)}))
    assert images.class_names == names
    found = {images.item_name(k): int(names[images.labels[k]]) for k in range(4)}
    assert found == dict(zip(BUCKETS, labels, strict=True))


@both
def test_each_split_may_have_its_own_dataset_json(kind, tree):
    content = files(*(f"{split}/{path}" for split in ("train", "test") for path in BUCKETS))
    source = tree(kind, content | {"train/dataset.json": index(0, 1, 0, 1)})
    assert open_images(source).class_names == ("0", "1")
    assert open_images(f"{source}:test").labels is None


@both
def test_labels_of_images_that_are_gone_are_counted(kind, tree):
    images = open_images(tree(kind, files(*BUCKETS[:3]) | {"dataset.json": index(0, 1, 0, 1)}))
    assert "has 1 labels of images that are not here" in images.summary()[1]


@both
def test_null_labels_mean_no_classes_and_a_table_of_another_kind_none_at_all(kind, tree):
    content = files("cat/1.png", "dog/2.png")
    null = open_images(tree(kind, content | {"dataset.json": b'{"labels": null}'}, name="null"))
    assert (null.labels, "dataset.json has no labels" in null.summary()[1]) == (None, True)
    other = open_images(tree(kind, content | {"dataset.json": b'{"title": "pets"}'}, name="other"))
    assert (other.class_names, "left out: .json 1 (not images)" in other.summary()[1]) == (("cat", "dog"), True)


WRONG = {
    "not JSON": (b"{", "not valid JSON"),
    "not UTF-8": (b'{"labels": "\xff"}', "not valid JSON"),
    "deep": (b"[" * 100_000, "not valid JSON"),
    "a list": (b"[1]", "should hold"),
    "a number": (b'{"labels": 7}', "should hold.*holds 7"),
    "a table": (b'{"labels": {"00000/0.png": 1}}', "should hold"),
    "a float": (b'{"labels": [["00000/0.png", 0.5]]}', r"0\.5.*no such pair"),
    "a vector": (b'{"labels": [["00000/0.png", [0.0, 1.0]]]}', "no such pair"),
    "true": (b'{"labels": [["00000/0.png", true]]}', "no such pair"),
    "no name": (b'{"labels": [[3, 0]]}', "no such pair"),
    "negative": (b'{"labels": [["00000/0.png", -1]]}', "label -1"),
    "huge": (b'{"labels": [["00000/0.png", 1%s]]}' % (b"0" * 4000), "a huge number"),
    "thousands of digits": (b'{"labels": [["00000/0.png", 1%s]]}' % (b"0" * 5000), "not valid JSON"),
    "two labels": (b'{"labels": [["00000/0.png", 1], ["00000/0.png", 2]]}', "two labels, 1 and 2"),
    "one missing": (index(0, 1, 0, None), r"no label for 00001/3\.png"),
    "none for any": (b'{"labels": [["elsewhere.png", 0]]}', r"no label for 00000/0\.png"),
}


@both
@pytest.mark.parametrize(("content", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_dataset_json_is_said(kind, content, said, tree):
    with pytest.raises(InputError, match=rf"(?s)dataset\.json.*{said}") as caught:
        open_images(tree(kind, files(*BUCKETS) | {"dataset.json": content}))
    assert len(str(caught.value)) < 600


@both
def test_a_dataset_json_is_refused_by_its_size_before_it_is_read(kind, tree, monkeypatch):
    monkeypatch.setattr("ddpm.data.index.MOST_BYTES", 1000)
    content = b'{"labels": [' + b"[]," * 10_000 + b"[]]}"
    monkeypatch.setattr("ddpm.data.index.parse_json", lambda text: pytest.fail("it was read"))
    with pytest.raises(InputError, match=r"dataset\.json.*30,0\d\d bytes, more than the 1,664"):
        open_images(tree(kind, files(*BUCKETS) | {"dataset.json": content}))


# ---- fingerprints that checkpoints of older versions remember -------------------------------------------------------

REMEMBERED = {
    "flat folder": ("folder", ("1.pgm", "2.pgm"), None, "", "5065c95acc1cc416"),
    "classes": ("folder", ("cat/1.pgm", "dog/2.pgm", "dog/deep/3.pgm"), None, "", "6a8b6291c52b72c9"),
    "one class": ("folder", ("cat/1.pgm", "cat/2.pgm"), None, "", "636c2fc00c8033c8"),
    "train": ("folder", ("train/a/1.pgm", "train/b/2.pgm", "test/b/3.pgm"), None, ":train", "dd24d72e05703e90"),
    "fewer classes in test": (
        "folder",
        ("train/a/1.pgm", "train/b/2.pgm", "test/b/3.pgm"),
        None,
        ":test",
        "fbedeba196506cb4",
    ),
    "slice": ("folder", ("a/1.pgm", "b/2.pgm", "c/3.pgm"), None, "[1:]", "be695ecda83d1469"),
    "flat zip": ("zip", ("2.pgm", "1.pgm"), None, "", "e06e290cfdfece91"),
    "wrapped zip": ("zip", ("photos/1.pgm", "photos/2.pgm"), None, "", "22348ee1bb17b05e"),
    "buckets in a zip": ("zip", ("00000/1.pgm", "00001/2.pgm"), None, "", "24aee3289263de1f"),
    "labelled zip": (
        "zip",
        ("00000/1.pgm", "00001/2.pgm"),
        [["00001/2.pgm", 0], ["00000/1.pgm", 1]],
        "",
        "50698444f2215ad5",
    ),
}


@pytest.mark.parametrize(("kind", "paths", "labels", "tail", "fingerprint"), REMEMBERED.values(), ids=REMEMBERED)
def test_what_was_read_well_before_keeps_its_fingerprint(kind, paths, labels, tail, fingerprint, tree):
    content = {path: b"P5 8 8 255\n" + bytes([k]) * 64 for k, path in enumerate(paths)}
    content |= {} if labels is None else {"dataset.json": json.dumps({"labels": labels}).encode()}
    assert open_images(tree(kind, content) + tail).fingerprint.startswith(fingerprint)
