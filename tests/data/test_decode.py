"""Every kind of image file becomes the grey levels the policy in decode.py promises."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ddpm.base.image_io import MODES
from ddpm.data import decode as policy
from ddpm.data.decode import ALPHA_MODES, LIMIT, PLAIN_MODES, BadImage, decode
from ddpm.data.formats import EXTENSIONS, EXTENSIONS_OF
from ddpm.data.sources import open_images
from ddpm.errors import InputError

PNG = b"\x89PNG\r\n\x1a\n"
LOSSLESS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
FORMAT_OF = {extension: name for name, extensions in EXTENSIONS_OF.items() for extension in extensions}
WIDE = np.array([[0, 1, 128, 129], [256, 257, 32767, 32768], [40000, 65278, 65406, 65535]], np.uint16)


@pytest.mark.parametrize("mode", LOSSLESS)
def test_an_eight_bit_png_is_read_bit_for_bit(mode, noise, encoded):
    image = noise(1, mode, (5, 7))
    raw = decode(encoded(image))
    assert raw.mode == mode == MODES[LOSSLESS[mode]]
    assert raw.pixels.dtype == np.uint8
    assert raw.pixels.shape == (LOSSLESS[mode], 5, 7)
    assert (raw.pixels == np.asarray(image).reshape(5, 7, -1).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_extension_on_the_list_has_a_reader(extension, encoded):
    mode = {".pgm": "L", ".pbm": "1"}.get(extension, "RGB")
    image = Image.new("RGB", (7, 5), (255, 255, 255)).convert(mode)
    pixels = decode(encoded(image, FORMAT_OF[extension])).pixels
    assert pixels.shape[1:] == (5, 7)
    assert pixels.min() >= 253  # lossy formats round


def test_the_aliases_of_formats_are_on_the_list():
    aliases = {".jfif", ".jpe", ".pnm", ".pbm", ".ppm", ".pgm", ".apng", ".dib", ".avif", ".jp2"}
    assert aliases <= set(EXTENSIONS)


@pytest.mark.parametrize("extension", [".png", ".jfif", ".webp", ".dib"])
def test_content_decides_and_not_the_suffix(extension, folder, noise, encoded):
    for name in FORMAT_OF.values():
        source = folder({f"a{extension}": encoded(noise(1), name)}, name)
        assert open_images(source).geometry.size == (16, 16)


@pytest.mark.parametrize("mode", [*PLAIN_MODES, *ALPHA_MODES])
def test_every_pillow_mode_on_the_list_becomes_its_target(mode):
    """Not every mode has a file format, so this one starts behind the reader."""
    target = {**PLAIN_MODES, **ALPHA_MODES}[mode]
    pixels = policy._from_eight_bit(Image.new(mode, (7, 5)), transparent=False)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (LOSSLESS[target], 5, 7)


def test_one_bit_becomes_black_and_white(encoded):
    image = Image.fromarray(np.array([[True, False, True]]))
    assert image.mode == "1"
    assert decode(encoded(image)).pixels.tolist() == [[[255, 0, 255]]]


def test_a_palette_becomes_rgb_and_with_transparency_rgba(encoded):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert decode(encoded(image)).pixels[:, 0].T.tolist() == [[255, 0, 0], [0, 0, 255]]
    clear = decode(encoded(image, transparency=1))
    assert clear.pixels[:, 0].T.tolist() == [[255, 0, 0, 255], [0, 0, 255, 0]]
    assert clear.mode == "P (transparent)"


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_a_transparent_level_without_alpha_channel_becomes_one(mode, encoded):
    if mode == "I;16":
        image, level = Image.fromarray(np.array([[0, 257]], np.uint16)), 257
    else:
        image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert(mode)
        level = 1 if mode == "L" else (1, 1, 1)
    assert decode(encoded(image, transparency=level)).pixels[-1].tolist() == [[255, 0]]


FEW_BITS = [(2, b"\x1b", [0, 85, 170, 255]), (4, b"\x01\x23", [0, 17, 34, 51])]


@pytest.mark.parametrize(("depth", "row", "levels"), FEW_BITS)
def test_a_transparent_level_of_few_bits_is_scaled_like_the_others(depth, row, levels):
    data = PNG
    header = struct.pack(">IIBBBBB", 4, 1, depth, 0, 0, 0, 0)
    for kind, body in ((b"IHDR", header), (b"tRNS", b"\0\1"), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    assert decode(data).pixels.tolist() == [[levels], [[255, 0, 255, 255]]]


@pytest.mark.parametrize(("file_format", "order"), [("png", "<"), ("tiff", "<"), ("tiff", ">"), ("pgm", ">")])
def test_sixteen_bit_grey_is_divided_by_257_and_rounded(file_format, order, encoded):
    if file_format == "pgm":
        data = b"P5 4 3 65535\n" + WIDE.astype(">u2").tobytes()
    else:
        data = encoded(Image.fromarray(WIDE.astype(order + "u2")), file_format)
    assert (decode(data).pixels == np.round(WIDE / 257)[None]).all()


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_print_and_video_colours_become_rgb(mode, encoded):
    image = Image.new("RGB", (8, 8), (200, 40, 90)).convert(mode)
    pixels = decode(encoded(image, "tiff" if mode == "CMYK" else "jpeg", quality=100)).pixels
    assert abs(pixels.astype(int) - np.array([200, 40, 90])[:, None, None]).max() <= 3  # YCbCr rounds


def test_exif_orientation_turns_the_image_upright(encoded):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    pixels = decode(encoded(Image.fromarray(np.array([[10, 20, 30]], np.uint8)), exif=exif)).pixels
    assert pixels.tolist() == [[[10], [20], [30]]]


def test_of_an_animation_the_first_frame_is_taken(encoded):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encoded(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert decode(data).pixels[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_images_without_a_known_range_are_refused(mode, encoded):
    with pytest.raises(BadImage, match=r"mode F is not supported|32-bit grey has no known range"):
        decode(encoded(Image.new(mode, (4, 4), 7), "tiff"))


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp", "bmp", "tiff", "ppm"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.9])
def test_a_file_cut_anywhere_is_a_bad_image_with_a_reason(file_format, part, noise, encoded):
    data = encoded(noise(3, size=(40, 40)), file_format)
    with pytest.raises(BadImage, match=r".+"):
        decode(data[: int(len(data) * part)])


@pytest.mark.parametrize("file_format", ["png", "gif", "webp", "tiff", "jpeg", "bmp", "avif", "jpeg2000"])
@pytest.mark.parametrize("factor", [0.9, 0.4])  # Pillow itself only warns up to twice its limit
def test_a_decompression_bomb_is_a_bad_image(factor, file_format, noise, encoded, monkeypatch):
    data = encoded(noise(0, size=(40, 40)), file_format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(1600 * factor))
    monkeypatch.setattr(policy, "MOST_PIXELS", int(1600 * factor))
    with pytest.raises(BadImage, match=f"more.* than {1600 * factor:,.0f}.*{LIMIT}"):
        decode(data)
    monkeypatch.setenv(LIMIT, "1600")
    assert decode(data).pixels.shape == (3, 40, 40)


@pytest.mark.parametrize("value", ["0", "-1", "many", "1e9", "9" * 5000])
def test_a_limit_that_is_no_number_is_refused_by_name(value, noise, encoded, monkeypatch):
    monkeypatch.setenv(LIMIT, value)
    with pytest.raises(InputError, match=rf"{LIMIT} is .*write a number"):
        decode(encoded(noise(0)))


CHUNKS = [("iCCP", "before"), ("tEXt", "before"), ("zTXt", "before"), ("zTXt", "behind"), ("iTXt", "behind")]


@pytest.mark.parametrize(("kind", "place"), CHUNKS)
def test_large_profiles_and_texts_do_not_make_an_image_damaged(kind, place, noise, encoded):
    text = zlib.compress(bytes(3_000_000))
    body = {"iCCP": b"p\0\0" + text, "tEXt": b"a\0" + b"x" * 70_000_000, "zTXt": b"a\0\0" + text}
    data, chunk = encoded(noise(1)), body.get(kind, b"XML:com.adobe.xmp\0\1\0\0\0" + text)
    chunk = struct.pack(">I", len(chunk)) + kind.encode() + chunk + struct.pack(">I", zlib.crc32(kind.encode() + chunk))
    cut = 33 if place == "before" else len(data) - 12  # behind the header, or before the end
    assert (decode(data[:cut] + chunk + data[cut:]).pixels == decode(data).pixels).all()


@pytest.mark.parametrize("packed", [False, True])
def test_an_orientation_in_a_text_of_a_png_counts(packed, encoded):
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=packed)
    assert decode(encoded(Image.fromarray(np.array([[1, 2, 3]], np.uint8)), pnginfo=info)).pixels.shape == (1, 3, 1)


def test_damaged_exif_is_no_damaged_image_and_no_warning_of_pillow_is_heard(noise, encoded):
    data = encoded(noise(1), "jpeg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\x0f")
    tiff = encoded(noise(1), "tiff")
    compression = tiff.index(struct.pack("<HHI", 259, 3, 1))
    doubled = tiff[: compression + 4] + struct.pack("<I", 2) + tiff[compression + 8 :]  # two entries, where one belongs
    with warnings.catch_warnings(record=True) as heard:
        assert decode(data).pixels.shape == (3, 16, 16)
        assert decode(doubled).pixels.shape[0] == 3
    assert [str(warning.message) for warning in heard] == []
    for file in (data, doubled):
        with pytest.warns(UserWarning, match="EXIF|Metadata"):  # the files do make Pillow warn
            Image.open(io.BytesIO(file)).getexif()


def test_a_file_that_would_start_another_program_is_not_opened():
    with pytest.raises(BadImage, match="known format"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n")
