"""An integer range coder: symbols with integer frequencies out of 2^24, in and out of bytes; nothing else.

Like every arithmetic coder it narrows an interval [low, low + range) by each symbol's share (Martin 1979; Schindler
1998 for the form). The interval lies in 56 bits; bytes leave from the top as soon as the range has shrunk below 2^40,
and a carry walks back into those that have left. At the end the fewest bytes are written that name a number inside the
interval; bytes beyond the end read as zero.
"""

from __future__ import annotations

TOTAL_BITS = 24
TOP = 1 << 56
LEAST = 1 << 40


class Encoder:
    """Symbols in, bytes out."""

    def __init__(self) -> None:
        self.low, self.range, self.out = 0, TOP, bytearray()

    def encode(self, start: int, size: int) -> None:
        """A symbol whose frequencies are [start, start + size) of 2^24; size at least 1."""
        unit = self.range >> TOTAL_BITS
        self.low += unit * start
        self.range = unit * size
        while self.range < LEAST:
            self._emit(self.low >> 48)
            self.low = (self.low << 8) & (TOP - 1)
            self.range <<= 8

    def finish(self) -> bytes:
        """All bytes; trailing zeros are left out."""
        for length in range(1, 8):
            grain = 1 << (56 - 8 * length)
            value = -(-self.low // grain) * grain
            if value < self.low + self.range:
                break
        self._emit(value >> 48)
        self.out += (value & (LEAST << 8) - 1).to_bytes(6, "big")
        return bytes(self.out).rstrip(b"\0")

    def _emit(self, byte: int) -> None:
        if byte > 255:
            place = len(self.out) - 1
            while self.out[place] == 255:
                self.out[place] = 0
                place -= 1
            self.out[place] += 1
        self.out.append(byte & 255)


class Decoder:
    """Bytes in, symbols out: ask `target` which frequency comes, find its symbol, tell `take` what was found."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place, self.range, self.code = data, 7, TOP, int.from_bytes(data[:7].ljust(7, b"\0"), "big")

    def target(self) -> int:
        """A number in [0, 2^24) that lies in the next symbol's frequencies; any bytes give some."""
        return min(self.code // (self.range >> TOTAL_BITS), (1 << TOTAL_BITS) - 1)

    def take(self, start: int, size: int) -> None:
        """Remove the symbol that was found."""
        unit = self.range >> TOTAL_BITS
        self.range = unit * size
        self.code = min(self.code - unit * start, self.range - 1)  # the bound matters to damaged bytes alone
        while self.range < LEAST:
            byte = self.data[self.place] if self.place < len(self.data) else 0
            self.code = self.code << 8 | byte
            self.range <<= 8
            self.place += 1
