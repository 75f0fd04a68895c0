"""From the bytes of one image file to its grey levels, without loss where the file allows it.

The policy, which `ddpm data` prints too: EXIF orientation is applied; 1-bit becomes grey; 16-bit grey becomes
8 bit by round(v / 257), 16-bit colour by its upper byte (Pillow's reader does that); a palette becomes RGB, or RGBA
where the file declares transparency; CMYK and YCbCr become RGB; of an animation the first frame is taken; embedded
colour profiles are ignored. Floating-point and 32-bit images are refused: their range is not known.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from ddpm.base.image_io import from_pil
from ddpm.base.npz import limit_from
from ddpm.base.tensors import Pixels
from ddpm.data.formats import FORMATS
from ddpm.data.memory import DECODING
from ddpm.data.png import ORIENTATION_TEXTS, XMP, chunks, text_keywords, without_profiles
from ddpm.data.sizing import levels_of
from ddpm.errors import InputError

POLICY = (
    "EXIF orientation is applied; 1-bit and 16-bit grey become 8-bit grey, 16-bit colour is read by its upper byte; "
    "palette, CMYK and YCbCr become RGB (RGBA if transparent); of an animation the first frame is taken; "
    "floating-point images are refused."
)
PLAIN_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
ALPHA_MODES = {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}

LIMIT = "DDPM_MAX_PIXELS"
MOST_PIXELS = 89_478_485
"""Of one image, as in Pillow: more is taken for a file made to fill the memory, unless the environment says so."""
PIXEL_BYTES = 12  # memory that a pixel takes while it is decoded, looked at and scaled
FILE_BYTES = 8  # the most that a pixel takes in a file: RGBA of 16 bits, not packed
HEADER_BYTES = 2**24  # what a file may hold beside its pixels: profiles, texts, previews
UPPER_BYTE = ("PNG", "TIFF", "JPEG2000")
"""Formats whose colour of 16 bits Pillow reads by the upper byte."""
STRIP = 2**20  # pixels of 16 bits converted at a time
ORIENTATION = 0x0112  # in EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
NOT_EXACT = ("CMYK", "YCbCr", "HSV", "LAB", "I", "F")
BITS_PER_SAMPLE, COLOUR_MAP, XMP_TAG = 258, 320, 700  # tags of TIFF, as the next two lines
EXIF_TAGS = {271, 272, 34665, 34853}  # make, model, EXIF, GPS
TEXT_TAGS = {269, 270, 285, 305, 306, 315, 316, 33432}  # names, description, software, date, artist, computer, rights
JPEG2000_SIZE = b"\xff\x4f\xff\x51"
COMMENT_OR_HEADER = re.compile(rb"#[^\r\n]*|P[1-7]\s")
"""In a plain PNM, where a comment may speak of headers."""
FEW_BITS = {"L;2": 85, "L;4": 17}
"""From levels of 2 or 4 bits to those of 8."""
UNKNOWN = "not an image of a known format"
UNHEARD = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
"""Pillow's own warnings (bombs, EXIF, tags of TIFF) speak of its insides; what matters of them is an error here."""


class BadImage(Exception):
    """One image cannot be used; the text is the reason, without the name."""


@dataclass(frozen=True)
class RawImage:
    """One image as its file holds it: Pillow's name for its mode, and pixels uint8 (C, H, W), C in 1..4.

    levels  of a file of 16 bits: its lowest level, its highest, and 65,535; of colour, what the upper bytes allow
    """

    mode: str
    pixels: Pixels
    levels: tuple[int, int, int] | None = None


def decode(data: bytes) -> RawImage:
    """Read an encoded image; raises BadImage with the reason."""
    with DECODING.held(), opened(data) as image:
        return _read(image, data)


def most_pixels() -> int:
    """The pixels that one image may have: MOST_PIXELS, or what the environment's DDPM_MAX_PIXELS says."""
    return limit_from(LIMIT, MOST_PIXELS)


def most_file_bytes() -> int:
    """The bytes that a file of one image may have."""
    return FILE_BYTES * most_pixels() + HEADER_BYTES


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """An encoded image whose header is read and whose size is within the limit; BadImage for all that Pillow raises."""
    if not data:
        raise BadImage("zero bytes")
    limit = most_pixels()
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # several of Pillow's readers look there; the user raised it by name
    if UNHEARD not in warnings.filters:
        warnings.filterwarnings("ignore", module=UNHEARD[3].pattern)
    try:
        with Image.open(io.BytesIO(without_profiles(data)), formats=FORMATS) as image:
            _check_pixels(image.width, image.height, limit)
            yield image
    except (BadImage, InputError):
        raise
    except UnidentifiedImageError:
        raise BadImage(UNKNOWN) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"more pixels than {limit:,}; if it is sound, set {LIMIT} higher") from None
    except MemoryError:
        raise BadImage("too large for the memory") from None
    except Exception as error:  # Pillow's readers raise nearly any on damaged bytes
        raise BadImage("truncated" if "truncated" in str(error) else f"damaged ({error})") from None


def _check_pixels(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        count = f"{height}x{width} are {width * height:,} pixels, more than {limit:,}"
        raise BadImage(f"{count}; if it is sound, set the environment variable {LIMIT} to {width * height}")


def _read(image: Image.Image, data: bytes) -> RawImage:
    DECODING.take(PIXEL_BYTES * image.width * image.height)
    halved = image.format in UPPER_BYTE and image.mode not in ("P", "PA") and _bits(image, data) == 16
    factor = FEW_BITS.get(_raw_mode(image), 1)
    image.load()
    if factor > 1 and isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= factor  # Pillow scales the levels, but not the one that is transparent
    mode, file_format, transparent = image.mode, image.format, image.has_transparency_data
    name = f"{mode} (transparent)" if transparent and mode not in ALPHA_MODES else mode
    turn = TURNS.get(orientation(image))
    upright = image if turn is None else image.transpose(turn)
    if mode == "I" or mode.startswith("I;16"):
        return _from_wide_grey(upright, file_format, name)
    pixels = np.ascontiguousarray(_from_eight_bit(upright, transparent))
    if not halved:
        return RawImage(name, pixels)
    low, high, _ = levels_of(pixels)
    return RawImage(name, pixels, (256 * low, 256 * high + 255, 65535))


def orientation(image: Image.Image) -> int:
    """How EXIF or XMP says that the image is turned, 1 for upright; damaged EXIF says nothing."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1


def _from_eight_bit(image: Image.Image, transparent: bool) -> Pixels:
    """Every mode of at most 8 bits a channel; returns (C, H, W)."""
    mode = PLAIN_MODES.get(image.mode) or ALPHA_MODES.get(image.mode)
    if mode is None:
        raise BadImage(f"mode {image.mode} is not supported")
    if transparent:
        mode = WITH_ALPHA.get(mode, mode)
    return from_pil(image if image.mode == mode else image.convert(mode))


def _from_wide_grey(image: Image.Image, file_format: str | None, name: str) -> RawImage:
    """16-bit grey; Pillow's own convert("L") would clip. Pixels (1, H, W), or (2, H, W) with a transparent level."""
    if image.mode == "I" and file_format not in ("PNG", "PPM"):
        raise BadImage("32-bit grey has no known range")
    levels, clear = np.asarray(image), image.info.get("transparency")
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or high > 65535:
        raise BadImage("grey levels outside 0..65535")
    pixels = np.empty((1 if clear is None else 2, *levels.shape), np.uint8)
    rows = max(1, STRIP // levels.shape[1])
    for top in range(0, len(levels), rows):
        strip = levels[top : top + rows].astype(np.uint32)
        pixels[0, top : top + rows] = (strip + 128) // 257  # round(v / 257): 65535 = 255 * 257, and halves cannot occur
        if clear is not None:
            pixels[1, top : top + rows] = np.where(strip == clear, 0, 255)
    return RawImage(name, pixels, (low, high, 65535))


# ---- what is lost ---------------------------------------------------------------------------------------------------


def lossless_problem(data: bytes) -> str | None:
    """Why the pixels of an encoded image are not wholly in what `decode` returns, or None if they are.

    Asked are the headers alone; that the file can be decoded is not. Raises BadImage.
    """
    with opened(data) as image:
        if getattr(image, "is_animated", False) or _more_frames(image, data):
            return "it holds several frames or pages, and only the first is read"
        if _more_behind(image, data):
            return "more follows its pixels, perhaps another image, and is not read"
        depth = _bits(image, data)
        if depth > 8:
            return f"it has {depth} bits a channel, and 8 are read"
        if image.format == "PPM" and image.mode != "1" and _ppm_maximum(image) != 255:
            return f"its levels go to {_ppm_maximum(image)} and are scaled to 255"
        raw_mode = _raw_mode(image)
        if (image.format == "TIFF" and "X" in raw_mode) or _fourth_byte_varies(image, data):
            return "it has a channel more, which is not read"
        if image.mode in ("La", "RGBa") or (image.format == "TIFF" and "a" in raw_mode):
            return "its colours are multiplied by its alpha, and dividing rounds"
        if image.mode in NOT_EXACT:
            return f"its colours are {image.mode}, which RGB does not hold exactly"
    return None


def lost_metadata(data: bytes) -> list[str]:
    """What an encoded image holds beside the pixels that `decode` returns, by name: "ICC profile", "EXIF orientation",
    "EXIF", "XMP", "text", "gamma", "colour space". Raises BadImage.
    """
    with opened(data) as image:
        info, kinds, words = image.info, {kind for kind, _, _ in chunks(data)}, text_keywords(data)
        tags = set(getattr(image, "tag_v2", ()))
        found = {
            "ICC profile": "icc_profile" in info or b"iCCP" in kinds,
            "EXIF orientation": orientation(image) in TURNS,
            "EXIF": "exif" in info or b"eXIf" in kinds or b"Raw profile type exif" in words or bool(tags & EXIF_TAGS),
            "XMP": "xmp" in info or XMP in words or XMP_TAG in tags,
            "text": "comment" in info or bool(set(words) - ORIENTATION_TEXTS) or bool(tags & TEXT_TAGS),
            "gamma": "gamma" in info or b"gAMA" in kinds,
            "colour space": b"cICP" in kinds,
        }
    return [name for name, there in found.items() if there]


def _more_frames(image: Image.Image, data: bytes) -> bool:
    """Frames that Pillow does not count, behind a still PNG."""
    return image.format == "PNG" and any(kind == b"fdAT" for kind, _, _ in chunks(data))


def _more_behind(image: Image.Image, data: bytes) -> bool:
    """Whether more than blanks follows the pixels of a PNM; where these are plain text, a further header."""
    if image.format != "PPM" or image.mode == "F":
        return False
    name, _, start, _ = image.tile[0]  # type: ignore[attr-defined]
    if name == "ppm_plain":
        return any(found[0].startswith(b"P") for found in COMMENT_OR_HEADER.finditer(data, start))
    row = -(-image.width // 8) if image.mode == "1" else image.width * len(image.getbands())
    size = image.height * row * (2 if image.mode != "1" and _ppm_maximum(image) > 255 else 1)
    return re.compile(rb"\S").search(data, start + size) is not None


def _bits(image: Image.Image, data: bytes) -> int:
    """The most bits of a channel in the file, of which Pillow's mode may show only the upper 8."""
    if image.format == "PNG":
        return next((data[start + 8] for kind, start, _ in chunks(data) if kind == b"IHDR"), 8)
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        palette = image.mode in ("P", "PA") and any(level % 256 and level % 257 for level in tags.get(COLOUR_MAP, ()))
        return 16 if palette else max(tags.get(BITS_PER_SAMPLE, (1,)))
    if image.format == "PPM":
        return 32 if image.mode == "F" else 1 if image.mode == "1" else _ppm_maximum(image).bit_length()
    if image.format == "JPEG2000":
        start = data.find(JPEG2000_SIZE)  # 36 bytes of sizes and a count follow, then 3 bytes a component
        count = int.from_bytes(data[start + 40 : start + 42], "big")
        return max(((data[start + 42 + 3 * k] & 0x7F) + 1 for k in range(count)), default=8)
    if image.format == "AVIF":
        flags = [data[found.end() + 2] for found in re.finditer(b"av1C", data[:HEADER_BYTES])]
        return max((12 if flag & 0x20 else 10 for flag in flags if flag & 0x40), default=8)
    return 8


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name for how the pixels lie in the file."""
    arguments = image.tile[0].args if getattr(image, "tile", None) else ""  # type: ignore[attr-defined]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _fourth_byte_varies(image: Image.Image, data: bytes) -> bool:
    """Whether a BMP of 32 bits has something in the byte beside the colours: some programs put alpha there."""
    if image.format not in ("BMP", "DIB") or "X" not in _raw_mode(image):
        return False
    start = image.tile[0].offset + _raw_mode(image).index("X")  # type: ignore[attr-defined]
    spare = np.frombuffer(data, np.uint8)[start : start + 4 * image.width * image.height : 4]
    return bool(spare.size) and bool((spare != spare[0]).any())


def _ppm_maximum(image: Image.Image) -> int:
    """The level that stands for white in a PGM or PPM."""
    arguments = image.tile[0].args  # type: ignore[attr-defined]
    if isinstance(arguments, tuple):
        return int(arguments[1])
    return 65535 if image.mode == "I" else 255
