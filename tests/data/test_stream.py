"""The stream is a pure function of (seed, position), fair, and leaves no thread behind."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm.data import stream as stream_module
from ddpm.data.sources import open_images
from ddpm.data.stream import Batch, Reader, batches, stream_coins, stream_indices
from ddpm.errors import InputError


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Twenty-three images, each told apart by its levels."""
    path = tmp_path_factory.mktemp("stream") / "small.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (23, 5, 6, 3), np.uint8)
    np.savez(path, images=pixels, labels=np.arange(23) % 5)
    return open_images(str(path))


def taken(images, count: int, **options) -> list[Batch]:
    stream = batches(images, **options)
    found = list(itertools.islice(stream, count))
    stream.close()
    return found


def stream_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ddpm-batches")]


@settings(max_examples=25)
@given(position=st.integers(0, 200), batch_size=st.integers(1, 60), seed=st.integers(0, 2**40), flip=st.booleans())
def test_images_do_not_depend_on_the_batch_size_or_the_start(small, position, batch_size, seed, flip):
    """From any position in any batch size come the same images as one by one from 0."""
    batch = taken(small, 2, seed=seed, position=position, batch_size=batch_size, flip=flip)[1]
    numbers = np.arange(position + batch_size, position + 2 * batch_size)
    assert batch.position == numbers[0]
    assert (batch.indices == stream_indices(23, seed, numbers)).all()
    for row, index, mirrored in zip(batch.images, batch.indices, stream_coins(seed, numbers), strict=True):
        image = small.read(int(index))
        assert (row.numpy() == (image[:, :, ::-1] if mirrored and flip else image)).all()


def test_one_stream_equals_the_same_stream_entered_later(small):
    options = {"seed": 3, "batch_size": 7, "flip": True}
    whole = taken(small, 9, position=0, **options)
    rest = taken(small, 4, position=35, **options)
    for one, other in zip(whole[5:], rest, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_a_batch_says_what_it_is(small):
    batch = taken(small, 1, seed=0, position=10, batch_size=40, flip=False)[0]
    assert (batch.images.dtype, tuple(batch.images.shape)) == (torch.uint8, (40, 3, 5, 6))
    assert (batch.labels.dtype, tuple(batch.labels.shape)) == (torch.int64, (40,))
    assert (batch.labels.numpy() == small.labels[batch.indices]).all()
    assert batch.position == 10


def test_without_classes_there_are_no_labels(folder, noise):
    images = open_images(folder({"a.png": noise(0), "b.png": noise(1)}))
    assert taken(images, 1, seed=0, position=0, batch_size=3, flip=False)[0].labels is None


@given(count=st.integers(1, 50), epoch=st.integers(0, 9), seed=st.integers(0, 99))
def test_each_epoch_visits_each_image_once(count, epoch, seed):
    indices = stream_indices(count, seed, np.arange(epoch * count, (epoch + 1) * count))
    assert sorted(indices) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [tuple(stream_indices(50, seed, np.arange(50) + 50 * epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_flips_are_fair_and_belong_to_the_position():
    """Of 40,000 fair coins 20,000 fall heads, give or take 100 (one standard deviation); 5 of them are allowed."""
    coins = stream_coins(11, np.arange(40_000))
    assert abs(int(coins.sum()) - 20_000) < 500
    assert abs(int((coins[1:] == coins[:-1]).sum()) - 20_000) < 500
    assert (stream_coins(11, np.arange(30_000, 30_100)) == coins[30_000:30_100]).all()
    assert (stream_coins(12, np.arange(40_000)) != coins).any()


def test_without_flip_images_come_as_they_are(small):
    for batch in taken(small, 3, seed=0, position=0, batch_size=23, flip=False):
        assert (batch.images.numpy() == small.array(batch.indices.tolist())).all()


def test_a_set_too_large_to_keep_gives_the_same_stream(small, monkeypatch):
    options = {"seed": 5, "position": 0, "batch_size": 9, "flip": True}
    kept = taken(small, 6, **options)
    monkeypatch.setattr(stream_module, "KEPT_BYTES", 0)
    for one, other in zip(kept, taken(small, 6, **options), strict=True):
        assert torch.equal(one.images, other.images)


def test_a_small_set_is_decoded_once(folder, noise, monkeypatch):
    images = open_images(folder({f"{k}.png": noise(k) for k in range(5)}))
    decoded = []
    image = type(images.items).image
    monkeypatch.setattr(type(images.items), "image", lambda *args: decoded.append(args[1]) or image(*args))
    taken(images, 20, seed=0, position=0, batch_size=4, flip=True)
    assert sorted(decoded) == [0, 1, 2, 3, 4]


def test_changing_a_batch_changes_no_later_one(small):
    stream = batches(small, seed=0, position=0, batch_size=23, flip=False)
    for batch in itertools.islice(stream, 4):
        assert (batch.images.numpy() == small.array(batch.indices.tolist())).all()
        batch.images.zero_()
    stream.close()


def test_closing_the_stream_stops_its_thread(small):
    stream = batches(small, seed=0, position=0, batch_size=4, flip=True)
    next(stream)
    assert len(stream_threads()) == 1
    stream.close()
    assert stream_threads() == []


def test_dropping_the_stream_stops_its_thread(small):
    for _ in batches(small, seed=0, position=0, batch_size=4, flip=True):
        break
    deadline = time.monotonic() + 5
    while stream_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stream_threads() == []


def test_a_stream_never_started_has_no_thread(small):
    batches(small, seed=0, position=0, batch_size=4, flip=True).close()
    assert stream_threads() == []


def test_a_file_that_vanishes_later_reaches_the_consumer_by_name(folder, noise):
    source = folder({f"{k}.png": noise(k) for k in range(4)})
    images = open_images(source)
    for k in range(4):
        (images.items.folder / f"{k}.png").unlink()
    stream = batches(images, seed=0, position=0, batch_size=1, flip=False)
    with pytest.raises(InputError, match=r"\d\.png in .*No such file"):
        next(stream)
    assert stream_threads() == []


def test_any_exception_on_the_thread_reaches_the_consumer(small, monkeypatch):
    def broken(self, indices):
        raise ZeroDivisionError("on the thread")

    monkeypatch.setattr(stream_module.Reader, "read", broken)
    with pytest.raises(ZeroDivisionError, match="on the thread"):
        next(batches(small, seed=0, position=0, batch_size=1, flip=False))


@pytest.mark.parametrize(("position", "batch_size"), [(0, 0), (-1, 4)])
def test_impossible_batches_are_refused_at_once(small, position, batch_size):
    with pytest.raises(InputError, match=f"{batch_size} at position {position}"):
        batches(small, seed=0, position=position, batch_size=batch_size, flip=False)


# ---- some rows of a set ---------------------------------------------------------------------------------------------


ROWS = np.array([7, 3, 22, 3, 0])


@pytest.mark.parametrize("kept_bytes", [0, 2**30], ids=["read each time", "kept"])
@pytest.mark.parametrize("rows", [None, ROWS, np.array([5])], ids=["all", "some", "one"])
def test_a_reader_of_rows_reads_those_images_in_their_order(small, monkeypatch, rows, kept_bytes):
    monkeypatch.setattr(stream_module, "KEPT_BYTES", kept_bytes)
    whole = small.array()
    expected = whole if rows is None else whole[rows]
    reader = Reader(small, rows)
    assert len(reader) == len(expected)
    assert reader.shape == (3, 5, 6)
    assert (reader.kept is None) == (kept_bytes == 0)
    for indices in (np.arange(len(expected)), np.zeros(3, int), np.arange(len(expected))[::-1], np.arange(0)):
        assert (reader.read(indices) == expected[indices]).all()


def test_what_a_reader_hands_out_is_the_callers_to_change(small):
    reader = Reader(small, ROWS)
    reader.read(np.arange(5))[:] = 0
    assert (reader.read(np.arange(5)) == small.array()[ROWS]).all()


def test_a_reader_of_rows_decodes_only_those_and_each_once(folder, noise, monkeypatch):
    images = open_images(folder({f"{k}.png": noise(k) for k in range(6)}))
    decoded = []
    image = type(images.items).image
    monkeypatch.setattr(type(images.items), "image", lambda *args: decoded.append(args[1]) or image(*args))
    reader = Reader(images, np.array([4, 1, 5]))
    for indices in ([0], [2, 0, 2], [1, 1], [0, 1, 2]):
        reader.read(np.array(indices))
    assert decoded == [4, 5, 1]


def test_a_set_too_large_to_keep_may_have_few_rows_that_are_kept(small, monkeypatch):
    monkeypatch.setattr(stream_module, "KEPT_BYTES", 5 * 3 * 5 * 6)
    assert Reader(small).kept is None
    assert Reader(small, ROWS).kept is not None
