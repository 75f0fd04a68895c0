"""The chunks of a PNG file: what Pillow does not tell, and what it must not see."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL.PngImagePlugin import MAX_TEXT_CHUNK

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
XMP = b"XML:com.adobe.xmp"
ORIENTATION_TEXTS = {XMP, b"Raw profile type exif"}
"""Keywords of texts that may say how an image is turned; no other text changes the pixels."""


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The chunks that are whole: type, where the body begins, where it ends; none of a file that is no PNG."""
    place = len(SIGNATURE) if data.startswith(SIGNATURE) else len(data)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if place + 12 + length > len(data):
            return
        yield kind, place + 8, place + 8 + length
        place += 12 + length


def without_profiles(data: bytes) -> bytes:
    """The file without its colour profile and its texts, which are not used and of which Pillow refuses large ones."""
    view, parts, start = memoryview(data), [], 0
    for kind, begin, end in chunks(data):
        if kind == b"iCCP" or (kind in TEXTS and not _turns(kind, data[begin:end])):
            parts.append(view[start : begin - 8])
            start = end + 4
    return b"".join([*parts, view[start:]]) if parts else data


def text_keywords(data: bytes) -> list[bytes]:
    """Of all texts, in order."""
    return [keyword(data[begin : begin + 80]) for kind, begin, _ in chunks(data) if kind in TEXTS]


def keyword(body: bytes) -> bytes:
    """The name of a text."""
    return body.partition(b"\0")[0]


def _turns(kind: bytes, body: bytes) -> bool:
    """Whether a text may say how the image is turned, and is not too large for Pillow."""
    name = keyword(body[:80])
    if name not in ORIENTATION_TEXTS:
        return False
    rest = body[len(name) + 1 :]
    if kind == b"iTXt":
        packed, text = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
    else:
        packed, text = kind == b"zTXt", rest[1:]
    try:
        return not packed or len(zlib.decompressobj().decompress(text, MAX_TEXT_CHUNK + 1)) <= MAX_TEXT_CHUNK
    except zlib.error:
        return False
