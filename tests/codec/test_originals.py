"""Lossless means lossless: whatever file an image lies in, it comes back as it was, or is refused with the reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

import ddpm
from ddpm.base.tensors import Pixels
from ddpm.codec import to_files
from ddpm.codec.codec_data import Codec
from ddpm.codec.encode import Encoded, encode, stored
from ddpm.codec.file_reports import CompressionReport
from ddpm.data.sources import ImageSet
from ddpm.errors import InputError
from ddpm.model.model import Model
from ddpm.training.linear_model import make_linear
from scorings import image_set, pixels

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (5, 6, 4), dtype=np.uint8)
WIDE = RNG.integers(0, 65536, (5, 6), dtype=np.uint16)
MODES: dict[str, Image.Image] = {
    "1": Image.fromarray(LEVELS[..., 0] > 127),
    "L": Image.fromarray(LEVELS[..., 0]),
    "P": Image.fromarray(LEVELS[..., :3]).quantize(16),
    "LA": Image.fromarray(LEVELS[..., :2], "LA"),
    "PA": Image.fromarray(LEVELS[..., :2], "LA").convert("PA"),
    "RGB": Image.fromarray(LEVELS[..., :3]),
    "RGBA": Image.fromarray(LEVELS),
    "RGBX": Image.fromarray(LEVELS, "RGBX"),
    "CMYK": Image.fromarray(LEVELS, "CMYK"),
    "YCbCr": Image.fromarray(LEVELS[..., :3], "YCbCr"),
    "LAB": Image.fromarray(LEVELS[..., :3], "LAB"),
    "HSV": Image.fromarray(LEVELS[..., :3], "HSV"),
    "I;16": Image.fromarray(WIDE),
    "I;16B": Image.frombytes("I;16B", (6, 5), WIDE.byteswap().tobytes()),
    "I": Image.fromarray(WIDE.astype(np.int32)),
    "F": Image.fromarray(WIDE.astype(np.float32)),
}
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "tif": ("TIFF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "bmp": ("BMP", {}),
    "dib": ("DIB", {}),
    "ppm": ("PPM", {}),
    "gif": ("GIF", {}),
    "webp": ("WEBP", {"lossless": True}),
    "jpg": ("JPEG", {}),
    "avif": ("AVIF", {}),
    "jp2": ("JPEG2000", {}),
}
LOSSY_FORMATS = ("JPEG", "AVIF")
EXACT = ("1", "L", "P", "RGB")
"""Modes that a lossless file holds; one may also be refused where a format keeps more than its mode."""


def written() -> dict[str, bytes]:
    """By name MODE-NUMBER.FORMAT: every mode in every format that Pillow writes it in."""
    found = {}
    for mode, image in MODES.items():
        for suffix, (name, options) in FORMATS.items():
            data = io.BytesIO()
            try:
                image.save(data, format=name, **options)
            except (OSError, KeyError, ValueError):
                continue
            found[f"{mode.replace(';', '')}-{suffix.replace('.', '-')}.{suffix.split('.')[-1]}"] = data.getvalue()
    return found


WRITTEN = written()


@pytest.fixture(scope="module", autouse=True)
def short_of_time() -> Iterator[None]:
    """Lossless files hold PNGs: what the network would save is no matter here, and takes long."""

    def quick(codec: Codec, images: list[Pixels], *, most_bytes: list[int | None], **options: Any) -> list[Encoded]:
        if most_bytes and most_bytes[0] is not None:
            return encode(codec, images, most_bytes=most_bytes, **options)
        return [stored(codec, image) for image in images]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_files, "encode", quick)
        yield


def coded(folder: Path, images: ImageSet) -> Model:
    """A linear model with codec data."""
    found = ddpm.load(make_linear(images, folder), device="cpu")
    ddpm.tune_codec(found, images, fit_steps=2, progress=False)
    return found


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Of 3 x 6 x 6."""
    return coded(tmp_path_factory.mktemp("colour") / "run", image_set(pixels(16, (3, 6, 6))))


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Of 1 x 6 x 6."""
    return coded(tmp_path_factory.mktemp("grey") / "run", image_set(pixels(16, (1, 6, 6))))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- every mode and format ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def there_and_back(colour: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompressionReport]:
    """All of them in a folder, compressed, and what could be decompressed again."""
    folder = tmp_path_factory.mktemp("modes")
    (folder / "in").mkdir()
    for name, data in WRITTEN.items():
        (folder / "in" / name).write_bytes(data)
    report = ddpm.compress_files(colour, [folder / "in"], folder / "files", progress=False)
    back = ddpm.decompress_files(colour, [folder / "files"], folder / "back", progress=False)
    assert {row.status for row in back.files} == {"lossless"}
    return folder, report


def test_pillow_writes_the_modes_that_matter():
    assert len(WRITTEN) > 40
    named = {name.split("-")[0] for name in WRITTEN}
    assert named >= {mode.replace(";", "") for mode in MODES if mode not in ("RGBX", "LAB", "HSV")}


@pytest.mark.parametrize("name", WRITTEN)
def test_each_mode_of_each_format_comes_back_as_it_was_or_is_refused(
    name: str, there_and_back: tuple[Path, CompressionReport]
):
    folder, report = there_and_back
    row = next(row for row in report.files if Path(row.image).name == name)
    mode = next(mode for mode in MODES if mode.replace(";", "") == name.split("-")[0])
    stored = Image.open(folder / "in" / name)
    if row.file is None:
        assert row.exit_code == InputError.exit_code
        assert row.problem.endswith(".")
        assert mode not in EXACT
        return
    assert stored.mode in EXACT, "Pillow may have written it as another mode"
    back = np.asarray(Image.open((folder / "back" / name).with_suffix(".png")).convert("RGB"))
    same = mode in EXACT and stored.format not in LOSSY_FORMATS
    wanted = MODES[mode] if same else stored
    assert (back == np.asarray(wanted.convert("RGB"))).all()
    assert [note.split()[-1] for note in row.notes if "comes back" in note] == {"1": ["8"], "P": ["without"]}.get(
        stored.mode, []
    )


# ---- what Pillow reads as 8 bits, or as one image -------------------------------------------------------------------


def png(colour_type: int, depth: int, rows: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of 2 x 3, its rows each with their filter byte; more chunks stand before the pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 3, 2, depth, colour_type, 0, 0, 0)), *more]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def tiff_of_16_bits() -> bytes:
    """RGB of 2 x 3, which Pillow opens and does not write."""
    rows = WIDE.tobytes()[: 2 * 3 * 3 * 2]
    tags = [(256, 3), (257, 2), (258, 16), (259, 1), (262, 2), (273, 8), (277, 3), (278, 2), (279, len(rows))]
    place = 8 + len(rows)
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries[2] = struct.pack("<HHII", 258, 3, 3, place)
    directory = place + 6
    return (
        b"II*\0"
        + struct.pack("<I", directory)
        + rows
        + struct.pack("<HHH", 16, 16, 16)
        + (struct.pack("<H", len(entries)) + b"".join(entries) + b"\0" * 4)
    )


def frames(suffix: str, **options: Any) -> bytes:
    data, first = io.BytesIO(), MODES["RGB"]
    second = first.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    first.save(data, format=suffix, save_all=True, append_images=[second], **options)
    return data.getvalue()


MORE = {
    "rgb48.png": (png(2, 16, b"".join(b"\0" + WIDE.tobytes()[18 * k : 18 * k + 18] for k in range(2))), "16 bits"),
    "rgba64.png": (png(6, 16, b"".join(b"\0" + WIDE.tobytes()[24 * k : 24 * k + 24] for k in range(2))), "16 bits"),
    "grey16.png": (png(0, 16, b"".join(b"\0" + WIDE.tobytes()[6 * k : 6 * k + 6] for k in range(2))), "16 bits"),
    "rgb48.tif": (tiff_of_16_bits(), "16 bits"),
    "wide.ppm": (b"P6 3 2 65535\n" + WIDE.tobytes()[:36], "16 bits"),
    "wide.pgm": (b"P5 3 2 65535\n" + WIDE.tobytes()[:12], "16 bits"),
    "twelve.pgm": (b"P5 3 2 4095\n" + bytes([0, 1, 2, 255, 15, 255, 3, 7, 0, 9, 1, 1]), "12 bits"),
    "fifteen.pgm": (b"P5 3 2 15\n" + bytes([0, 1, 2, 7, 14, 15]), "15"),
    "text.pgm": (b"P2 3 2 100\n0 1 2\n50 99 100\n", "100"),
    "animated.png": (frames("PNG"), "frames"),
    "animated.webp": (frames("WEBP", lossless=True), "frames"),
    "animated.gif": (frames("GIF"), "frames"),
    "pages.tif": (frames("TIFF"), "pages"),
    "cmyk.jpg": (WRITTEN["CMYK-jpg.jpg"], "CMYK"),
    "float.tif": (WRITTEN["F-tif.tif"], "F"),
    "alpha.png": (WRITTEN["RGBA-png.png"], "alpha"),
}


@pytest.mark.parametrize("name", MORE)
def test_what_is_not_wholly_in_8_bits_is_refused_by_name_and_reason(name: str, colour: Model, here: Path):
    data, reason = MORE[name]
    Path(name).write_bytes(data)
    Path("good.png").write_bytes(WRITTEN["RGB-png.png"])
    refused, good = ddpm.compress_files(colour, [name, "good.png"], "files", progress=False).files
    assert (refused.image, refused.file, refused.exit_code) == (name, None, InputError.exit_code)
    assert reason in refused.problem
    assert good.file == "files/good.dpc"
    assert [file.name for file in Path("files").iterdir()] == ["good.dpc"]


@pytest.mark.parametrize("name", ["rgb48.png", "wide.ppm", "fifteen.pgm", "animated.png", "pages.tif", "cmyk.jpg"])
def test_a_lossy_file_is_made_of_the_8_bit_image_and_says_what_is_not_in_it(name: str, colour: Model, here: Path):
    data, reason = MORE[name]
    Path(name).write_bytes(data)
    report = ddpm.compress_files(colour, [name], "files", most_bytes=40, progress=False)
    assert (report.exit_code, report.lossless) == (0, False)
    assert reason in report.files[0].notes[0]
    assert report.files[0].notes[0] in report.lines()[0]


# ---- what is not kept, or in another form ---------------------------------------------------------------------------


def test_metadata_that_are_not_kept_are_named(colour: Model, here: Path):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    MODES["RGB"].save("turned.png", exif=exif)
    MODES["RGB"].save("profile.png", icc_profile=profile)
    MODES["RGB"].save("plain.png")
    report = ddpm.compress_files(colour, ["turned.png", "profile.png", "plain.png"], "files", progress=False)
    turned, profiled, plain = report.files
    assert "EXIF orientation" in turned.notes[0]
    assert profiled.notes == ("not kept: ICC profile",)
    assert plain.notes == ()
    assert "not kept: ICC profile" in report.lines()[1]
    ddpm.decompress_files(colour, ["files"], "back", progress=False)
    assert Image.open("back/turned.png").size == (5, 6), "upright"
    assert (np.asarray(Image.open("back/profile.png")) == LEVELS[..., :3]).all()


def test_grey_stored_as_rgb_or_with_a_palette_fits_a_grey_model_and_the_row_says_how_it_comes_back(
    grey: Model, here: Path
):
    MODES["L"].convert("RGB").save("rgb.png")
    MODES["L"].convert("P").save("palette.png")
    MODES["1"].save("bit.png")
    MODES["RGB"].save("colour.png")
    paths = ["rgb.png", "palette.png", "bit.png", "colour.png"]
    report = ddpm.compress_files(grey, paths, "files", progress=False)
    assert [row.exit_code for row in report.files] == [0, 0, 0, 2]
    assert "comes back grey" in report.files[0].notes[0]
    assert "3 channels" in report.files[3].problem
    back = ddpm.decompress_files(grey, ["files"], "back", progress=False)
    assert len(back.files) == 3
    for name in paths[:3]:
        shown = Image.open(Path("back") / name)
        assert shown.mode == "L"
        assert (np.asarray(shown.convert("RGB")) == np.asarray(Image.open(name).convert("RGB"))).all()


def test_a_colour_model_keeps_grey_as_it_is_stored(colour: Model, here: Path):
    MODES["L"].convert("RGB").save("rgb.png")
    MODES["L"].save("grey.png")
    assert all(row.notes == () for row in ddpm.compress_files(colour, ["."], "files", progress=False).files)
    ddpm.decompress_files(colour, ["files"], "back", progress=False)
    assert [Image.open(f"back/{name}.png").mode for name in ("rgb", "grey")] == ["RGB", "L"]


# ---- bounds ---------------------------------------------------------------------------------------------------------


def test_an_image_of_more_than_2_to_the_24_pixels_is_refused_with_the_bound(colour: Model, here: Path):
    Image.new("L", (4097, 4096)).save("large.png")
    (row,) = ddpm.compress_files(colour, ["large.png"], "files", progress=False).files
    assert "16,777,216" in row.problem
