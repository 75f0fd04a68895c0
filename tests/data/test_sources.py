"""Zips and folders give the images that were put into them; every problem is one sentence that names it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.base.geometry import Geometry
from ddpm.data.sizing import FITS
from ddpm.data.sources import ON_BAD_IMAGE, open_images
from ddpm.errors import InputError

PIXELS = np.random.default_rng(7).integers(0, 256, (6, 3, 9, 12), np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2])


def write_zip(path: Path, index: object, encoded, *, pixels=PIXELS) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(pixels):
            archive.writestr(f"00000/img{number}.png", encoded(Image.fromarray(image.transpose(1, 2, 0))))
        archive.writestr("00000/readme.txt", "no image")
        if index is not None:
            archive.writestr("dataset.json", index if isinstance(index, str) else json.dumps(index))
    return str(path)


def pairs(labels=LABELS) -> list[list[object]]:
    return [[f"00000/img{number}.png", int(label)] for number, label in enumerate(labels)]


# ---- zips and folders -----------------------------------------------------------------------------------------------


def test_a_zip_gives_its_images_and_labels(tmp_path, encoded):
    images = open_images(write_zip(tmp_path / "set.zip", {"labels": pairs()}, encoded))
    assert (images.array() == PIXELS).all()
    assert (images.labels == LABELS).all()
    assert images.class_names == ("0", "1", "2")


@pytest.mark.parametrize("index", [None, {"labels": None}, {}])
def test_a_zip_without_labels_has_no_classes(index, tmp_path, encoded):
    images = open_images(write_zip(tmp_path / "set.zip", index, encoded))
    assert (images.labels, images.class_names) == (None, ())


@pytest.mark.parametrize(
    "index",
    [
        "{",
        {"labels": pairs()[:5]},
        {"labels": 7},
        {"labels": [["00000/img0.png", [0.5]]]},
        {"labels": pairs(LABELS - 1)},
    ],
)
def test_a_zip_with_unfit_labels_is_refused(index, tmp_path, encoded):
    with pytest.raises(InputError, match=r"dataset\.json"):
        open_images(write_zip(tmp_path / "set.zip", index, encoded))


def test_the_first_level_of_folders_gives_the_classes(folder, noise):
    images = open_images(folder({"dog/2.png": noise(0), "cat/deep/1.png": noise(1), "cat/9.PNG": noise(2)}))
    assert images.class_names == ("cat", "dog")
    assert [images.item_name(k) for k in range(3)] == ["cat/9.PNG", "cat/deep/1.png", "dog/2.png"]
    assert images.labels.tolist() == [0, 0, 1]
    assert (images.read(2) == np.asarray(noise(0)).transpose(2, 0, 1)).all()


def test_an_image_outside_the_folders_means_no_classes(folder, noise):
    images = open_images(folder({"dog/2.png": noise(0), "1.png": noise(1)}))
    assert (images.labels, images.class_names) == (None, ())


def test_links_to_folders_are_followed_but_not_in_a_circle(folder, noise):
    source = Path(folder({"a/1.png": noise(0)}))
    elsewhere = Path(folder({"2.png": noise(1)}, name="elsewhere"))
    (source / "b").symlink_to(elsewhere)
    (source / "a" / "up").symlink_to(source)
    images = open_images(str(source))
    assert [images.item_name(k) for k in range(len(images))] == ["a/1.png", "b/2.png"]


def test_fingerprints_follow_the_content_and_the_rule(folder, noise, tmp_path):
    source = folder({"a.png": noise(0), "b.png": noise(1)})
    same = open_images(source).fingerprint
    assert same == open_images(source).fingerprint
    others = [
        open_images(f"{source}[0:1]"),
        open_images(source, channels=4),
        *(open_images(source, size=(8, 8), fit=f) for f in FITS),
    ]
    (Path(source) / "a.png").write_bytes((Path(source) / "a.png").read_bytes() + b"longer")
    others.append(open_images(source))
    for name, pixels, labels in (("1", PIXELS, LABELS), ("2", PIXELS ^ 1, LABELS), ("3", PIXELS, 2 - LABELS)):
        np.savez(tmp_path / f"{name}.npz", images=pixels, labels=labels)
        others.append(open_images(str(tmp_path / f"{name}.npz")))
    assert len({same, *(images.fingerprint for images in others)}) == 1 + len(others)


# ---- one geometry ---------------------------------------------------------------------------------------------------


def test_mixed_sizes_name_two_files_and_the_option(folder, noise):
    source = folder(
        {"a.png": noise(0, size=(20, 30)), "b.png": noise(1, size=(20, 30)), "c.png": noise(2, size=(17, 40))}
    )
    with pytest.raises(InputError, match=r"a\.png .*20x30 .*c\.png .*17x40 .*--size 16"):
        open_images(source)
    for fit in FITS:
        assert open_images(source, size=(16, 24), fit=fit).array().shape == (3, 3, 16, 24)


def test_a_size_applies_to_arrays_too(tmp_path):
    np.save(tmp_path / "set.npy", np.full((3, 1, 12, 20), 77, np.uint8))
    images = open_images(str(tmp_path / "set.npy"), size=(6, 5))
    assert images.array().shape == (3, 1, 6, 5)
    assert (images.array() == 77).all()


MIXTURES = [
    (("L",), 1),
    (("L", "RGB"), 3),
    (("L", "LA"), 2),
    (("LA", "RGB"), 4),
    (("RGB", "RGBA"), 4),
    (("1", "I;16"), 1),
    (("P", "L"), 3),
]


@pytest.mark.parametrize(("modes", "channels"), MIXTURES)
def test_a_set_takes_the_poorest_mode_that_loses_nothing(modes, channels, folder):
    source = folder({f"{k}.png": Image.new(mode, (4, 4)) for k, mode in enumerate(modes)})
    images = open_images(source, alpha="keep")
    assert images.geometry == Geometry(channels, 4, 4)
    assert images.array().shape == (len(modes), channels, 4, 4)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_may_be_dropped_only_where_nothing_is_lost(channels, folder, noise):
    grey = noise(0, "L").convert("RGBA")
    assert (open_images(folder({"a.png": grey}), channels=channels).read(0)[0] == np.asarray(grey)[:, :, 0]).all()
    source = folder({"a.png": grey, "wild.png": noise(0, "RGBA")}, name="wild")
    if channels == 4:
        assert open_images(source, channels=4).geometry.channels == 4
    else:
        lost = "colour" if channels < 3 else "transparency"
        with pytest.raises(InputError, match=rf"{lost} of wild\.png .*: choose 4"):
            open_images(source, channels=channels)


def test_colour_of_an_array_is_not_dropped_either(tmp_path):
    np.save(tmp_path / "set.npy", PIXELS)
    with pytest.raises(InputError, match=r"colour of .*set\.npy"):
        open_images(str(tmp_path / "set.npy"), channels=1)


@pytest.mark.parametrize("wrong", [{"size": (0, 8)}, {"fit": "stretch"}, {"channels": 5}, {"on_bad_image": "ignore"}])
def test_an_unknown_choice_is_refused_with_those_there_are(wrong):
    (name,) = wrong
    offered = {"size": "0x8", "fit": "crop.*resize", "channels": "3 RGB", "on_bad_image": "stop.*skip"}
    with pytest.raises(InputError, match=offered[name]):
        open_images("digits", **wrong)


# ---- bad images -----------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(noise, encoded) -> dict[str, object]:
    good = encoded(noise(0, size=(40, 40)))
    bad = {
        "b_empty.png": b"",
        "c_cut.png": good[:1000],
        "d_text.jpg": b"not an image",
        "e_cut.jpg": encoded(noise(1), "jpeg")[:-90],
    }
    return {"a.png": good, **bad, "z.png": noise(2, size=(40, 40))}


@pytest.mark.parametrize("on_bad_image", ON_BAD_IMAGE)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_bad_images_are_named_and_stop_or_are_left_out(on_bad_image, kind, broken, folder, encoded, tmp_path):
    if kind == "folder":
        source = folder(broken)
    else:
        source = str(tmp_path / "set.zip")
        with zipfile.ZipFile(source, "w") as archive:
            for name, content in broken.items():
                archive.writestr(name, content if isinstance(content, bytes) else encoded(content))
    said = r"4 of 6 .*: b_empty\.png \(zero bytes\), c_cut\.png \(truncated\), d_text\.jpg .* 1 more"
    if on_bad_image == "stop":
        with pytest.raises(InputError, match=said + r'.*on_bad_image = "skip"'):
            open_images(source, on_bad_image=on_bad_image)
        return
    with pytest.warns(UserWarning, match=said):
        images = open_images(source, on_bad_image=on_bad_image)
    assert [images.item_name(k) for k in range(len(images))] == ["a.png", "z.png"]
    assert images.array().shape == (2, 3, 40, 40)


def test_labels_stay_with_their_images_when_bad_ones_are_left_out(folder, noise):
    with pytest.warns(UserWarning, match="1 of 3"):
        images = open_images(folder({"a/1.png": b"", "a/2.png": noise(0), "b/1.png": noise(1)}), on_bad_image="skip")
    assert images.labels.tolist() == [0, 1]


def test_a_set_of_bad_images_only_is_refused_even_when_they_are_skipped(folder):
    with pytest.raises(InputError, match="2 of 2"):
        open_images(folder({"a.png": b"", "b.png": b"x"}), on_bad_image="skip")


def test_a_link_to_nowhere_is_a_bad_image(folder, noise):
    source = folder({"a.png": noise(0)})
    (Path(source) / "b.png").symlink_to("gone.png")
    with pytest.raises(InputError, match=r"b\.png \(No such file or directory"):
        open_images(source)


def test_an_encrypted_zip_is_refused_once_with_what_to_do(tmp_path, encoded):
    path = Path(write_zip(tmp_path / "set.zip", None, encoded))
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        start = data.find(signature)
        while start >= 0:
            data[start + place] |= 1
            start = data.find(signature, start + 1)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"set\.zip' is encrypted \(00000/img0\.png, .* and 4 more\): unpack it first"):
        open_images(str(path))


def test_a_damaged_entry_of_a_zip_is_a_bad_image(tmp_path, encoded):
    path = Path(write_zip(tmp_path / "set.zip", None, encoded))
    data = bytearray(path.read_bytes())
    data[200] ^= 255  # inside the first image, stored without compression
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"1 of 6 images .*img0\.png \(damaged in the zip"):
        open_images(str(path))
