"""Sources that are NumPy files give the images that were put into them."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from ddpm.base.geometry import Geometry
from ddpm.data.arrays import IMAGE_KEYS, LABEL_KEYS
from ddpm.data.sources import open_images
from ddpm.errors import InputError

PIXELS = np.random.default_rng(7).integers(0, 256, (6, 3, 9, 12), np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("key", [*IMAGE_KEYS, "x_train", ".npy"])
def test_arrays_come_back_as_they_were_saved(layout, key, tmp_path):
    array = PIXELS if layout == "NCHW" else PIXELS.transpose(0, 2, 3, 1)
    path = tmp_path / ("set.npy" if key == ".npy" else "set.npz")
    np.save(path, array) if key == ".npy" else np.savez_compressed(path, **{key: array})
    images = open_images(str(path))
    assert images.geometry == Geometry(3, 9, 12)
    assert (images.array() == PIXELS).all()
    assert (images.array([4, -1]) == PIXELS[[4, 5]]).all()
    assert (np.stack(list(images)) == PIXELS).all()
    assert images.labels is None
    assert images.class_names == ()


@pytest.mark.parametrize("key", LABEL_KEYS)
def test_labels_are_found_under_every_key_on_the_list(key, tmp_path):
    np.savez(tmp_path / "set.npz", images=PIXELS, **{key: LABELS.astype(np.uint8)})
    images = open_images(str(tmp_path / "set.npz"))
    assert images.labels.dtype == np.int64
    assert (images.labels == LABELS).all()
    assert images.class_names == ("0", "1", "2")


def test_an_image_read_is_the_callers_to_change(tmp_path):
    np.save(tmp_path / "set.npy", PIXELS)
    images = open_images(str(tmp_path / "set.npy"))
    images.read(0)[:] = 0
    images.array()[:] = 0
    assert (images.read(0) == PIXELS[0]).all()
    with pytest.raises(IndexError):
        images.read(6)


DOUBTFUL = {
    "float": (np.zeros((5, 8, 8)), "float64"),
    "small either way": (np.zeros((5, 3, 8, 4), np.uint8), "in one way only"),
    "large either way": (np.zeros((5, 8, 8, 8), np.uint8), "in one way only"),
    "flat grey": (np.zeros((5, 784), np.uint8), r"(5, 784), .*make it (5, 28, 28), or (1, 5, 784) for one"),
    "flat colour": (np.zeros((5, 3072), np.uint8), r"make it (5, 3, 32, 32) or (5, 32, 32, 3), as the colours lie"),
    "one image, channels first": (np.zeros((3, 50, 80), np.uint8), r"(1, 3, 50, 80) for one image or (3, 1, 50, 80)"),
    "one image, channels last": (np.zeros((50, 80, 3), np.uint8), r"(1, 50, 80, 3) for one image or (50, 1, 80, 3)"),
    "empty": (np.zeros((0, 8, 8), np.uint8), "holds no images: its shape is (0, 8, 8)"),
    "of no pixels": (np.zeros((3, 0, 8, 3)), "holds no images: its shape is (3, 0, 8, 3)"),
    "empty rows": (np.zeros((0, 3072), np.uint8), "holds no images: its shape is (0, 3072)"),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_a_doubtful_array_is_refused(case, tmp_path):
    array, sentence = DOUBTFUL[case]
    np.save(tmp_path / "set.npy", array)
    with pytest.raises(InputError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        open_images(str(tmp_path / "set.npy"))


@pytest.mark.parametrize("images", ["x_{}", "{}_images", "images_{}", "{}_data"])
def test_splits_of_an_archive_are_found_by_the_names_people_use(images, tmp_path):
    labels = images.replace("x", "y").replace("images", "labels").replace("data", "labels")
    names = {"train": "train", "val": "Valid", "test": "TEST"}
    arrays = {images.format(name): PIXELS[k:] for k, name in enumerate(names.values())}
    arrays |= {labels.format(name): LABELS[k:, None].astype(np.uint8) for k, name in enumerate(names.values())}
    np.savez(tmp_path / "set.npz", **arrays)
    for k, split in enumerate(names):
        found = open_images(f"{tmp_path}/set.npz:{split}")
        assert (found.array() == PIXELS[k:]).all()
        assert found.labels.tolist() == LABELS[k:].tolist()


def test_an_archive_with_and_without_splits_is_refused(tmp_path):
    np.savez(tmp_path / "set.npz", train_images=PIXELS, images=PIXELS)
    with pytest.raises(InputError, match=r"set\.npz.*train_images.* and images beside them"):
        open_images(str(tmp_path / "set.npz"))


@pytest.mark.parametrize("key", ["data", "train_data"])
def test_rows_of_three_planes_are_read_as_imagenet_32_has_them(key, tmp_path):
    planes = np.random.default_rng(5).integers(0, 256, (4, 3, 32, 32), np.uint8)
    labels = {"data": "labels", "train_data": "train_labels"}[key]
    np.savez(tmp_path / "set.npz", **{key: planes.reshape(4, 3072), labels: np.array([1, 1000, 1, 2])})
    images = open_images(str(tmp_path / "set.npz"))
    assert (images.array() == planes).all()
    assert [images.class_names[number] for number in images.labels] == ["1", "1000", "1", "2"]


def test_one_grey_image_is_read(tmp_path):
    np.save(tmp_path / "set.npy", PIXELS[:1, 0])
    assert (open_images(str(tmp_path / "set.npy")).array() == PIXELS[:1, :1]).all()


def test_objects_in_an_array_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "set.npz", images=np.array([{}, []], object))
    with pytest.raises(InputError, match=r"set\.npz.*Python objects"):
        open_images(str(tmp_path / "set.npz"))


def test_a_damaged_header_of_an_array_is_named(tmp_path):
    """NumPy's parser raises tokenize.TokenError, SyntaxError and more for some of these."""
    np.save(tmp_path / "set.npy", PIXELS[:, 0])
    whole, noticed = (tmp_path / "set.npy").read_bytes(), 0
    for place in range(128):
        for value in (39, 44, 66, whole[place] ^ 1):
            (tmp_path / "damaged.npy").write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                open_images(str(tmp_path / "damaged.npy"))
            except InputError as error:
                noticed += "damaged.npy" in str(error)
    assert noticed > 128


def test_an_archive_without_images_lists_what_it_holds(tmp_path):
    np.savez(tmp_path / "set.npz", photos=PIXELS)
    with pytest.raises(InputError, match=r"set\.npz' holds photos.*images, x, arr_0, data"):
        open_images(str(tmp_path / "set.npz"))


UNFIT = [LABELS[:5], LABELS - 1, LABELS + 0.5, np.eye(6)[:5], LABELS + 10**9, np.zeros((6, 2, 2), int), np.array(3)]


@pytest.mark.parametrize("labels", UNFIT)
def test_labels_that_do_not_fit_are_refused(labels, tmp_path):
    np.savez(tmp_path / "set.npz", images=PIXELS, labels=labels)
    with pytest.raises(InputError, match=r"labels in .*set\.npz"):
        open_images(str(tmp_path / "set.npz"))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array([5, 5, 5, 5, 5, 5]), ("5",)),
        (np.array([3, 1, 2, 2, 1, 3]), ("1", "2", "3")),
        (np.array([[0], [7], [1000], [7], [0], [7]], np.uint16), ("0", "7", "1000")),
    ],
)
def test_labels_from_one_or_with_gaps_keep_their_names(labels, names, tmp_path):
    np.savez(tmp_path / "set.npz", images=PIXELS, labels=labels)
    images = open_images(str(tmp_path / "set.npz"))
    assert images.class_names == names
    assert [int(images.class_names[number]) for number in images.labels] == labels.reshape(-1).tolist()


@pytest.mark.parametrize("kind", [np.float64, np.uint8, np.bool_])
def test_one_hot_labels_are_read(kind, tmp_path):
    np.savez(tmp_path / "set.npz", images=PIXELS, labels=np.eye(4)[[2, 0, 3, 3, 0, 2]].astype(kind))
    images = open_images(str(tmp_path / "set.npz"))
    assert [images.class_names[number] for number in images.labels] == ["2", "0", "3", "3", "0", "2"]


@pytest.mark.parametrize(("row", "reason"), [((1, 1, 0), "several classes"), ((0.5, 0.5, 0), "other numbers")])
def test_labels_that_are_not_one_hot_are_refused_with_shape_and_row(row, reason, tmp_path):
    labels = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    labels[4] = row
    np.savez(tmp_path / "set.npz", images=PIXELS, labels=labels)
    with pytest.raises(InputError, match=rf"shape \(6, 3\), and row 4 holds {reason}"):
        open_images(str(tmp_path / "set.npz"))


NAMES = np.array(["owl", "cat", "dog", "eel"])


def test_labels_are_called_as_the_archive_says(tmp_path):
    np.savez(tmp_path / "set.npz", arr_0=PIXELS, arr_1=np.array([3, 0, 1, 1, 0, 3]), class_names=NAMES)
    images = open_images(str(tmp_path / "set.npz"))
    assert [images.class_names[number] for number in images.labels] == ["eel", "owl", "cat", "cat", "owl", "eel"]
    assert images.summary()[1] == "no splits; nothing left out"


UNSOUND = {
    "twice the same": np.array(["owl", "cat", "owl", "eel"]),
    "too few": NAMES[:2],
    "numbers": np.arange(4),
    "a table": NAMES.reshape(2, 2),
    "objects": NAMES.astype(object),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_names_that_do_not_name_each_label_are_another_array(case, tmp_path):
    np.savez(tmp_path / "set.npz", images=PIXELS, labels=LABELS, class_names=UNSOUND[case])
    images = open_images(str(tmp_path / "set.npz"))
    assert images.class_names == ("0", "1", "2")
    assert "class_names 1 (other arrays)" in images.summary()[1]


def test_an_archive_of_other_files_is_refused_with_their_names(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        for k in range(5):
            archive.writestr(f"in/{k}.png", b"x")
    with pytest.raises(InputError, match=r"set\.npz' holds in/0\.png, in/1\.png, in/2\.png and 2 more; images are"):
        open_images(str(tmp_path / "set.npz"))


def test_arrays_that_are_not_used_are_named(tmp_path):
    np.savez(tmp_path / "set.npz", x_train=PIXELS, y_train=LABELS, mask=PIXELS)
    assert (
        open_images(f"{tmp_path}/set.npz")
        .summary()[1]
        .startswith("split train of train; left out: mask 1 (other arrays)")
    )


def test_the_numbers_of_labels_and_images_are_named_when_they_differ(tmp_path):
    np.savez(tmp_path / "set.npz", x_train=PIXELS, y_train=LABELS[:4], x_test=PIXELS, y_test=LABELS)
    with pytest.raises(InputError, match=r"4 labels in .*set\.npz.* for 6 images"):
        open_images(str(tmp_path / "set.npz"))


def test_splits_number_their_classes_together(tmp_path):
    np.savez(tmp_path / "set.npz", x_train=PIXELS, y_train=LABELS + 1, x_test=PIXELS[:2], y_test=np.array([3, 9]))
    train, test = (open_images(f"{tmp_path}/set.npz:{split}") for split in ("train", "test"))
    assert (train.class_names, train.labels.tolist()) == (("1", "2", "3"), LABELS.tolist())
    assert (test.class_names, test.labels.tolist()) == (("3", "9"), [0, 1])
    assert train.source.class_names == ("1", "2", "3", "9")
