"""Memory is bounded from headers: archives that unpack to far more, large 16-bit images on all threads, pipes."""

from __future__ import annotations

import gzip
import io
import os
import struct
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.data import decode as limits
from ddpm.data.decode import LIMIT, BadImage
from ddpm.data.formats import FORMATS, may_be_image
from ddpm.data.items import FolderItems, ZipItems, unpacked
from ddpm.data.memory import DECODING, Memory
from ddpm.data.preflight import inspect_source
from ddpm.data.sources import open_images
from ddpm.errors import InputError


def megabytes(read: Callable[[], object]) -> float:
    """The most memory that Python and NumPy hold while something is read."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def zeros_packed(count: int) -> bytes:
    """So many zero bytes as raw deflate, made without holding them."""
    packer, block = zlib.compressobj(1, zlib.DEFLATED, -15), bytes(2**20)
    return b"".join([*(packer.compress(block) for _ in range(count // 2**20)), packer.flush()])


def png16(height: int, width: int) -> bytes:
    """A black 16-bit grey PNG."""
    packer, row = zlib.compressobj(9), bytes(1 + 2 * width)
    pixels = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    body = b""
    for kind, data in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)), (b"IDAT", pixels)):
        body += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + body + b"\0\0\0\0IEND\xaeB`\x82"


# ---- zip ------------------------------------------------------------------------------------------------------------


def zip_of(packed: bytes, claimed: int) -> bytes:
    """A zip with a.png, raw deflate that is said to unpack to so many bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.png", packed)
    data = stream.getvalue()
    for signature, place in ((b"PK\1\2", 10), (b"PK\3\4", 8)):
        start = data.rindex(signature) + place
        data = data[:start] + struct.pack("<H", 8) + data[start + 2 :]  # deflate
        data = data[: start + 14] + struct.pack("<I", claimed) + data[start + 18 :]
    return data


def test_a_member_that_says_it_is_huge_is_not_unpacked(tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_of(zeros_packed(1 << 20), 2**32 - 2))
    report = inspect_source(str(tmp_path / "a.zip"))
    assert f"4,294,967,294 bytes, more than an image of {limits.MOST_PIXELS:,}" in report.bad["a.png"]
    assert LIMIT in report.bad["a.png"]


def test_a_member_that_hides_how_large_it_is_is_unpacked_to_no_more(tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_of(zeros_packed(1 << 27), 1000))
    said: list[str] = []
    assert megabytes(lambda: said.extend(inspect_source(str(tmp_path / "a.zip")).bad.values())) < 10
    assert len(said) == 1


def test_of_a_large_member_only_the_start_is_unpacked_unless_it_begins_like_an_image(tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_of(zeros_packed(600 << 20), 600 << 20))
    said: list[str] = []
    assert megabytes(lambda: said.extend(inspect_source(str(tmp_path / "a.zip")).bad.values())) < 10
    assert said == ["not an image of a known format"]


def test_a_large_member_is_held_once(noise, encoded, monkeypatch, tmp_path):
    image = noise(0, size=(1000, 1000))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.bmp", encoded(image, "bmp"))
    monkeypatch.setattr("ddpm.data.items.LARGE", 2**20)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        entry = archive.getinfo("a.bmp")
        assert megabytes(lambda: unpacked(archive, entry, image=True)) < 5.5
        assert unpacked(archive, entry, image=True) == encoded(image, "bmp")


@pytest.mark.parametrize("file_format", FORMATS)
def test_images_of_every_format_begin_like_images(file_format, noise, encoded):
    assert may_be_image(encoded(noise(), file_format)[:256])


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_of_other_packers_are_unpacked_piece_by_piece(kind, noise, encoded, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", kind) as archive:
        archive.writestr("a.png", encoded(noise(0)))
    assert (open_images(str(tmp_path / "a.zip")).read(0) == np.asarray(noise(0)).transpose(2, 0, 1)).all()


def test_the_limit_on_members_is_raised_by_name(noise, encoded, monkeypatch, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.bmp", encoded(noise(0, size=(40, 40)), "bmp"))
    items = ZipItems(zipfile.ZipFile(tmp_path / "a.zip"), tuple(archive.infolist()))
    monkeypatch.setattr(limits, "HEADER_BYTES", 0)
    monkeypatch.setenv(LIMIT, "600")
    with pytest.raises(BadImage, match=r"4,854 bytes, more than an image of 600 pixels"):
        items.image(0)
    monkeypatch.setenv(LIMIT, "1600")
    assert items.image(0).pixels.shape == (3, 40, 40)


def test_a_large_file_is_not_read(folder, noise, tmp_path):
    source = folder({"a.png": noise(0)})
    with open(f"{source}/b.png", "wb") as file:
        file.truncate(2**40)  # a hole
    assert "1,099,511,627,776 bytes" in inspect_source(source).bad["b.png"]


# ---- IDX ------------------------------------------------------------------------------------------------------------


def idx(shape: tuple[int, ...], body: bytes) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + body


def packed_idx(shape: tuple[int, ...], count: int) -> bytes:
    head = gzip.compress(idx(shape, b""))
    return head + b"\x1f\x8b\x08" + bytes(6) + b"\xff" + zeros_packed(count) + bytes(8)  # a second member, unchecked


@pytest.mark.parametrize(
    ("shape", "said"), [((1, 28, 28), "cut short or damaged"), ((4096, 2048, 512), "DDPM_MAX_UNPACKED to 4294967296")]
)
def test_a_packed_idx_file_is_read_to_what_its_header_says(shape, said, tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(packed_idx(shape, 1 << 27))

    def read() -> None:
        with pytest.raises(InputError, match=said):
            open_images(str(tmp_path))

    assert megabytes(read) < 10


@pytest.mark.parametrize("shape", [(2**32 - 1, 2**32 - 1, 2**32 - 1), (6, 9, 13), (5, 9, 12)])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_an_idx_file_of_another_length_is_damaged(shape, ending, tmp_path):
    data = idx(shape, bytes(6 * 9 * 12))
    (tmp_path / f"train-images-idx3-ubyte{ending}").write_bytes(gzip.compress(data) if ending else data)
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte.*(damaged: its header says|unpacks)"):
        open_images(str(tmp_path))


def test_a_packed_idx_file_with_a_wrong_checksum_is_damaged(tmp_path):
    data = bytearray(gzip.compress(idx((1, 2, 2), bytes(4))))
    data[-6] ^= 1
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(bytes(data))
    with pytest.raises(InputError, match="damaged"):
        open_images(str(tmp_path))


# ---- images on all threads ------------------------------------------------------------------------------------------


def test_large_images_are_decoded_one_after_the_other(tmp_path, monkeypatch):
    for k in range(8):
        (tmp_path / f"{k}.png").write_bytes(png16(100, 200))
    taken, convert = [], limits._from_wide_grey
    monkeypatch.setattr(DECODING, "most", 400_000)
    monkeypatch.setattr(limits, "_from_wide_grey", lambda *given: taken.append(DECODING.taken) or convert(*given))
    inspect_source(str(tmp_path))
    claim = limits.PIXEL_BYTES * 100 * 200
    assert len(taken) == 8
    assert all(claim < count < 2 * claim for count in taken)
    assert DECODING.taken == 0


def test_sixteen_bits_become_eight_without_large_copies():
    image = Image.fromarray(np.arange(4_000_000, dtype=np.uint16).reshape(1000, 4000))
    assert megabytes(lambda: limits._from_wide_grey(image, "PNG", "I;16")) < 25  # 8 as they are, 4 as they become


def test_threads_wait_for_memory_and_never_for_each_other():
    memory, seen = Memory(100), []

    def work(sizes: tuple[int, ...]) -> None:
        with memory.held():
            for size in sizes:
                memory.take(size)
            with memory.held():  # within another it changes nothing
                seen.append(memory.taken)

    threads = [threading.Thread(target=work, args=((5, size),)) for size in (10, 20, 50, 90, 95, 60, 30) * 20]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(seen) == len(threads)
    assert max(seen) <= 100
    assert memory.taken == 0


def test_what_takes_more_than_all_is_taken_alone():
    memory = Memory(100)
    with memory.held():
        memory.take(1000)
        assert memory.taken == 1000
        waiting = threading.Thread(target=lambda: [memory._own.__dict__.update(open=True, taken=0), memory.take(1)])
        waiting.start()
        waiting.join(timeout=0.2)
        assert waiting.is_alive()
    waiting.join(timeout=30)
    assert not waiting.is_alive()


# ---- what is no file ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize("linked", [False, True])
def test_pipes_and_devices_are_no_images_and_nothing_waits_for_them(linked, folder, noise, tmp_path):
    source = folder({"a.png": noise(0)})
    os.mkfifo(tmp_path / "pipe" if linked else f"{source}/b.png")
    if linked:
        os.symlink(tmp_path / "pipe", f"{source}/b.png")
    os.symlink("/dev/zero", f"{source}/c.png")
    report = inspect_source(source)
    assert (report.images, report.bad, report.left_out) == (1, {}, {"pipes or devices": {".png": 2}})
    items = FolderItems(Path(source), ("b.png", "c.png"), (0, 0))  # and if they came there later
    for k in range(2):
        with pytest.raises(BadImage, match="no regular file"):
            items.image(k)
