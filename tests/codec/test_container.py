"""The bytes of a file: every header comes back, has one form, and any damage to it is seen."""

from __future__ import annotations

import zlib

import independent
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ddpm.codec.container import (
    CLASS,
    GREY,
    LOSSLESS,
    MAGIC,
    MOST_CLASSES,
    MOST_PIXELS,
    MOST_SIDE,
    SEEDS,
    STORED,
    VERSION,
    Cursor,
    Cut,
    Header,
    checksum,
    closed_layer,
    crc16,
    progressive_layer,
    read_header,
    read_packet,
    varint,
)
from ddpm.errors import DamagedFile

FLAGS = [flags for flags in range(32) if not (flags & STORED and flags & (LOSSLESS | SEEDS | CLASS))]
LARGEST = 2**35 - 1
BODY = bytes(range(1, 60))


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    height = draw(st.one_of(st.integers(1, 300), st.integers(1, MOST_SIDE)))
    width = draw(st.integers(1, min(MOST_SIDE, MOST_PIXELS // height)))
    return (height, width) if draw(st.booleans()) else (width, height)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    flags = draw(st.sampled_from(FLAGS))
    tiles = draw(st.sets(st.integers(0, LARGEST), min_size=1, max_size=5))
    return Header(
        flags,
        draw(st.binary(min_size=4, max_size=4)),
        draw(sizes()),
        None if flags & (LOSSLESS | STORED) else draw(st.integers(0, LARGEST)),
        draw(st.integers(0, MOST_CLASSES - 1)) if flags & CLASS else None,
        tuple((tile, draw(st.integers(1, LARGEST))) for tile in sorted(tiles)) if flags & SEEDS else (),
    )


def sealed(*parts: bytes) -> bytes:
    """Bytes with a true CRC after them."""
    data = b"".join(parts)
    return data + independent.crc16(data).to_bytes(2, "little")


def start_of(flags: int, size: tuple[int, int] = (5, 7)) -> bytes:
    return MAGIC + bytes([VERSION, flags]) + b"abcd" + varint(size[0]) + varint(size[1])


def refused(data: bytes, words: str) -> None:
    with pytest.raises(DamagedFile, match=words):
        read_header(Cursor(data))


# ---- headers --------------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(headers(), st.binary(max_size=20))
def test_any_header_comes_back_and_its_bytes_from_it(header: Header, rest: bytes):
    data = header.pack()
    cursor = Cursor(data + rest)
    assert read_header(cursor) == header
    assert (cursor.place, cursor.left) == (len(data), len(rest))
    assert header.lossless == bool(header.flags & LOSSLESS)
    assert header.grey == bool(header.flags & GREY)
    assert header.stored == bool(header.flags & STORED)


@pytest.mark.parametrize("flags", FLAGS)
def test_every_flag_has_its_fields_in_the_order_of_the_document(flags: int):
    units, label, seeds = 0 if flags & (LOSSLESS | STORED) else 300, 9 * bool(flags & CLASS), ((1, 2), (128, 3))
    header = Header(flags, b"abcd", (5, 200), units or None, label or None, seeds if flags & SEEDS else ())
    fields = [b"\x8f\x44\x50", b"\x01", bytes([flags]), b"abcd", b"\x05", b"\xc8\x01"]
    fields += [b"\xac\x02"] * bool(units) + [b"\x09"] * bool(label)
    fields += [b"\x02", b"\x01\x02", b"\x80\x01\x03"] if flags & SEEDS else []
    assert header.pack() == sealed(*fields)
    assert read_header(Cursor(header.pack())) == header


def test_small_image_has_a_header_of_fourteen_bytes():
    assert len(Header(0, b"abcd", (32, 32), units=50).pack()) == 14
    assert len(Header(LOSSLESS, b"abcd", (32, 32)).pack()) == 13


@settings(max_examples=60)
@given(headers())
def test_every_flipped_bit_of_a_header_is_refused(header: Header):
    """One that leaves the length alone, always (a CRC sees every single bit); one that moves the CRC, but for once in
    2^16 times, of which none is among these."""
    data = header.pack()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        for rest in (b"", BODY):
            with pytest.raises(DamagedFile):
                read_header(Cursor(bytes(flipped) + rest))


@settings(max_examples=100)
@given(headers())
def test_every_truncation_inside_the_header_is_damage(header: Header):
    data = header.pack()
    for length in range(len(data)):
        refused(data[:length], r"inside its header|not a .dpc file" if length == 0 else "inside its header")


@settings(max_examples=200)
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_a_header_in_its_only_form_or_damage(data: bytes, sealing: bool):
    """With a true CRC as well, so that the CRC does not shield what comes before it."""
    for some in (data, sealed(MAGIC, bytes([VERSION]), data)):
        cursor = Cursor(some)
        try:
            header = read_header(cursor)
        except DamagedFile:
            continue
        assert header.pack() == some[: cursor.place]


def test_all_other_flags_are_refused():
    for flags in set(range(256)) - set(FLAGS):
        refused(sealed(start_of(flags), varint(1), varint(1), varint(1)), "flags")


def test_all_other_versions_are_named():
    for version in set(range(256)) - {VERSION}:
        data = bytearray(Header(LOSSLESS, b"abcd", (5, 7)).pack())
        data[3] = version
        refused(bytes(data), f"version {version}")


HOSTILE = [(0, 1), (1, 0), (0, 0), (MOST_SIDE + 1, 1), (1, LARGEST), (LARGEST, LARGEST), (4097, 4096), (MOST_SIDE, 257)]


@pytest.mark.parametrize("size", HOSTILE)
def test_sizes_out_of_bounds_are_refused(size: tuple[int, int]):
    refused(sealed(start_of(LOSSLESS, size)), "pixels")


@pytest.mark.parametrize("size", [(1, MOST_SIDE), (MOST_SIDE, 256), (4096, 4096), (1, 1)])
def test_largest_sizes_are_read(size: tuple[int, int]):
    assert read_header(Cursor(sealed(start_of(LOSSLESS, size)))).size == size


def test_class_seeds_and_checksum_are_checked():
    refused(sealed(start_of(LOSSLESS | CLASS), varint(MOST_CLASSES)), "class number")
    for seeds in ([], [(0, 0)], [(3, 1), (3, 2)], [(4, 1), (3, 1)], [(1, 1), (2, 0)]):
        numbers = [len(seeds), *(number for pair in seeds for number in pair)]
        refused(sealed(start_of(LOSSLESS | SEEDS), *map(varint, numbers)), "list of seeds")
    refused(sealed(start_of(LOSSLESS | SEEDS), varint(LARGEST), bytes(100)), "inside its header")
    good = Header(LOSSLESS, b"abcd", (5, 7)).pack()
    refused(good[:-2] + good[-1:] + good[-2:-1], "checksum")


# ---- numbers --------------------------------------------------------------------------------------------------------


@given(st.integers(0, LARGEST), st.binary(max_size=3))
def test_numbers_come_back_in_seven_bits_a_byte(number: int, rest: bytes):
    data = varint(number)
    assert len(data) == max(1, -(-number.bit_length() // 7))
    cursor = Cursor(data + rest)
    assert cursor.varint() == independent.Reader(data).varint() == number
    assert cursor.left == len(rest)


@given(st.binary(min_size=1, max_size=8))
def test_bytes_of_a_number_are_its_only_form_or_are_refused(data: bytes):
    cursor = Cursor(data)
    try:
        number = cursor.varint()
    except (DamagedFile, Cut):
        return
    assert varint(number) == data[: cursor.place]


@given(st.integers(0, 2**28 - 1), st.integers(1, 4))
def test_longer_forms_of_a_number_are_refused(number: int, more: int):
    short = varint(number)
    longer = short[:-1] + bytes([short[-1] | 128]) + b"\x80" * (more - 1) + b"\0"
    with pytest.raises(DamagedFile, match=r"shortest form|35 bits"):
        Cursor(longer).varint()


@pytest.mark.parametrize("data", [b"\x80\x80\x80\x80\x80\x01", b"\xff" * 5, b"\xff" * 100])
def test_numbers_of_more_than_35_bits_are_refused_whatever_follows(data: bytes):
    with pytest.raises(DamagedFile, match="35 bits"):
        Cursor(data).varint()


@pytest.mark.parametrize("number", [1, 127, 128, 2**20, LARGEST])
def test_numbers_cut_short_are_cut(number: int):
    data = varint(number)
    for length in range(len(data)):
        with pytest.raises(Cut):
            Cursor(data[:length]).varint()


@given(st.binary(max_size=50))
def test_crc_is_that_of_long_division(data: bytes):
    assert crc16(data) == independent.crc16(data)


def test_checksum_is_that_of_pixels_row_by_row():
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 4), dtype=np.uint8)
    body = bytes(int(image[c, r, q]) for r in range(5) for q in range(4) for c in range(3))
    assert checksum(image) == zlib.crc32(body).to_bytes(4, "little")


# ---- layers ---------------------------------------------------------------------------------------------------------


IMAGE = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
KINDS = {
    "lossy": Header(0, b"abcd", (2, 2), units=3),
    "lossless": Header(LOSSLESS, b"abcd", (2, 2)),
    "stored": Header(STORED, b"abcd", (2, 2)),
}


def layers(kind: str, bits: np.ndarray, residual: bytes) -> bytes:
    progressive = b"" if kind == "stored" else progressive_layer(bits)
    return progressive + (b"" if kind == "lossy" else closed_layer(IMAGE, residual))


bit_lists = st.lists(st.integers(0, 1), max_size=70).map(lambda bits: np.array(bits, np.uint8))


@settings(max_examples=200)
@given(st.sampled_from(list(KINDS)), bit_lists, st.binary(max_size=200))
def test_layers_come_back(kind: str, bits: np.ndarray, residual: bytes):
    bits = bits[:0] if kind == "stored" else bits
    found = read_packet(Cursor(layers(kind, bits, residual)), KINDS[kind], len(bits))
    assert found.bits.tolist() == bits.tolist()
    assert (found.cut, found.damaged) == (False, False)
    assert (found.crc, found.data) == ((None, None) if kind == "lossy" else (checksum(IMAGE), residual))


@settings(max_examples=60)
@given(st.sampled_from(list(KINDS)), bit_lists, st.binary(max_size=140))
def test_every_cut_of_the_layers_says_so_and_keeps_the_bits_before_it(kind: str, bits: np.ndarray, residual: bytes):
    bits = bits[:0] if kind == "stored" else bits
    data = layers(kind, bits, residual)
    for length in range(len(data)):
        found = read_packet(Cursor(data[:length]), KINDS[kind], len(bits))
        assert found.cut
        assert not found.damaged
        assert (found.crc, found.data) == (None, None)
        assert found.bits.tolist() == bits[: 8 * length].tolist()


@settings(max_examples=60)
@given(st.sampled_from(list(KINDS)), bit_lists, st.binary(max_size=60), st.binary(min_size=1, max_size=9))
def test_bytes_behind_the_last_are_refused(kind: str, bits: np.ndarray, residual: bytes, more: bytes):
    bits = bits[:0] if kind == "stored" else bits
    with pytest.raises(DamagedFile, match=r"(1 byte|[2-9] bytes) after its end"):
        read_packet(Cursor(layers(kind, bits, residual) + more), KINDS[kind], len(bits))


@settings(max_examples=60)
@given(bit_lists, st.booleans())
def test_every_bit_set_in_the_padding_is_refused_with_a_true_checksum_too(bits: np.ndarray, cut: bool):
    assume(len(bits) % 8)
    for place in range(len(bits), 8 * -(-len(bits) // 8)):
        body = bytearray(np.packbits(bits).tobytes())
        body[place // 8] |= 128 >> place % 8
        data = sealed(bytes(body))[: len(body) if cut else None]
        with pytest.raises(DamagedFile, match="padding"):
            read_packet(Cursor(data), KINDS["lossy"], len(bits))


@pytest.mark.parametrize("kind", ["lossy", "lossless"])
def test_every_flipped_bit_of_the_progressive_layer_is_damage_and_the_rest_is_still_read(kind: str):
    bits = np.random.default_rng(0).integers(0, 2, 48, dtype=np.uint8)
    data = layers(kind, bits, b"residual")
    for place in range(8 * (6 + 2)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 128 >> place % 8
        found = read_packet(Cursor(bytes(flipped)), KINDS[kind], 48)
        assert (found.cut, found.damaged) == (False, True)
        assert (found.bits != bits).sum() == (place < 48)
        assert found.data == (None if kind == "lossy" else b"residual")


def test_length_beyond_the_file_is_a_cut_however_large():
    for length in (9, 2**20, LARGEST):
        data = progressive_layer(np.zeros(0, np.uint8)) + varint(length) + bytes(4 + 8)
        assert read_packet(Cursor(data), KINDS["lossless"], 0).cut


def test_first_index_bit_is_the_highest_of_a_byte():
    assert progressive_layer(np.array([1, 0, 0, 0, 0, 0, 1, 0, 1], np.uint8)) == sealed(b"\x82\x80")


def test_cursor_behind_its_last_byte_is_cut():
    cursor = Cursor(b"abc")
    assert (cursor.take(2), cursor.take(0), cursor.left) == (b"ab", b"", 1)
    with pytest.raises(Cut):
        cursor.take(2)
    assert cursor.take(1) == b"c"
