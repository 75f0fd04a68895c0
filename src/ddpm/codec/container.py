"""Format v1 of a .dpc file, docs/format.md: a header, the progressive layer, and what makes it lossless or a PNG.

Every number that is read is checked against its bounds before anything is allocated for it.
"""

from __future__ import annotations

import binascii
import itertools
from dataclasses import dataclass, field

import numpy as np

from ddpm.base.tensors import Pixels
from ddpm.codec.trellis import Bits
from ddpm.errors import DamagedFile
from ddpm.model.sidecar import FINGERPRINT_BYTES

MAGIC = b"\x8fDP"
VERSION = 1
LOSSLESS, GREY, STORED, SEEDS, CLASS = 1, 2, 4, 8, 16
"""Flags: a lossless layer, a grey image of a colour model, stored as PNG, tiles with another seed than 0, a class."""
MOST_PIXELS = 2**24
MOST_SIDE = 2**16
MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Header:
    """What stands before the layers.

    flags        LOSSLESS and so on, added
    fingerprint  FINGERPRINT_BYTES bytes
    size         (height, width)
    units        of the progressive layer, None where it is implied
    label        class number, None without
    seeds        tile and seed where that is not 0, tiles rising
    """

    flags: int
    fingerprint: bytes
    size: tuple[int, int]
    units: int | None = None
    label: int | None = None
    seeds: tuple[tuple[int, int], ...] = ()

    @property
    def lossless(self) -> bool:
        """Whether a lossless layer follows the progressive one."""
        return bool(self.flags & LOSSLESS)

    @property
    def grey(self) -> bool:
        """Whether a colour model holds a grey image."""
        return bool(self.flags & GREY)

    @property
    def stored(self) -> bool:
        """Whether the image lies in it as a PNG."""
        return bool(self.flags & STORED)

    def units_of(self, whole: int) -> int:
        """Units of the progressive layer of an image that has `whole` at most; DamagedFile if more are claimed."""
        units = 0 if self.stored else whole if self.units is None else self.units
        if units > whole:
            raise DamagedFile(f"it claims {units:,} steps of tiles; its image has {whole:,}.")
        return units

    def pack(self) -> bytes:
        """All bytes, CRC included; a header has no other form."""
        numbers = [*self.size]
        if not self.flags & (LOSSLESS | STORED):
            numbers.append(self.units or 0)
        if self.flags & CLASS:
            numbers.append(self.label or 0)
        if self.flags & SEEDS:
            numbers += [len(self.seeds), *(number for pair in self.seeds for number in pair)]
        fixed = MAGIC + bytes([VERSION, self.flags]) + self.fingerprint
        return _with_crc16(fixed + b"".join(map(varint, numbers)))


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


class Cut(DamagedFile):
    """The bytes end inside what was to be read; in a header that is damage, behind it the file is a prefix."""


@dataclass
class Cursor:
    """A place in the bytes of a file."""

    data: bytes
    place: int = 0

    def take(self, count: int) -> bytes:
        """The next bytes; raises Cut."""
        if count > len(self.data) - self.place:
            raise Cut("it is cut short inside its header.")
        self.place += count
        return self.data[self.place - count : self.place]

    def varint(self) -> int:
        """The next variable-length integer; raises Cut, and DamagedFile for one too long or longer than it need be."""
        number = shift = 0
        while True:
            byte = self.take(1)[0]
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift >= 35:
                raise DamagedFile("it holds a number of more than 35 bits, the most that are allowed.")
        if byte == 0 and shift > 7:
            raise DamagedFile("it holds a number that is not written in its shortest form.")
        return number

    @property
    def left(self) -> int:
        """Bytes that follow."""
        return len(self.data) - self.place


def read_header(cursor: Cursor) -> Header:
    """Take a header apart.

    Errors (DamagedFile): not a .dpc file, an unknown version or flag, cut short, a wrong CRC, sizes beyond the bounds.
    """
    start = cursor.data[: len(MAGIC)]
    if not (start and MAGIC.startswith(start)):
        raise DamagedFile("it is not a .dpc file: it does not start with the bytes 8F 44 50.")
    cursor.take(len(MAGIC))
    version, flags = cursor.take(2)
    if version != VERSION:
        raise DamagedFile(f"it has format version {version}, this ddpm reads {VERSION}.")
    if flags & ~(LOSSLESS | GREY | STORED | SEEDS | CLASS) or (flags & STORED and flags & (LOSSLESS | SEEDS | CLASS)):
        raise DamagedFile(f"its flags {flags:#04x} are unknown or contradict each other.")
    fingerprint = cursor.take(FINGERPRINT_BYTES)
    size = cursor.varint(), cursor.varint()
    if min(size) < 1 or max(size) > MOST_SIDE or size[0] * size[1] > MOST_PIXELS:
        raise DamagedFile(
            f"it claims {size[0]} x {size[1]} pixels; a file holds 1 to {MOST_PIXELS:,}, a side at most {MOST_SIDE:,}."
        )
    units = None if flags & (LOSSLESS | STORED) else cursor.varint()
    label = cursor.varint() if flags & CLASS else None
    if label is not None and label >= MOST_CLASSES:
        raise DamagedFile(f"it claims class number {label}; class numbers are below {MOST_CLASSES:,}.")
    seeds = tuple((cursor.varint(), cursor.varint()) for _ in range(cursor.varint())) if flags & SEEDS else ()
    rising = all(here < following for (here, _), (following, _) in itertools.pairwise(seeds))
    if flags & SEEDS and not (seeds and rising and all(seed for _, seed in seeds)):
        raise DamagedFile("its list of seeds is empty, not in the order of the tiles, or holds a seed 0.")
    end = cursor.place
    if int.from_bytes(cursor.take(2), "little") != crc16(cursor.data[:end]):
        raise DamagedFile("its header is damaged: the checksum is not that of its bytes.")
    return Header(flags, fingerprint, size, units, label, seeds)


def crc16(data: bytes) -> int:
    """CRC-16/XMODEM: polynomial 0x1021, from 0."""
    return binascii.crc_hqx(data, 0)


def _with_crc16(data: bytes) -> bytes:
    return data + crc16(data).to_bytes(2, "little")


def progressive_layer(bits: Bits) -> bytes:
    """Index bits (n,) of 0 and 1 as bytes with their CRC."""
    return _with_crc16(np.packbits(bits).tobytes())


def closed_layer(pixels: Pixels, data: bytes) -> bytes:
    """A layer that knows its length and the CRC-32 of the pixels it leads to."""
    return varint(len(data)) + checksum(pixels) + data


def checksum(pixels: Pixels) -> bytes:
    """CRC-32 of pixels (C, H, W), row by row, a pixel's channels side by side."""
    return binascii.crc32(np.ascontiguousarray(pixels.transpose(1, 2, 0)).tobytes()).to_bytes(4, "little")


@dataclass(frozen=True)
class Packet:
    """A file taken apart as far as its bytes reach.

    header     whole
    bits       of the progressive layer (n,), perhaps cut short
    cut        whether the file ends before its end
    damaged    whether the progressive layer is all there and does not have its checksum
    crc, data  of the lossless layer or the stored image; None where it is not there or cut short
    """

    header: Header
    bits: Bits = field(repr=False)
    cut: bool
    damaged: bool
    crc: bytes | None
    data: bytes | None = field(repr=False)


def read_packet(cursor: Cursor, header: Header, bits: int) -> Packet:
    """Read the layers behind a header.

    bits  that the progressive layer has when whole

    Errors (DamagedFile): bytes after the last one, bits set in the padding, a number out of bounds.
    """
    size, damaged, crc, data = -(-bits // 8), False, None, None
    body = cursor.data[cursor.place : cursor.place + size]
    found = np.unpackbits(np.frombuffer(body, np.uint8))
    if found[bits:].any():
        raise DamagedFile("it has bits set in the padding behind its progressive layer.")
    try:
        if not header.stored:
            cursor.take(size)
            damaged = int.from_bytes(cursor.take(2), "little") != crc16(body)
        if header.lossless or header.stored:
            length, check = cursor.varint(), cursor.take(4)
            crc, data = check, cursor.take(length)
    except Cut:
        return Packet(header, found[:bits], True, damaged, None, None)
    if cursor.left:
        raise DamagedFile(f"it has {cursor.left:,} {'byte' if cursor.left == 1 else 'bytes'} after its end.")
    return Packet(header, found[:bits], False, damaged, crc, data)
