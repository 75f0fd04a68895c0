"""A lossless file is the picture, whatever the picture; a lossy one keeps to its size; each is the sum of its parts."""

from __future__ import annotations

import io

import numpy as np
import pytest
from codecs_of_tests import Pixels
from ddpm.codec.interface import compress_all
from PIL import Image

from ddpm.codec import encode as encoding
from ddpm.codec.codec_data import Codec
from ddpm.codec.container import Cursor, read_header
from ddpm.codec.decode import DAMAGED, LOSSLESS, LOSSY, decode, open_packet
from ddpm.codec.encode import encode, stored
from ddpm.codec.tiles import bits_of
from ddpm.errors import InputError

DRAW = np.random.default_rng(5)


def ramp(height: int, width: int) -> Pixels:
    rows, columns = np.indices((height, width))
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256]).astype(np.uint8)


def checkers(height: int, width: int) -> Pixels:
    one = (np.indices((height, width)).sum(0) % 2 * 255).astype(np.uint8)
    return np.stack([one, one, 255 - one])


PICTURES = {
    "black": np.zeros((3, 32, 32), np.uint8),
    "white": np.full((3, 32, 32), 255, np.uint8),
    "one colour": np.tile(np.array([200, 3, 77], np.uint8)[:, None, None], (1, 20, 40)),
    "noise": DRAW.integers(0, 256, (3, 32, 32), dtype=np.uint8),
    "checkers": checkers(32, 32),
    "ramp": ramp(32, 32),
    "one pixel": np.array([[[1]], [[2]], [[3]]], np.uint8),
    "a column": ramp(37, 1),
    "a row": ramp(1, 70),
    "odd sides": ramp(33, 45),
    "grey": ramp(32, 32)[:1],
    "grey, odd sides": ramp(9, 41)[1:2],
}


def png_bytes(picture: Pixels) -> int:
    file = io.BytesIO()
    array = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(array)).save(file, format="PNG", optimize=True)
    return file.getbuffer().nbytes


@pytest.fixture(scope="module")
def files(linear: Codec) -> dict[str, bytes]:
    """All of them, compressed together."""
    made = compress_all(linear, list(PICTURES.values()), verify=False)
    return {name: one.data for name, one in zip(PICTURES, made, strict=True)}


@pytest.mark.parametrize("name", PICTURES)
def test_lossless_file_is_the_picture_in_its_own_mode(name: str, linear: Codec, files: dict[str, bytes]):
    found = decode(linear, [files[name]])[0]
    assert found.status == LOSSLESS
    assert found.picture is not None
    assert found.picture.dtype == np.uint8
    assert found.picture.shape == PICTURES[name].shape
    assert (found.picture == PICTURES[name]).all()


@pytest.mark.parametrize("name", PICTURES)
def test_file_is_never_larger_than_png_by_more_than_the_header(name: str, linear: Codec, files: dict[str, bytes]):
    cursor = Cursor(files[name])
    read_header(cursor)
    rest = 4 + 3  # the layer's checksum, and its length of at most 3 bytes here
    assert len(files[name]) <= png_bytes(PICTURES[name]) + cursor.place + rest


def test_noise_is_stored_by_ordinary_means_and_a_photograph_is_not(linear: Codec, files, crops: list[Pixels]):
    assert open_packet(linear, files["noise"]).header.stored
    assert not open_packet(linear, encode(linear, crops[:1])[0].data).header.stored


def test_photographs_round_trip_together_and_alone_to_the_same_bytes(linear: Codec, crops: list[Pixels]):
    together = encode(linear, crops[:4])
    alone = [encode(linear, [crop])[0] for crop in crops[:4]]
    assert [one.data for one in together] == [one.data for one in alone]
    for crop, one in zip(crops, decode(linear, [one.data for one in together]), strict=False):
        assert one.status == LOSSLESS
        assert (one.picture == crop).all()


def test_large_odd_photograph_round_trips_by_tiles(linear: Codec, photograph: Pixels):
    picture = photograph[:, 100:171, 200:299]  # 3 x 4 tiles
    made = encode(linear, [picture], batch_size=5)[0]
    found = decode(linear, [made.data], batch_size=7)[0]
    assert found.status == LOSSLESS
    assert (found.picture == picture).all()


def test_sizes_are_what_the_layers_add_up_to(linear: Codec, crops: list[Pixels], photograph: Pixels):
    pictures = [*crops, photograph[:, :50, :70].copy()]
    for picture, one in zip(pictures, encode(linear, pictures), strict=True):
        packet = open_packet(linear, one.data)
        cursor = Cursor(one.data)
        read_header(cursor)
        tiles = -(-picture.shape[1] // 32) * -(-picture.shape[2] // 32)
        assert one.index_bits == tiles * sum(linear.chain.bits) == len(packet.bits)
        progressive = -(-one.index_bits // 8) + 2
        assert len(one.data) == cursor.place + progressive + 4 + 2 + one.residual_bytes
        assert one.residual_bytes <= 1.005 * one.ideal_bytes + 8
        assert one.residual_bytes >= one.ideal_bytes - 1


def test_index_bits_deliver_their_divergence(linear: Codec, crops: list[Pixels]):
    made = encode(linear, crops)
    long = np.array(linear.chain.bits) >= 32
    paid = len(made) * np.array(linear.chain.bits)[long].sum()
    delivered = sum(np.array(one.delivered)[long].sum() for one in made)
    assert paid / delivered <= 1.20
    assert paid / delivered >= 1.0  # no code delivers more than it costs, on average


def test_linear_codec_reaches_its_quality_at_117_bytes(linear: Codec, crops: list[Pixels]):
    """A guard on all of the chain at once; measured 25.5 dB."""
    files = [one.data for one in encode(linear, crops, most_bytes=[117] * len(crops))]
    assert max(map(len, files)) <= 117
    found = decode(linear, files)
    errors = [((one.picture.astype(float) - crop) ** 2).mean() for one, crop in zip(found, crops, strict=True)]
    assert float(np.mean(10 * np.log10(255**2 / np.array(errors)))) >= QUALITY


QUALITY = 25.0


@pytest.mark.parametrize("limit", [20, 21, 57, 200, 10**6])
def test_lossy_file_keeps_to_its_bytes_and_uses_them(limit: int, linear: Codec, photograph: Pixels):
    picture = photograph[:, :32, :64].copy()  # two tiles
    one = encode(linear, [picture], most_bytes=[limit])[0]
    packet = open_packet(linear, one.data)
    assert len(one.data) <= limit
    assert not packet.header.lossless
    units = packet.header.units
    assert units is not None
    assert one.index_bits == bits_of(linear.chain.bits, 2, units)
    if limit < 10**6:
        another = bits_of(linear.chain.bits, 2, units + 1)
        assert len(one.data) + (another - one.index_bits) // 8 >= limit - 1
    assert decode(linear, [one.data])[0].status == LOSSY


def test_lossy_files_never_fall_back(linear: Codec):
    one = encode(linear, [PICTURES["noise"]], most_bytes=[10**6])[0]
    assert not one.stored
    assert decode(linear, [one.data])[0].status == LOSSY


def test_too_few_bytes_are_refused_with_what_would_fit(linear: Codec, crops: list[Pixels]):
    with pytest.raises(InputError, match="15 bytes are fewer than a header takes; 16 would fit"):
        encode(linear, crops[:1], most_bytes=[15])
    assert len(encode(linear, crops[:1], most_bytes=[16])[0].data) == 16


def test_guess_near_a_rounding_boundary_takes_another_seed(
    linear: Codec, photograph: Pixels, monkeypatch: pytest.MonkeyPatch
):
    picture = photograph[:, 100:132, 100:196].copy()  # three tiles
    plain = encode(linear, [picture])[0]
    monkeypatch.setattr(encoding, "MARGIN", 6e-4)  # most tiles have a guess as near as that
    moved = encode(linear, [picture])[0]
    assert plain.reseeded == 0
    assert moved.reseeded > 0
    header = read_header(Cursor(moved.data))
    assert len(header.seeds) == moved.reseeded
    for one in decode(linear, [moved.data, plain.data]):
        assert one.status == LOSSLESS
        assert (one.picture == picture).all()
    monkeypatch.setattr(encoding, "MARGIN", 0.6)  # no seed can keep that
    assert encode(linear, [picture])[0].stored


def test_stored_picture_must_be_the_one_its_header_tells_of(linear: Codec, crops: list[Pixels]):
    data = stored(linear, crops[0]).data
    other = stored(linear, crops[1][:, :16]).data
    mixed = data[: len(data) - len(other) + 20] + other[20:]
    for broken in (data[:-1], data[:-30] + bytes(30), mixed):
        found = decode(linear, [broken])[0] if len(broken) else None
        assert found is not None
        assert found.status == DAMAGED
        assert found.picture is None


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((2, 8, 8), np.uint8), "grey .1. or RGB"),
        (np.zeros((4, 8, 8), np.uint8), "grey .1. or RGB"),
        (np.zeros((8, 8), np.uint8), "grey .1. or RGB"),
        (np.zeros((3, 8, 8), np.float32), "float32"),
        (np.zeros((3, 0, 8), np.uint8), "pixels do not fit"),
        (np.zeros((1, 5000, 5000), np.uint8), "pixels do not fit"),
    ],
)
def test_other_pictures_are_refused(picture: Pixels, words: str, linear: Codec):
    with pytest.raises(InputError, match=words):
        encode(linear, [picture])
