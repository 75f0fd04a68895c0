"""A lossless file is the image, whatever the image; a lossy one keeps to its size; each is the sum of its parts."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from codecs_of_tests import Pixels, decoded, header_bytes
from PIL import Image

from ddpm.codec import encode as encoding
from ddpm.codec.codec_data import Codec
from ddpm.codec.container import MOST_PIXELS, MOST_SIDE, Cursor, read_header
from ddpm.codec.decode import DAMAGED, LOSSLESS, LOSSY, decode, open_file
from ddpm.codec.encode import Encoded, encode, stored
from ddpm.codec.progressive import Chain
from ddpm.codec.tiles import bits_of
from ddpm.codec.to_files import compress_all
from ddpm.errors import InputError

DRAW = np.random.default_rng(5)


def ramp(height: int, width: int) -> Pixels:
    rows, columns = np.indices((height, width))
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256]).astype(np.uint8)


def checkers(height: int, width: int) -> Pixels:
    one = (np.indices((height, width)).sum(0) % 2 * 255).astype(np.uint8)
    return np.stack([one, one, 255 - one])


IMAGES = {
    "black and white": np.repeat(np.array([[[0, 255]]], np.uint8), 16, axis=2).repeat(32, axis=1).repeat(3, axis=0),
    "one colour": np.tile(np.array([200, 3, 77], np.uint8)[:, None, None], (1, 20, 30)),
    "noise": DRAW.integers(0, 256, (3, 32, 32), dtype=np.uint8),
    "checkers": checkers(32, 32),
    "one pixel": np.array([[[1]], [[2]], [[3]]], np.uint8),
    "a column": ramp(27, 1),
    "a row": ramp(1, 25),
    "odd sides": ramp(33, 21),
    "grey, odd sides": ramp(9, 31)[1:2],
}


def png_bytes(image: Pixels) -> int:
    file = io.BytesIO()
    array = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(array)).save(file, format="PNG", optimize=True)
    return file.getbuffer().nbytes


@pytest.fixture(scope="module")
def files(linear: Codec) -> dict[str, bytes]:
    """All of them, compressed together."""
    made = compress_all(linear, list(IMAGES.values()), [None] * len(IMAGES), verify=False)
    return {name: one.data for name, one in zip(IMAGES, made, strict=True)}


@pytest.mark.parametrize("name", IMAGES)
def test_lossless_file_is_the_image_in_its_own_mode(name: str, linear: Codec, files: dict[str, bytes]):
    found = decoded(linear, [files[name]])[0]
    assert found.status == LOSSLESS
    assert found.image is not None
    assert found.image.dtype == np.uint8
    assert found.image.shape == IMAGES[name].shape
    assert (found.image == IMAGES[name]).all()


@pytest.mark.parametrize("name", IMAGES)
def test_file_is_never_larger_than_png_by_more_than_the_header(name: str, linear: Codec, files: dict[str, bytes]):
    rest = 4 + 3  # the layer's checksum, and its length of at most 3 bytes here
    assert len(files[name]) <= png_bytes(IMAGES[name]) + header_bytes(files[name]) + rest


def test_noise_is_stored_as_png_and_a_photograph_is_not(linear: Codec, files, coded: list[Encoded]):
    assert open_file(linear, files["noise"]).packet.header.stored
    assert not any(open_file(linear, one.data).packet.header.stored or one.stored for one in coded)


def test_photographs_round_trip_together_and_alone_to_the_same_bytes(
    linear: Codec, crops: list[Pixels], coded: list[Encoded]
):
    assert [encode(linear, [crop])[0].data for crop in crops[:2]] == [one.data for one in coded[:2]]
    for crop, one in zip(crops, decoded(linear, [one.data for one in coded]), strict=True):
        assert one.status == LOSSLESS
        assert (one.image == crop).all()


@pytest.fixture(scope="module")
def large(photograph: Pixels) -> Pixels:
    """2 x 2 tiles, the last of them narrow and low."""
    return photograph[:, 100:150, 200:250]


@pytest.fixture(scope="module")
def large_coded(linear: Codec, large: Pixels) -> Encoded:
    return encode(linear, [large], batch_size=3)[0]


def test_large_odd_photograph_round_trips_by_tiles(linear: Codec, large: Pixels, large_coded: Encoded):
    found = decoded(linear, [large_coded.data], batch_size=2)[0]
    assert found.status == LOSSLESS
    assert (found.image == large).all()


def test_sizes_are_what_the_layers_add_up_to(
    linear: Codec, crops: list[Pixels], coded: list[Encoded], large: Pixels, large_coded: Encoded
):
    for image, one in zip([*crops, large], [*coded, large_coded], strict=True):
        packet = open_file(linear, one.data).packet
        tiles = -(-image.shape[1] // 32) * -(-image.shape[2] // 32)
        assert one.index_bits == tiles * sum(linear.chain.bits) == len(packet.bits)
        progressive = -(-one.index_bits // 8) + 2
        assert len(one.data) == header_bytes(one.data) + progressive + 4 + 2 + one.residual_bytes
        assert one.residual_bytes <= 1.005 * one.ideal_bytes + 8
        assert one.residual_bytes >= one.ideal_bytes - 1


def test_index_bits_deliver_their_divergence(linear: Codec, coded: list[Encoded]):
    long = np.array(linear.chain.bits) >= 32
    paid = len(coded) * np.array(linear.chain.bits)[long].sum()
    delivered = sum(np.array(one.delivered)[long].sum() for one in coded)
    assert paid / delivered <= 1.20
    assert paid / delivered >= 1.0  # no code delivers more than it costs, on average


def test_linear_codec_reaches_its_quality_at_117_bytes(linear: Codec, crops: list[Pixels], coded: list[Encoded]):
    """A guard on all of the chain at once; measured 31.18 dB."""
    found = decoded(linear, [one.data for one in coded], most_bytes=117)
    errors = [((one.image.astype(float) - crop) ** 2).mean() for one, crop in zip(found, crops, strict=True)]
    assert float(np.mean(10 * np.log10(255**2 / np.array(errors)))) >= QUALITY


QUALITY = 30.9


@pytest.mark.parametrize("limit", [20, 21, 57, 200, 10**6])
def test_lossy_file_keeps_to_its_bytes_and_uses_them(limit: int, linear: Codec, photograph: Pixels):
    image = photograph[:, :32, :64].copy()  # two tiles
    one = encode(linear, [image], most_bytes=[limit])[0]
    packet = open_file(linear, one.data).packet
    assert len(one.data) <= limit
    assert not packet.header.lossless
    units = packet.header.units
    assert units is not None
    assert one.index_bits == bits_of(linear.chain.bits, 2, units)
    if limit < 10**6:
        another = bits_of(linear.chain.bits, 2, units + 1)
        assert len(one.data) + (another - one.index_bits) // 8 >= limit - 1
    assert decoded(linear, [one.data])[0].status == LOSSY


def test_lossy_files_never_fall_back(linear: Codec):
    one = encode(linear, [IMAGES["noise"]], most_bytes=[10**6])[0]
    assert not one.stored
    assert decoded(linear, [one.data])[0].status == LOSSY


def test_too_few_bytes_are_refused_with_what_would_fit(linear: Codec, crops: list[Pixels]):
    with pytest.raises(InputError, match=r"15 bytes .* 16"):
        encode(linear, crops[:1], most_bytes=[15])
    assert len(encode(linear, crops[:1], most_bytes=[16])[0].data) == 16


def test_guess_near_a_rounding_boundary_takes_another_seed(
    linear: Codec, photograph: Pixels, large_coded: Encoded, monkeypatch: pytest.MonkeyPatch
):
    assert large_coded.reseeded == 0
    image = photograph[:, 180:212, 420:484].copy()  # two tiles
    monkeypatch.setattr(encoding, "MARGIN", 3e-4)  # eight of ten tiles have a guess as near as that
    moved = encode(linear, [image])[0]
    assert moved.reseeded > 0
    header = read_header(Cursor(moved.data))
    assert len(header.seeds) == moved.reseeded
    found = decoded(linear, [moved.data])[0]
    assert found.status == LOSSLESS
    assert (found.image == image).all()
    monkeypatch.setattr(encoding, "MARGIN", 0.6)  # no seed can keep that
    monkeypatch.setattr(encoding, "MOST_SEEDS", 2)
    assert encode(linear, [image[:, :, :32]])[0].stored


def test_stored_image_must_be_the_one_its_header_tells_of(linear: Codec, crops: list[Pixels]):
    data = stored(linear, crops[0]).data
    other = stored(linear, crops[1][:, :16]).data
    mixed = data[: len(data) - len(other) + 20] + other[20:]
    for broken in (data[:-1], data[:-30] + bytes(30), mixed):
        found = decoded(linear, [broken])[0] if len(broken) else None
        assert found is not None
        assert found.status == DAMAGED
        assert found.image is None


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((2, 8, 8), np.uint8), "grey .1. or RGB"),
        (np.zeros((4, 8, 8), np.uint8), "grey .1. or RGB"),
        (np.zeros((8, 8), np.uint8), "grey .1. or RGB"),
        (np.zeros((3, 8, 8), np.float32), "float32"),
        (np.zeros((3, 0, 8), np.uint8), f"0 x 8 pixels.* {MOST_PIXELS:,}"),
        (np.zeros((1, 5000, 5000), np.uint8), f"5000 x 5000 pixels.* {MOST_PIXELS:,}"),
        (np.zeros((1, 1, 70_000), np.uint8), f"1 x 70000 pixels.*side.* {MOST_SIDE:,}"),
        (np.zeros((1, 70_000, 1), np.uint8), f"70000 x 1 pixels.*side.* {MOST_SIDE:,}"),
    ],
)
def test_what_no_file_holds_is_refused(image: Pixels, words: str, linear: Codec):
    with pytest.raises(InputError, match=words):
        encode(linear, [image])


def test_a_device_holds_the_states_of_one_batch(linear: Codec, large_coded: Encoded, monkeypatch: pytest.MonkeyPatch):
    """Of four tiles, two at a time, first states and then clean images are fetched batch by batch."""
    fetched, plain = [], torch.Tensor.cpu

    def cpu(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.float64:
            fetched.append(tuple(tensor.shape))
        return plain(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    decoded(linear, [large_coded.data], batch_size=2)
    assert fetched == [(2, 3, 32, 32)] * 4


def test_tiles_that_memory_does_not_hold_are_refused_both_ways(
    linear: Codec, crops: list[Pixels], coded: list[Encoded], monkeypatch: pytest.MonkeyPatch
):
    def full(*given: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Chain, "x0", full)
    said = r"7 images at a time .*smaller batch size"
    with pytest.raises(InputError, match=said):
        encode(linear, crops[:1], batch_size=7)
    with pytest.raises(InputError, match=said):
        decode(linear, [open_file(linear, coded[0].data)], batch_size=7)
