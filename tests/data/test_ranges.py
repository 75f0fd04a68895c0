"""Images that use a small part of their range are reported with the range and what to do."""

from __future__ import annotations

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ddpm.data.preflight import inspect_source
from ddpm.data.scan import narrow_range
from ddpm.data.sources import open_images


def files_of(*images: np.ndarray) -> dict[str, Image.Image]:
    return {f"{k}.png": Image.fromarray(image) for k, image in enumerate(images)}


COLOUR_TYPES = {"RGB": (2, 3), "grey + alpha": (4, 2), "RGBA": (6, 4)}


def png_of_16_bits(colour_type: int, levels: np.ndarray) -> bytes:
    """A PNG of levels (H, W, C) that Pillow does not write."""
    height, width, _ = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header, body = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0), b""
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        body += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + body


TWELVE = np.array([[0, 5], [2000, 4095]], np.uint16)
MASK = np.array([[0, 1], [1, 0]], np.uint8)
NARROW = {
    "12 bits in 16": ([TWELVE, TWELVE // 2], r"0 to 4,095 of 0 to 65,535.* multiply them by 16"),
    "a mask": ([MASK, 1 - MASK], r"0 to 1 of 0 to 255.* multiply them by 255"),
    "a mask in colour": ([np.stack([MASK] * 3, axis=-1)], r"0 to 1 of 0 to 255.* multiply them by 255"),
    "a mask with alpha": ([np.stack([MASK, 255 * MASK], axis=-1)], r"0 to 1 of 0 to 255.* multiply them by 255"),
    "fog": ([MASK + 100], r"100 to 101 of 0 to 255.* subtract 100 and multiply by 255"),
    "one level": ([MASK * 0 + 7], r"7 to 7 of 0 to 255: there is nothing to learn"),
    "black": ([MASK * 0], r"0 to 0 of 0 to 255: there is nothing to learn"),
}


@pytest.mark.parametrize("case", NARROW)
def test_a_small_part_of_the_range_is_reported_with_a_remedy(case, folder):
    images, sentence = NARROW[case]
    report = inspect_source(folder(files_of(*images)))
    (hint,) = (hint for hint in report.suggestions if "the levels of all images" in hint)
    assert narrow_range(report.levels) == hint
    opened = open_images(folder(files_of(*images)))
    for text in (hint, opened.summary()[1]):
        assert re.search(sentence, text)


def test_the_remedy_of_a_set_is_that_of_its_widest_image(folder):
    source = folder(files_of(TWELVE, TWELVE * 8))
    assert inspect_source(source).levels == (0, 32760, 65535)
    assert "levels" not in open_images(source).summary()[1]


def test_one_bright_image_of_8_bits_hides_no_dark_ones_of_16_bits(folder):
    source = folder(files_of(MASK * 255, TWELVE, TWELVE // 2))
    said = "the levels of 2 of 3 images, those of 16 bits, lie in 0 to 4,095 of 0 to 65,535"
    assert said in open_images(source).summary()[1]
    assert [hint for hint in inspect_source(source).suggestions if said in hint and "multiply them by 16" in hint]


@pytest.mark.parametrize("case", COLOUR_TYPES)
@pytest.mark.parametrize("shift", [0, 4])
def test_colour_of_16_bits_speaks_of_the_range_of_its_file(case, shift, folder):
    colour_type, channels = COLOUR_TYPES[case]
    levels = np.full((2, 2, channels), 65535, np.uint16)
    levels[..., : channels - (channels % 2 == 0)] = (TWELVE << shift)[..., None]
    source = folder({"a.png": png_of_16_bits(colour_type, levels)})
    said = open_images(source).summary()[1]
    assert inspect_source(source).levels == (0, 4095 if shift == 0 else 65535, 65535)
    assert ("0 to 4,095 of 0 to 65,535, so" in said and "multiply them by 16 and" in said) == (shift == 0)


def test_files_of_8_and_16_bits_are_compared_by_their_parts(folder):
    assert inspect_source(folder(files_of(MASK * 128, TWELVE))).levels == (0, 128, 255)
    assert inspect_source(folder(files_of(MASK, TWELVE), "both")).levels == (0, 4095, 65535)


@pytest.mark.parametrize("key", ["set.npz", "set.npy"])
def test_arrays_are_looked_at_too(key, tmp_path):
    masks = np.random.default_rng(0).integers(0, 2, (1500, 5, 5), np.uint8)
    save = np.save if key.endswith("npy") else lambda path, images: np.savez(path, images=images)
    save(tmp_path / key, masks)
    assert "multiply them by 255" in open_images(str(tmp_path / key)).summary()[1]
    masks[1400, 2, 2] = 200
    save(tmp_path / key, masks)
    assert "levels" not in open_images(str(tmp_path / key)).summary()[1]


def test_images_that_use_their_range_are_not_spoken_of():
    assert "levels" not in open_images("digits").summary()[1]
    report = inspect_source("digits[0:5]")
    assert "levels      0 to 255 of 0 to 255" in report.lines()
    assert not any("levels" in hint for hint in report.suggestions)
