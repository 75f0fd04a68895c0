"""The sets everybody has, IDX, CIFAR-10 and digits, give the images that were put into them."""

from __future__ import annotations

import gzip
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from ddpm.base.geometry import Geometry
from ddpm.data.sources import open_images
from ddpm.errors import InputError

PIXELS = np.random.default_rng(7).integers(0, 256, (6, 3, 9, 12), np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2])


def test_digits_are_1500_and_297_disjoint_images_of_17_levels():
    train, test = open_images("digits"), open_images("digits:test")
    assert (len(train), len(test)) == (1500, 297)
    assert train.geometry == test.geometry == Geometry(1, 8, 8)
    assert train.class_names == tuple("0123456789")
    names = [images.item_name(k) for images in (train, test) for k in range(len(images))]
    assert len(set(names)) == 1797
    levels = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    assert np.unique(np.concatenate([train.array(), test.array()])).tolist() == levels
    assert np.bincount(test.labels).min() >= 20  # both are drawn alike: no class is missing


def test_digits_are_those_of_scikit_learn_in_the_frozen_order():
    from sklearn.datasets import load_digits

    bunch, order = load_digits(), np.random.RandomState(0).permutation(1797)
    test = open_images("digits:test")
    assert (np.round(test.array()[:, 0] * 16.0 / 255) == bunch.images[order[1500:]]).all()
    assert (test.labels == bunch.target[order[1500:]]).all()


def test_fashion_mnist_is_read_from_its_idx_files(data_root):
    root = str(data_root / "fashion-mnist")
    train, test = open_images(root), open_images(f"{root}:test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.geometry == Geometry(1, 28, 28)
    assert np.bincount(train.labels).tolist() == [6000] * 10
    raw = gzip.decompress((data_root / "fashion-mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert test.array([0, 9_999]).tobytes() == raw[16 : 16 + 784] + raw[-784:]


def test_the_cifar_zip_is_read_with_slices(data_root):
    path = data_root / "cifar10-first4000.zip"
    train, test = open_images(f"{path}[0:3500]"), open_images(f"{path}[3500:4000]")
    assert (len(train), len(test), train.geometry) == (3500, 500, Geometry(3, 32, 32))
    assert train.fingerprint != test.fingerprint
    with zipfile.ZipFile(path) as archive:
        labels = dict(json.loads(archive.read("dataset.json"))["labels"])
        with archive.open(test.item_name(17)) as file:
            assert (test.read(17) == np.asarray(Image.open(file)).transpose(2, 0, 1)).all()
    assert labels[test.item_name(17)] == test.labels[17]


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-", "."])
def test_idx_files_are_read_packed_or_not(ending, dot, tmp_path):
    grey = PIXELS[:, 0]
    for name, head, body in (("t10k-images", [3, 6, 9, 12], grey), ("t10k-labels", [1, 6], LABELS.astype(np.uint8))):
        data = bytes([0, 0, 8, head[0]]) + np.array(head[1:], ">u4").tobytes() + body.tobytes()
        path = tmp_path / f"{name}{dot}idx{head[0]}-ubyte{ending}"
        path.write_bytes(gzip.compress(data) if ending else data)
    images = open_images(f"{tmp_path}:test")
    assert (images.array()[:, 0] == grey).all()
    assert (images.labels == LABELS).all()


@pytest.mark.parametrize("head", [(0, 0, 9, 3), (0, 1, 8, 3), (0, 0, 8, 2), (0, 0, 8, 4)])
def test_an_idx_file_of_something_else_is_refused(head, tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(bytes(head) + np.array([6, 9, 12], ">u4").tobytes() + bytes(648))
    with pytest.raises(InputError, match="train-images-idx3-ubyte"):
        open_images(str(tmp_path))


@pytest.mark.parametrize(("head", "said"), [((13, 3), "3-dimensional float32"), ((8, 1), "1-dimensional uint8")])
def test_an_idx_file_of_another_type_is_refused_with_it(head, said, tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, *head]) + bytes(660))
    with pytest.raises(InputError, match=rf"idx3-ubyte' holds {said}, by its header: it takes 3-dimensional uint8"):
        open_images(str(tmp_path))


def test_a_label_that_cifar_does_not_have_is_named(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073) + b"\x0b" + bytes(3072))
    with pytest.raises(InputError, match=r"test_batch\.bin' is damaged.*record 1 has the label 11, .* 0 to 9"):
        open_images(f"{tmp_path}:test")


@pytest.mark.parametrize(
    ("meta", "names"),
    [
        (b"a b c d e f g h i \xff", tuple("abcdefghi\ufffd")),
        (b"a b c d e f g h i i", tuple("0123456789")),
        (b"a b c", tuple("0123456789")),
    ],
)
def test_names_of_cifar_are_taken_if_they_are_ten_different_ones(meta, names, tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(b"".join(bytes([k]) + bytes(3072) for k in range(10)))
    (tmp_path / "batches.meta.txt").write_bytes(meta)
    assert open_images(str(tmp_path)).class_names == names
    (tmp_path / "batches.meta.txt").write_bytes(bytes(2**16 + 1))
    with pytest.raises(InputError, match=r"batches\.meta\.txt' has 65,537 bytes"):
        open_images(str(tmp_path))


def test_cifar_is_read_in_its_binary_version_and_not_unpickled(tmp_path):
    planes = np.random.default_rng(1).integers(0, 256, (4, 3, 32, 32), np.uint8)
    records = b"".join(bytes([k]) + image.tobytes() for k, image in enumerate(planes))
    (tmp_path / "data_batch_1.bin").write_bytes(records)
    (tmp_path / "batches.meta.txt").write_text("a b c d e f g h i j\n")
    images = open_images(str(tmp_path))
    assert (images.array() == planes).all()
    assert (images.labels.tolist(), images.class_names) == ([0, 1, 2, 3], tuple("abcd"))
    (tmp_path / "data_batch_1.bin").rename(tmp_path / "data_batch_1")
    with pytest.raises(InputError, match="binary version"):
        open_images(str(tmp_path))
