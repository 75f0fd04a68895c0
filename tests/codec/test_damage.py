"""Files that are cut, altered or made up: only the named errors, no hang, and never wrong pixels called lossless."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from codecs_of_tests import Pixels, decoded, header_bytes

from ddpm.codec.codec_data import Codec
from ddpm.codec.container import CLASS, GREY, LOSSLESS, MOST_PIXELS, STORED, Cursor, Header, read_header
from ddpm.codec.decode import DAMAGED, PARTIAL, Decoded
from ddpm.codec.decode import LOSSLESS as EXACT
from ddpm.codec.decode import LOSSY as WHOLE
from ddpm.codec.encode import Encoded, encode, stored
from ddpm.codec.progressive import Chain
from ddpm.codec.tiles import steps_each, units_done
from ddpm.errors import DamagedFile, WrongModel


@pytest.fixture(scope="module")
def image(photograph: Pixels) -> Pixels:
    """Two tiles, the second of them a narrow one."""
    return photograph[:, 200:220, 300:340].copy()


@pytest.fixture(scope="module")
def file(linear: Codec, image: Pixels) -> bytes:
    """Lossless."""
    return encode(linear, [image])[0].data


@pytest.fixture(scope="module")
def lossy(linear: Codec, image: Pixels) -> bytes:
    """Of the same image, with all steps."""
    return encode(linear, [image], most_bytes=[10**5])[0].data


# ---- prefixes -------------------------------------------------------------------------------------------------------


def test_prefix_is_refused_inside_the_header_and_is_an_image_behind_it(linear: Codec, photograph: Pixels):
    small = photograph[:, 200:212, 300:312].copy()
    file = encode(linear, [small])[0].data
    start = header_bytes(file)
    for length in range(start):
        with pytest.raises(DamagedFile, match=r"inside its header|not a .dpc file"):
            decoded(linear, [file[:length]])
    lengths = range(start, len(file), 3)
    for length, found in zip(lengths, decoded(linear, [file[:length] for length in lengths]), strict=True):
        assert found.status == PARTIAL
        assert found.image is not None
        assert found.image.shape == small.shape
        assert found.steps[0] == units_done(linear.chain.bits, 1, 8 * (length - start))
    assert decoded(linear, [file])[0].status == EXACT


def test_cut_file_of_two_tiles_has_each_as_far_as_it_reaches(linear: Codec, file: bytes):
    start = header_bytes(file)
    for length in range(start, len(file), 67):
        found = decoded(linear, [file[:length]])[0]
        units = units_done(linear.chain.bits, 2, 8 * (length - start))
        assert (found.status, found.steps[0]) == (PARTIAL, steps_each(2, units).min())


def test_prefix_is_the_image_of_a_lossy_file_of_as_many_steps(linear: Codec, file: bytes, image: Pixels):
    for limit in (20, 60, 100, 150):
        small = encode(linear, [image], most_bytes=[limit])[0].data
        cut = file[: header_bytes(file) + len(small) - header_bytes(small) - 2]
        assert (decoded(linear, [cut])[0].image == decoded(linear, [small])[0].image).all()


def test_longer_prefixes_are_better_images_on_average(linear: Codec, crops: list[Pixels], coded: list[Encoded]):
    files = [one.data for one in coded]
    ends = [header_bytes(files[0]) + -(-int(end) // 8) for end in np.cumsum(linear.chain.bits)]
    before = np.inf
    for end in ends[::3]:
        found = decoded(linear, files, most_bytes=end)
        errors = [((one.image.astype(float) - crop) ** 2).mean() for one, crop in zip(found, crops, strict=True)]
        error = float(np.mean(errors))
        assert error < before
        before = error


def test_tile_without_a_step_is_mid_grey_and_nothing_is_computed_for_it(linear: Codec, monkeypatch: pytest.MonkeyPatch):
    side, calls = 4096, []
    empty = Header(LOSSLESS, bytes.fromhex(linear.fingerprint)[:4], (side, side)).pack()
    plain = Chain.x0
    monkeypatch.setattr(Chain, "x0", lambda chain, x, *rest: calls.append(len(x)) or plain(chain, x, *rest))
    found = decoded(linear, [empty + bytes(9)])[0]
    assert sum(calls) == 4  # two tiles, one step and one look each
    assert found.status == PARTIAL
    assert found.image is not None
    grey = found.image == 128
    assert not grey[:, :32, :64].all()  # two tiles have a step
    assert grey[:, 32:].all()
    assert grey[:, :, 96:].all()


# ---- what must be refused -------------------------------------------------------------------------------------------


def test_bytes_behind_the_end_are_refused(linear: Codec, file: bytes, lossy: bytes, image: Pixels):
    for data in (file, lossy, stored(linear, image).data):
        for more in (b"\0", b"\0" * 9, data[:3]):
            with pytest.raises(DamagedFile, match="after its end"):
                decoded(linear, [data + more])


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n" + bytes(40), b"\x8f", b"DPC", bytes(100), b"\x8fD" + b"x" * 9]
)
def test_what_is_not_a_dpc_file_is_refused(data: bytes, linear: Codec):
    with pytest.raises(DamagedFile, match=r"not a .dpc file|inside its header"):
        decoded(linear, [data])


def test_unknown_version_is_named(linear: Codec, file: bytes):
    with pytest.raises(DamagedFile, match="version 2"):
        decoded(linear, [file[:3] + b"\x02" + file[4:]])


def test_another_model_is_named_with_both_fingerprints(linear: Codec, file: bytes, image: Pixels):
    other = Header(LOSSLESS, b"\x01\x02\x03\x04", (20, 40)).pack()
    with pytest.raises(WrongModel, match=rf"01020304.*{linear.fingerprint}"):
        decoded(linear, [other + file[header_bytes(file) :]])


@pytest.mark.parametrize(
    "size", [(0, 5), (5, 0), (2**16 + 1, 1), (1, 2**16 + 1), (2**13, 2**12), (2**34, 2**34), (2**16, 2**16)]
)
def test_hostile_sizes_are_refused_before_anything_is_made_for_them(size: tuple[int, int], linear: Codec):
    assert size[0] * size[1] > MOST_PIXELS or min(size) < 1 or max(size) > 2**16
    data = Header(LOSSLESS, bytes.fromhex(linear.fingerprint)[:4], size).pack() + bytes(40)
    with pytest.raises(DamagedFile, match="pixels"):
        decoded(linear, [data])


def test_claims_that_do_not_fit_the_model_are_refused(linear: Codec):
    own = bytes.fromhex(linear.fingerprint)[:4]
    steps = len(linear.chain.steps)
    cases = {
        "steps of tiles": Header(0, own, (20, 40), units=2 * steps + 1),
        "class": Header(CLASS, own, (20, 40), units=1, label=0),
        "seed": Header(LOSSLESS | 8, own, (20, 40), seeds=((2, 1),)),
        "flags 0x05": Header(STORED | LOSSLESS, own, (20, 40)),
        "flags 0x20": Header(32, own, (20, 40), units=0),
    }
    for words, header in cases.items():
        with pytest.raises(DamagedFile, match=words):
            decoded(linear, [header.pack() + bytes(600)])


def test_damage_behind_the_header_gives_the_lossy_image_and_says_so(
    linear: Codec, file: bytes, lossy: bytes, image: Pixels
):
    clean = decoded(linear, [lossy])[0].image
    residual = file[:-9] + bytes([file[-9] ^ 4]) + file[-8:]
    found = decoded(linear, [residual])[0]
    assert found.status == DAMAGED
    assert "lossless layer" in found.problem
    assert (found.image == clean).all()
    place = header_bytes(file) + 5
    for data in (file, lossy):
        broken = decoded(linear, [data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]])[0]
        assert broken.status == DAMAGED
        assert "progressive layer" in broken.problem
        assert broken.image is not None


def test_damage_in_the_progressive_layer_is_named_though_the_rest_is_cut(linear: Codec, file: bytes):
    place = header_bytes(file) + 5
    broken = decoded(linear, [file[:place] + bytes([file[place] ^ 1]) + file[place + 1 : -1]])[0]
    assert broken.status == DAMAGED
    assert "progressive layer" in broken.problem


@pytest.mark.parametrize("seeds", [(), ((0, 0),), ((1, 4), (0, 4)), ((1, 4), (1, 5))])
def test_seeds_have_one_form_only(seeds: tuple[tuple[int, int], ...], linear: Codec):
    own = bytes.fromhex(linear.fingerprint)[:4]
    with pytest.raises(DamagedFile, match="list of seeds"):
        decoded(linear, [Header(LOSSLESS | 8, own, (20, 40), seeds=seeds).pack() + bytes(600)])


@pytest.mark.parametrize("number", [b"\xff\xff\xff\xff\xff\x01", b"\x94\x00"])
def test_numbers_have_one_form_only(number: bytes, linear: Codec):
    own = bytes.fromhex(linear.fingerprint)[:4]
    with pytest.raises(DamagedFile, match=r"35 bits|shortest form"):
        decoded(linear, [b"\x8fDP\x01\x01" + own + number + bytes(60)])


# ---- at random ------------------------------------------------------------------------------------------------------


def mutation(draw: np.random.Generator, files: list[bytes]) -> bytes:
    """A file with something done to it."""
    data = bytearray(files[draw.integers(len(files))])
    kind = draw.integers(8)
    if kind == 0:  # flips, near the front half of the time
        for _ in range(draw.integers(1, 4)):
            place = draw.integers(min(len(data), 24 if draw.random() < 0.5 else len(data)))
            data[place] ^= 1 << draw.integers(8)
    elif kind == 1:
        del data[draw.integers(len(data)) :]
    elif kind == 2:
        data += draw.bytes(draw.integers(1, 30))
    elif kind == 3:
        start = draw.integers(len(data))
        del data[start : start + draw.integers(1, 20)]
    elif kind == 4:
        start = draw.integers(len(data))
        data[start : start + 8] = draw.bytes(draw.integers(0, 16))
    elif kind == 5:
        data = bytearray(draw.bytes(draw.integers(0, 200)))
    elif kind == 6:  # a sound header before nonsense
        other = files[draw.integers(len(files))]
        data = bytearray(other[: header_bytes(other)] + draw.bytes(draw.integers(0, 400)))
    else:  # another model or size with a true checksum; a lossy file of another size would be as good as any
        other = files[draw.choice([0, 2])]
        header = read_header(Cursor(other))
        size = (int(draw.integers(1, 70)), int(draw.integers(1, 70)))
        changed = {"fingerprint": draw.bytes(4)} if draw.random() < 0.5 else {"size": size}
        data = bytearray(replace(header, **changed).pack() + other[header_bytes(other) :])
    return bytes(data)


def outcomes(linear: Codec, files: list[bytes], image: Pixels, count: int, seed: int) -> dict[str, int]:
    """What becomes of so many mutations."""
    draw, seen = np.random.default_rng(seed), {}
    for _ in range(count):
        data = mutation(draw, files)
        try:
            found: Decoded | None = decoded(linear, [data])[0]
        except (DamagedFile, WrongModel) as error:
            kind, found = type(error).__name__, None
        if found is not None:
            kind = found.status
            assert kind != EXACT or (found.image == image).all()
            assert kind != WHOLE or data in files
            assert bool(found.problem) == (kind in (DAMAGED, PARTIAL))
        seen[kind] = seen.get(kind, 0) + 1
    return seen


@pytest.fixture(scope="module")
def victims(linear: Codec, file: bytes, lossy: bytes, image: Pixels) -> list[bytes]:
    return [file, lossy, stored(linear, image).data]


@pytest.mark.parametrize(("count", "seed"), [(200, 0), pytest.param(2000, 1, marks=pytest.mark.slow)])
def test_mutations_give_every_kind_of_answer_and_no_other(
    count: int, seed: int, linear: Codec, victims: list[bytes], image: Pixels
):
    """Of 2,000: 886 refused, 109 of another model, 509 cut, 495 damaged, and one unharmed (a bit flipped twice)."""
    seen = outcomes(linear, victims, image, count, seed)
    assert sum(seen.values()) == count
    assert {"DamagedFile", "WrongModel", DAMAGED, PARTIAL} <= set(seen), seen


def test_grey_flag_on_a_stored_colour_image_is_damage(linear: Codec, image: Pixels):
    own = bytes.fromhex(linear.fingerprint)[:4]
    data = stored(linear, image).data
    lying = Header(STORED | GREY, own, (20, 40)).pack() + data[header_bytes(data) :]
    assert decoded(linear, [lying])[0].status == DAMAGED
