"""Models that know classes: the encoder chooses one, the header names it, and both sides ask the network for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from codecs_of_tests import Pixels, decoded, header_bytes

import ddpm
from ddpm.codec import encode as module
from ddpm.codec.codec_data import Codec, make_codec, read_codec_data
from ddpm.codec.container import CLASS, LOSSLESS, Cursor, read_header
from ddpm.codec.decode import DAMAGED
from ddpm.codec.decode import LOSSLESS as EXACT
from ddpm.codec.decode import LOSSY as WHOLE
from ddpm.codec.encode import choose_label, encode
from ddpm.codec.progressive import Chain
from ddpm.codec.randomness import CHOICE, UNIT, normals
from ddpm.codec.tiles import cut
from ddpm.errors import DamagedFile, InputError

TINY = {
    "train_images": 160,
    "batch_size": 16,
    "learning_rate": 1e-2,
    "device": "cpu",
    "process": {"steps": 12},
    "network": {"channels": 8, "groups": 4, "classes": 10},
}


def codec_of(folder, label_dropout: float) -> Codec:
    training = {"warmup_images": 0, "label_dropout": label_dropout}
    model = ddpm.load(ddpm.train(ddpm.recipe("digits", training=training, **TINY), out=folder, progress=False))
    ddpm.tune_codec(model, "digits:train[0:200]", fit_steps=10, progress=False)
    made = read_codec_data(model)
    assert made is not None
    return make_codec(model, made)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """Ten classes, 1 x 8 x 8."""
    return codec_of(tmp_path_factory.mktemp("classes") / "run", 0.0)


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """The same, also learned without classes."""
    return codec_of(tmp_path_factory.mktemp("guided") / "run", 0.2)


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    """Three digits, and one of 2 x 2 tiles."""
    test = ddpm.images("digits:test")
    return [*test.array([0, 1, 2]), np.tile(test[3], (1, 2, 2))[:, :13, :11].copy()]


def test_file_names_a_class_and_comes_back(classes: Codec, images: list[Pixels]):
    found = encode(classes, images)
    for image, one, back in zip(images, found, decoded(classes, [one.data for one in found]), strict=True):
        header = read_header(Cursor(one.data))
        assert one.stored or header.flags & CLASS
        assert one.stored or header.label == choose_label(classes, cut(image, (8, 8)), 5)
        assert back.status == EXACT
        assert (back.image == image).all()
    assert not all(one.stored for one in found)
    assert len({read_header(Cursor(one.data)).label for one in found}) > 1


@pytest.mark.parametrize("chosen", [0, 3, 9])
def test_class_is_the_one_whose_network_sees_the_image_best(
    chosen: int, classes: Codec, images: list[Pixels], monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def seen(chain: Chain, x: torch.Tensor, number: int, labels: torch.Tensor | None = None) -> torch.Tensor:
        assert labels is not None
        asked.append((x, number, labels.tolist()))
        return x * 0 + (labels - chosen).reshape(-1, 1, 1, 1)

    monkeypatch.setattr(Chain, "x0", seen)
    tiles = np.full((6, 1, 8, 8), 127.5).astype(np.uint8)  # grey 127 is about 0
    assert choose_label(classes, tiles, 8) == chosen
    assert {len(x) for x, _, _ in asked} == {8}
    every = [label for _, _, labels in asked for label in labels]
    assert every == [label for label in range(10) for _ in range(4)]  # four tiles are looked at
    number = len(classes.chain.steps) // 2
    schedule = classes.chain.denoiser.process.schedule
    level = classes.chain.levels[number]
    noise = normals(CHOICE, count=4 * 64).reshape(4, 1, 8, 8) * UNIT
    state = schedule.signal[level] * (127 / 127.5 - 1) + schedule.sigma[level] * noise
    for x, asked_number, _ in asked:
        assert asked_number == number
        assert np.abs(x.numpy().reshape(-1, *state.shape) - state).max() < 1e-12


def test_memory_that_the_class_is_looked_for_in_is_guarded(
    classes: Codec, images: list[Pixels], monkeypatch: pytest.MonkeyPatch
):
    def full(codec: Codec, tiles: Pixels, batch_size: int) -> int:
        assert batch_size == 7
        raise torch.OutOfMemoryError

    monkeypatch.setattr(module, "choose_label", full)
    with pytest.raises(InputError, match=r"7 images at a time .*smaller batch size"):
        encode(classes, images, batch_size=7)


def test_class_in_the_header_is_what_the_network_is_asked_for(classes: Codec, images: list[Pixels]):
    """A file with another class is another image: the lossless layer notices, the lossy one cannot."""
    for limit in (None, 10**4):
        data = next(
            one.data
            for one in encode(classes, images[:3], most_bytes=None if limit is None else [limit] * 3)
            if not one.stored
        )
        header = read_header(Cursor(data))
        other = replace(header, label=(header.label + 1) % 10).pack() + data[header_bytes(data) :]
        one, back = decoded(classes, [data, other])
        assert back.status == (DAMAGED if limit is None else WHOLE)
        assert one.status == (EXACT if limit is None else WHOLE)
        assert (one.image != back.image).any()


def test_classes_out_of_range_or_missing_are_damage(classes: Codec, guided: Codec, images: list[Pixels]):
    for codec, changes in (
        (classes, {"label": 10}),
        (classes, {"flags": LOSSLESS}),
        (guided, {"flags": LOSSLESS | CLASS, "label": 3}),
    ):
        data = next(one.data for one in encode(codec, images) if not one.stored)
        header = replace(read_header(Cursor(data)), **changes)
        with pytest.raises(DamagedFile, match="class"):
            decoded(codec, [header.pack() + data[header_bytes(data) :]])


def test_model_that_learned_without_classes_is_asked_without_one(
    guided: Codec, images: list[Pixels], monkeypatch: pytest.MonkeyPatch
):
    asked, plain = set(), Chain.x0

    def noted(chain: Chain, x: torch.Tensor, number: int, labels: torch.Tensor | None = None) -> torch.Tensor:
        assert labels is not None
        asked.update(labels.tolist())
        return plain(chain, x, number, labels)

    monkeypatch.setattr(Chain, "x0", noted)
    found = encode(guided, images)
    for image, one, back in zip(images, found, decoded(guided, [one.data for one in found]), strict=True):
        assert read_header(Cursor(one.data)).label is None
        assert back.status == EXACT
        assert (back.image == image).all()
    assert asked == {10}


def test_labels_are_those_of_the_network(classes: Codec, guided: Codec, linear: Codec):
    found = classes.labels([3, 0, 9])
    assert found is not None
    assert found.tolist() == [3, 0, 9]
    free = guided.labels([None, 2])
    assert free is not None
    assert free.tolist() == [10, 2]
    assert linear.labels([None, None]) is None
