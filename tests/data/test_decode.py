"""Every kind of image file becomes the grey levels the policy in decode.py promises."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from PIL import Image

from ddpm.base.image_io import MODES
from ddpm.data import decode as policy
from ddpm.data.decode import ALPHA_MODES, EXTENSIONS, EXTENSIONS_OF, PLAIN_MODES, BadImage, decode

LOSSLESS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
FORMAT_OF = {suffix: file_format for file_format, suffixes in EXTENSIONS_OF.items() for suffix in suffixes}
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
    file_format = FORMAT_OF[extension]
    mode = "L" if extension == ".pgm" else "RGB"
    pixels = decode(encoded(Image.new(mode, (7, 5), 90 if mode == "L" else (90, 90, 90)), file_format)).pixels
    assert pixels.shape[1:] == (5, 7)
    assert abs(pixels.astype(int) - 90).max() <= 2  # lossy formats round


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


@pytest.mark.parametrize("factor", [0.9, 0.4])  # Pillow itself warns at once, and refuses at twice, its limit
def test_a_decompression_bomb_is_a_bad_image(factor, noise, encoded, monkeypatch):
    data = encoded(noise(0, size=(40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(1600 * factor))
    warned = pytest.warns(Image.DecompressionBombWarning) if factor > 0.5 else contextlib.nullcontext()
    with warned, pytest.raises(BadImage, match="decompression bombs"):
        decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1600)
    assert decode(data).pixels.shape == (3, 40, 40)


def test_a_file_that_would_start_another_program_is_not_opened():
    with pytest.raises(BadImage, match="known format"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n")
