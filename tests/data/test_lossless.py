"""What of a file is not in the image that is read from it: asked for every mode, depth and format Pillow writes."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ddpm.data import decode as policy
from ddpm.data.decode import BadImage, decode, lossless_problem, lost_metadata
from ddpm.data.formats import FORMATS

MODES_WRITTEN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I", "I;16", "I;16B", "F")
LOST = {
    ("PNG", "I;16"): "16 bits", ("PNG", "I;16B"): "16 bits", ("PPM", "I"): "16 bits", ("PPM", "I;16"): "16 bits",
    ("PPM", "F"): "32 bits", ("TIFF", "I"): "32 bits", ("TIFF", "F"): "32 bits", ("TIFF", "I;16"): "16 bits",
    ("TIFF", "I;16B"): "16 bits", ("TIFF", "RGBX"): "a channel more", ("TIFF", "CMYK"): "CMYK", ("TIFF", "LAB"): "LAB",
    ("TIFF", "YCbCr"): "YCbCr", ("JPEG", "CMYK"): "CMYK", ("JPEG2000", "CMYK"): "CMYK", ("JPEG2000", "I;16"): "16 bits",
    ("JPEG2000", "I;16B"): "16 bits", ("BMP", "RGBA"): "a channel more", ("DIB", "RGBA"): "a channel more",
}  # fmt: skip


def image_of(mode: str) -> Image.Image:
    levels = np.random.default_rng(3).integers(0, 256, (8, 8, 4), np.uint8)
    if mode.startswith("I;16"):
        return Image.fromarray((np.arange(64) * 999).reshape(8, 8).astype(">u2" if mode[4:] else "<u2"))
    if mode == "I":
        return Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8) * 999)
    if mode == "PA":
        return Image.fromarray(levels[..., :3]).convert("P").convert("PA")
    return Image.new("LAB", (8, 8), (1, 2, 3)) if mode == "LAB" else Image.fromarray(levels).convert(mode)


@pytest.mark.parametrize("file_format", FORMATS)
def test_what_is_not_wholly_read_is_named_for_every_mode(file_format, encoded):
    found, written = {}, 0
    for mode in MODES_WRITTEN:
        try:
            data = encoded(image_of(mode), file_format)
        except (OSError, ValueError, KeyError):
            continue  # Pillow does not write it
        written += 1
        problem = lossless_problem(data)
        if problem:
            found[mode] = problem
        elif file_format in ("PNG", "BMP", "TIFF", "PPM", "DIB"):
            with Image.open(io.BytesIO(data)) as image:
                read = Image.fromarray(np.squeeze(decode(data).pixels.transpose(1, 2, 0)))
                exact = "RGBA" if image.mode in ("P", "PA") else image.mode
                assert read.convert(exact).tobytes() == image.convert(exact).tobytes()
    assert written >= 3
    expected = {mode: reason for (name, mode), reason in LOST.items() if name == file_format}
    assert found.keys() == expected.keys()
    for mode, reason in expected.items():
        assert reason in found[mode]


def png(depth: int, colour: int, channels: int) -> bytes:
    """A black PNG of 4 x 4, which Pillow would not write so."""
    rows = bytes(1 + 4 * channels * depth // 8) * 4
    body, header = b"", struct.pack(">IIBBBBB", 4, 4, depth, colour, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows))):
        body += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + body + b"\0\0\0\0IEND\xaeB`\x82"


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("depth", [8, 16])
def test_the_depth_of_a_png_is_read_from_its_header(colour, channels, depth):
    data = png(depth, colour, channels)
    assert decode(data).pixels.shape[1:] == (4, 4)
    assert (lossless_problem(data) or "None").startswith("it has 16 bits" if depth == 16 else "None")


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize("channels", [3, 4])
def test_the_depth_of_a_colour_tiff_is_read_from_its_tags(channels, bits):
    tags = [(256, 4, 2), (257, 4, 2), (258, 3, bits), (259, 3, 1), (262, 3, 2), (277, 3, channels), (278, 4, 2)]
    tags += [(339, 3, 1)]
    pixels = bytes(4 * channels * bits // 8)
    place = 8 + 2 + 12 * (len(tags) + 2) + 4
    depths = place + len(pixels)
    entries = [(t, k, channels if t in (258, 339) else 1, v) for t, k, v in tags]
    entries += [(273, 4, 1, place), (279, 4, 1, len(pixels))]
    body, extra = b"", b""
    for tag, kind, count, value in sorted(entries):
        if count > 1:
            body += struct.pack("<HHII", tag, kind, count, depths + len(extra))
            extra += struct.pack("<H", value) * count
        else:
            body += struct.pack("<HHII", tag, kind, count, value)
    data = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + body + b"\0\0\0\0" + pixels + extra
    assert decode(data).pixels.shape == (channels, 2, 2)
    assert (lossless_problem(data) or "None").startswith("it has 16 bits" if bits == 16 else "None")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"P5 2 1 15\n\x00\x0f", "its levels go to 15"),
        (b"P5 2 1 254\n\x00\x0f", "its levels go to 254"),
        (b"P2 2 1 7\n0 7\n", "its levels go to 7"),
        (b"P2 2 1 65535\n0 7\n", "16 bits"),
        (b"P5 2 1 4095\n" + bytes(4), "12 bits"),
        (b"P6 1 1 65535\n" + bytes(6), "16 bits"),
        (b"P3 1 1 1023\n1 2 3\n", "10 bits"),
        (b"P5 2 1 255\n\x00\x0f", None),
        (b"P2 2 1 255\n0 7\n", None),
        (b"P1 2 1\n0 1\n", None),
        (b"P4 8 1\n\x0f", None),
    ],
)
def test_a_pgm_or_ppm_of_another_maximum_is_named(data, reason):
    assert decode(data).pixels.shape[1] == 1
    problem = lossless_problem(data)
    assert problem is None if reason is None else reason in problem


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "WEBP", "TIFF", "AVIF", "MPO"])
def test_more_than_one_frame_or_page_is_named(file_format, noise, encoded):
    data = encoded(noise(1), file_format, save_all=True, append_images=[noise(2)])
    assert "several frames" in lossless_problem(data)
    assert lossless_problem(encoded(noise(1), "JPEG" if file_format == "MPO" else file_format)) is None


def test_a_second_image_behind_a_still_png_is_named(noise, encoded):
    """One frame of animation beside the still image."""
    data = encoded(noise(1), "PNG", save_all=True, append_images=[noise(2)], default_image=True)
    assert "several frames" in lossless_problem(data)


@pytest.mark.parametrize("head", [b"P4 9 2\n", b"P5 4 2 255\n", b"P6 4 2 255\n", b"P5 4 2 65535\n"])
@pytest.mark.parametrize("between", [b"", b"\n", b"# a comment\n"])
def test_what_follows_a_pnm_is_named(head, between):
    body = bytes({52: 4, 53: 8, 54: 24}[head[1]] * (1 + head.endswith(b"65535\n")))
    assert "more follows" in lossless_problem(head + body + between + head + body)
    assert ("more follows" in (lossless_problem(head + body + between) or "")) == between.startswith(b"#")
    assert decode(head + body).pixels.shape[1] == 2


PLAIN = [b"P1 2 1\n0 1\n", b"P2 2 1 255\n0 7\n", b"P3 1 1 255\n1 2 3\n"]


@pytest.mark.parametrize("data", PLAIN)
@pytest.mark.parametrize("other", [*PLAIN, b"P5 1 1 255\n0", b"# second\nP2 1 1 255\n0"])
def test_one_pnm_behind_a_plain_one_is_named(data, other):
    assert "more follows" in lossless_problem(data + other)
    for comment in (b"# from a P2 file", b"\n\n"):
        assert lossless_problem(data + comment) is None


def test_the_depth_of_an_avif_is_read_from_its_header(noise, encoded):
    data = bytearray(encoded(noise(1, "L"), "AVIF"))
    with Image.open(io.BytesIO(data)) as image:
        assert policy._bits(image, bytes(data)) == 8
        for flag, bits in ((0x40, 10), (0x60, 12)):  # the reader compares the header with the stream, so it comes first
            data[data.index(b"av1C") + 6] |= flag
            assert policy._bits(image, bytes(data)) == bits


def test_a_palette_of_sixteen_bits_a_colour_is_named(encoded):
    data = encoded(image_of("P"), "TIFF")
    assert lossless_problem(data) is None
    table = data.rindex(struct.pack("<HHI", 320, 3, 768))
    place = struct.unpack_from("<I", data, table + 8)[0]
    assert "16 bits" in lossless_problem(data[:place] + b"\x34\x12" + data[place + 2 :])


def exif(orientation: int | None) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112 if orientation else 0x010F] = orientation or "maker"
    return tags


def png_text(key: str, value: str, *, zip: bool = False) -> PngInfo:
    info = PngInfo()
    info.add_text(key, value, zip=zip)
    return info


METADATA = {
    "nothing": ("PNG", {}, []),
    "profile": ("PNG", {"icc_profile": b"x" * 200}, ["ICC profile"]),
    "profile in JPEG": ("JPEG", {"icc_profile": b"x" * 200}, ["ICC profile"]),
    "profile in TIFF": ("TIFF", {"icc_profile": b"x" * 200}, ["ICC profile"]),
    "orientation": ("JPEG", {"exif": exif(6)}, ["EXIF orientation", "EXIF"]),
    "orientation in PNG": ("PNG", {"exif": exif(6)}, ["EXIF orientation", "EXIF"]),
    "upright": ("WEBP", {"exif": exif(1)}, ["EXIF"]),
    "maker": ("JPEG", {"exif": exif(None)}, ["EXIF"]),
    "text": ("PNG", {"pnginfo": png_text("Title", "a cat", zip=True)}, ["text"]),
    "comment": ("GIF", {"comment": b"a cat"}, ["text"]),
    "description": ("TIFF", {"description": "a cat"}, ["text"]),
    "XMP": ("WEBP", {"xmp": b"<x:xmpmeta/>"}, ["XMP"]),
    "XMP in PNG": ("PNG", {"pnginfo": png_text("XML:com.adobe.xmp", "<x/>")}, ["XMP"]),
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata_that_are_not_kept_are_named(case, noise, encoded):
    file_format, options, names = METADATA[case]
    assert lost_metadata(encoded(noise(1), file_format, **options)) == names


@pytest.mark.parametrize(
    ("kind", "content", "name"), [(b"gAMA", b"\0\0\xb1\x8f", "gamma"), (b"cICP", b"\x09\x10\0\1", "colour space")]
)
def test_how_a_png_says_that_its_colours_are_meant_is_named(kind, content, name, noise, encoded):
    data, body = encoded(noise(1)), kind + content
    chunk = struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))
    assert lost_metadata(data[:33] + chunk + data[33:]) == [name]


def test_what_is_no_image_is_a_bad_image():
    for ask in (lossless_problem, lost_metadata):
        with pytest.raises(BadImage, match="known format"):
            ask(b"plain text")
