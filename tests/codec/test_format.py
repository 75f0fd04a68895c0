"""docs/format.md against the package: a second decoder that was written from it, and the values that it prints."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import independent
import numpy as np
import pytest
import torch
from codecs_of_tests import Pixels

import ddpm
from ddpm.codec import container, mixture, pixel_model, randomness, range_coder, trellis
from ddpm.codec import encode as encoding
from ddpm.codec.codec_data import Codec
from ddpm.codec.decode import open_file
from ddpm.diffusion.schedule import make_schedule
from ddpm.errors import DamagedFile, InputError, PartialImageWarning, WrongModel
from ddpm.model.model import Model

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "format.md"
FOLDER = Path(ddpm.__file__).parent / "linear"
D = 3072


@pytest.fixture(scope="module")
def model() -> Model:
    return ddpm.load("linear", device="cpu")


@pytest.fixture(scope="module")
def colour(photograph: Pixels) -> Pixels:
    return photograph[:, 200:206, 300:310].copy()


@pytest.fixture(scope="module")
def grey(photograph: Pixels) -> Pixels:
    return photograph[1:2, 200:220, 300:307].copy()


@pytest.fixture(scope="module")
def wide(photograph: Pixels) -> Pixels:
    """Two tiles."""
    return photograph[:, 100:103, 200:236].copy()


def unstored(patch: pytest.MonkeyPatch) -> None:
    """Tiny images would be stored as PNGs, which are smaller."""
    patch.setattr(encoding, "stored", lambda codec, image: encoding.Encoded(bytes(10**6), stored=True))


@pytest.fixture(scope="module")
def files(model: Model, colour: Pixels, grey: Pixels, wide: Pixels) -> dict[str, bytes]:
    """Lossless files of the three."""
    with pytest.MonkeyPatch.context() as patch:
        unstored(patch)
        some = {"colour": colour, "grey": grey, "wide": wide}
        return {name: ddpm.compress(model, image, verify=False) for name, image in some.items()}


# ---- the second decoder ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "flags"), [("colour", 1), ("grey", 3)])
def test_second_decoder_reads_lossless_files(
    name: str, flags: int, files: dict[str, bytes], request: pytest.FixtureRequest
):
    assert files[name][4] == flags
    assert (independent.decode(FOLDER, files[name]) == request.getfixturevalue(name)).all()


def test_second_decoder_reads_tiles_with_seeds(model: Model, photograph: Pixels, monkeypatch: pytest.MonkeyPatch):
    unstored(monkeypatch)
    monkeypatch.setattr(encoding, "MARGIN", 3e-4)  # two of ten tiles keep so far away with their first seed
    image = photograph[:, 180:183, 300:336].copy()  # two tiles
    data = ddpm.compress(model, image, verify=False)
    assert data[4] == container.LOSSLESS | container.SEEDS
    assert (independent.decode(FOLDER, data) == image).all()


def agrees(model: Model, data: bytes) -> None:
    """Both decoders show the same lossy image."""
    one, other = independent.decode(FOLDER, data), ddpm.decompress(model, data)
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.filterwarnings("ignore::ddpm.errors.PartialImageWarning")
@pytest.mark.parametrize("name", ["colour", "grey", "wide"])
def test_second_decoder_sees_the_same_in_prefixes(name: str, model: Model, files: dict[str, bytes]):
    data = files[name]
    start = reached(data)
    for more in (0, 4, 5, 37, 110):
        agrees(model, data[: start + more])
    agrees(model, data[:-1])


@pytest.mark.parametrize("size", [16, 60, 200])
def test_second_decoder_reads_lossy_files(size: int, model: Model, wide: Pixels, grey: Pixels):
    for image in (wide, grey):
        agrees(model, ddpm.compress(model, image, most_bytes=size))


def reached(data: bytes) -> int:
    cursor = container.Cursor(data)
    container.read_header(cursor)
    return cursor.place


def test_both_decoders_refuse_the_same(model: Model, wide: Pixels):
    data = ddpm.compress(model, wide, most_bytes=60)
    start = reached(data)
    flipped = [
        data[:k] + bytes([data[k] ^ 1 << k % 8]) + data[k + 1 :] for k in [*range(start), *range(start, len(data), 9)]
    ]
    seeds = container.Header(container.SEEDS, data[5:9], (3, 36), units=0, seeds=((2, 1),)).pack()
    other = container.Header(0, b"abcd", (3, 36), units=0).pack()
    beyond = container.Header(0, data[5:9], (3, 36), units=63).pack() + bytes(400)
    cut = [data[:k] for k in range(start)]
    for bad in (*flipped, *cut, data + b"\0", seeds + b"\0\0", other + b"\0\0", beyond):
        with pytest.raises(independent.Refused):
            independent.decode(FOLDER, bad)
        with pytest.raises((DamagedFile, WrongModel)):
            ddpm.decompress(model, bad)


def steps_of(linear: Codec, data: bytes) -> list[np.ndarray]:
    """The index bits of each step of a file of one tile."""
    return np.split(open_file(linear, data).packet.bits, np.cumsum(linear.chain.bits)[:-1])


@pytest.mark.parametrize("steps", [1, 25])
def test_flow_follows_the_ode_of_the_second_decoder(steps: int, model: Model, linear: Codec, files: dict[str, bytes]):
    """DDIM without noise from a state, over the levels of the codec and then over halves."""
    data, second = files["colour"], independent.open_model(FOLDER)
    x = independent.walk(second, [row.tolist() for row in steps_of(linear, data)[:steps]], 0, 0)
    levels = second.side["levels"][steps:]
    while levels[-1] > 1:
        levels.append(levels[-1] // 2)
    for here, following in itertools.pairwise([*levels, 0]):
        x0 = independent.clean(second, x, here)
        a, b = second.abar[here], second.abar[following]
        x = b**0.5 * x0 + (1 - b) ** 0.5 * (x - a**0.5 * x0) / (1 - a) ** 0.5
    size = reached(data) + -(-sum(linear.chain.bits[:steps]) // 8)
    found = ddpm.decompress(model, data, most_bytes=size, reconstruct="flow")
    assert np.abs(np.clip(np.rint((x + 1) * 127.5), 0, 255)[:, :6, :10] - found).max() <= 1
    assert (found != ddpm.decompress(model, data, most_bytes=size)).any()


def test_unknown_reconstruction_is_refused(model: Model, files: dict[str, bytes]):
    with pytest.raises(InputError, match="median"):
        ddpm.decompress(model, files["colour"], reconstruct="median")


def test_guesses_of_both_decoders_differ_by_a_hundredth_of_the_margin_at_most(linear: Codec, files: dict[str, bytes]):
    rows = steps_of(linear, files["colour"])
    start = linear.chain.start([(0, 0)], (3, 32, 32))
    steps = np.array([len(rows)])
    last = linear.chain.decode([row[None] for row in rows], start, steps)
    ours = linear.chain.clean(last, steps, batch_size=1)[0].numpy()
    second = independent.open_model(FOLDER)
    state = independent.walk(second, [row.tolist() for row in rows], 0, 0)
    theirs = independent.clean(second, state, second.side["levels"][-1])
    assert np.abs(ours - theirs).max() * 127.5 * 16 < encoding.MARGIN / 100


def test_prefix_warns_and_damage_carries_its_image(model: Model, wide: Pixels):
    data = ddpm.compress(model, wide, most_bytes=60)
    with pytest.warns(PartialImageWarning):
        ddpm.decompress(model, data[:-1])
    with pytest.raises(DamagedFile) as caught:
        ddpm.decompress(model, data[:-1] + bytes([data[-1] ^ 1]))
    assert caught.value.image.shape == wide.shape


# ---- check values ---------------------------------------------------------------------------------------------------


def check_values() -> dict[str, str]:
    """The lines under "Check values"."""
    block = re.search(r"## Check values.*?```text\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert block is not None
    return dict(line.split(" = ") for line in block[1].splitlines())


VALUES = check_values()


def spaced(numbers: object) -> str:
    return " ".join(str(int(number)) for number in numbers)  # type: ignore[attr-defined]


def hashed(numbers: object, kind: str) -> str:
    return hashlib.sha256(np.asarray(numbers).astype(kind).tobytes()).hexdigest()


def third_bits() -> list[int]:
    return [int(i % 3 == 0) for i in range(36)]


def both_noises() -> tuple[list[int], list[int]]:
    ours = trellis.noise(torch.tensor([third_bits()]), 0, D)[0] * 4096
    return independent.noise(third_bits(), 0, D), [int(value) for value in ours]


def signs(step: int) -> tuple[str, str]:
    return spaced(independent.signs(step, D)[:8]), spaced(randomness.scrambling(step, D)[1][:8])


def orders(step: int) -> tuple[list[int], list[int]]:
    return independent.order(step, D), randomness.scrambling(step, D)[0].tolist()


def words(*key: int) -> tuple[str, str]:
    one = [independent.word(independent.make_key(*key), i) for i in range(3)]
    other = randomness.words(*key, count=3).tolist()
    return " ".join(f"{word:016x}" for word in one), " ".join(f"{word:016x}" for word in other)


def gaussians(*key: int) -> tuple[str, str]:
    one = [independent.gauss(independent.make_key(*key), i) for i in range(8)]
    return spaced(one), spaced(randomness.normals(*key, count=8))


def codeword(number: int) -> tuple[str, str]:
    count = len(VALUES[f"codeword {number}"].split())
    one = [independent.gauss(independent.make_key(4), 512 * number + j) for j in range(count)]
    return spaced(one), spaced(trellis.codebook()[number, :count] * 4096)


def windows(bits: str) -> tuple[str, str]:
    values = [int(bit) for bit in bits]
    return spaced(independent.codewords(values)), spaced(trellis.windows(torch.tensor([values]))[0])


def looked_up(name: str, *places: int) -> tuple[str, str]:
    """Entries of a table of the pixel model, by the index of the document."""
    which = "ESL".index(name)
    one = (independent.exponentials(), independent.slopes(), independent.logistics())[which]
    shift = (0, 32, 24576)[which]
    return spaced(one[place] for place in places), spaced(mixture.tables()[which][place + shift] for place in places)


LOGITS, MEANS, SCALES = [0, -30, 12, -2000], [2048, 1900, 2100, 5], [10, -40, 40, 0]


def mixtures(*levels: int) -> tuple[str, str]:
    weights, scales = independent.weights_of(LOGITS), [max(scale, -32) for scale in SCALES]
    one = [independent.frequency(level, weights, MEANS, scales) for level in levels]
    ours = mixture.Mixture(*(np.array([numbers]) for numbers in (LOGITS, MEANS, SCALES)))
    return spaced(one), spaced(ours.cumulative(np.array([levels]))[0])


def weights() -> tuple[str, str]:
    ours = mixture.Mixture(*(np.array([numbers]) for numbers in (LOGITS, MEANS, SCALES)))
    return spaced(independent.weights_of(LOGITS)), spaced(ours.weights[0])


def ranges(*numbers: int) -> tuple[str, str]:
    """Our encoder writes the bytes, and both decoders find the symbols in them."""
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    encoder = range_coder.Encoder()
    for start, size in pairs:
        encoder.encode(start, size)
    data = encoder.finish()
    second, ours = independent.RangeDecoder(data), range_coder.Decoder(data)
    for start, size in pairs:
        assert start <= second.target() < start + size
        assert second.target() == ours.target()
        second.take(start, start + size)
        ours.take(start, size)
    return data.hex(), data.hex()


def lines(height: int, width: int) -> tuple[str, str]:
    one = [f"{row},{column}" for line in independent.lines(height, width) for row, column in line]
    other = [
        f"{r},{c}" for rows, columns in pixel_model.lines(height, width) for r, c in zip(rows, columns, strict=True)
    ]
    return " ".join(one), " ".join(other)


def varints(number: int) -> tuple[str, str]:
    data = container.varint(number)
    assert independent.Reader(data).varint() == container.Cursor(data).varint() == number
    return data.hex(), data.hex()


def crcs() -> tuple[str, str]:
    image = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    return independent.crc32(image).hex(), container.checksum(image).hex()


def tables_hash() -> tuple[str, str]:
    one = [*independent.exponentials(), *independent.slopes().values(), *independent.logistics().values()]
    return hashed(one, "<i4"), hashed(np.concatenate(mixture.tables()), "<i4")


def codebook_hash() -> tuple[str, str]:
    """Of all of ours; the second decoder makes single entries."""
    key, ours = independent.make_key(4), (trellis.codebook() * 4096).astype(int)
    some = [(s * 37 % 4096, s * 11 % 512) for s in range(2000)]
    assert [independent.gauss(key, 512 * s + j) for s, j in some] == [ours[s, j] for s, j in some]
    return hashed(ours, "<i2"), hashed(ours, "<i2")


CHECKS: dict[str, Callable[..., tuple[str, str]]] = {
    r"varint (\d+)": varints,
    r"crc16 3\d+": lambda: (f"{independent.crc16(b'123456789'):04x}", f"{container.crc16(b'123456789'):04x}"),
    r"crc32": crcs,
    r"word ([\d ]+)": words,
    r"gauss ([\d ]+)": gaussians,
    r"quantile ([\d ]+)": lambda *i: (
        spaced(independent.quantile()[j] for j in i),
        spaced(randomness.quantiles()[[*i]]),
    ),
    r"codeword (\d+)": codeword,
    r"order (\d+)": lambda step: tuple(spaced(one[:8]) for one in orders(step)),
    r"sign (\d+)": signs,
    r"segment (\d+)": lambda n: (spaced(i * D // n for i in range(5)), spaced(trellis.segments(D, n)[:5, 0])),
    r"noise": lambda: tuple(spaced(one[:8]) for one in both_noises()),
    r"weight": weights,
    r"mixture ([\d ]+)": mixtures,
    r"range ([\d ]+)": ranges,
    r"lines ([\d ]+)": lines,
    r"sha256 quantile": lambda: (hashed(independent.quantile(), "<i2"), hashed(randomness.quantiles(), "<i2")),
    r"sha256 codebook": codebook_hash,
    r"sha256 order 0": lambda: tuple(hashed(one, "<i2") for one in orders(0)),
    r"sha256 noise": lambda: tuple(hashed(one, "<i2") for one in both_noises()),
    r"sha256 ESL": tables_hash,
}


@pytest.mark.parametrize("name", VALUES)
def test_value_of_the_document_is_that_of_both_decoders(name: str):
    kind, *rest = name.split()
    if kind == "window":
        found = windows(rest[0])
    elif kind in ("E", "S", "L"):
        found = looked_up(kind, *map(int, rest))
    elif kind in ("abar", "step"):
        check_floats(kind, rest, [float(value) for value in VALUES[name].split()])
        return
    else:
        matches = [(match, check) for rule, check in CHECKS.items() if (match := re.fullmatch(rule, name))]
        assert len(matches) == 1
        match, check = matches[0]
        found = check(*(int(part) for group in match.groups() for part in group.split()))
    assert found == (VALUES[name], VALUES[name])


def check_floats(kind: str, rest: list[str], values: list[float]) -> None:
    schedule, *numbers = rest
    second, ours = independent.make_abar(schedule, 1000), make_schedule(schedule)
    if kind == "abar":
        levels = [int(number) for number in numbers]
        assert [second[level] for level in levels] == pytest.approx(values, rel=1e-11)
        assert ours.alpha_bar[levels].tolist() == pytest.approx(values, rel=1e-11)
        return
    start, end, error = int(numbers[0]), int(numbers[1]), float(numbers[2])
    assert independent.step_numbers(second[start], second[end], error) == pytest.approx(values, rel=1e-11)
    chain = ours.subset([start, end])
    keep, pull, v = (float(t[2]) for t in (chain.posterior_xt, chain.posterior_x0, chain.posterior_variance))
    assert [keep, pull, v, (v + pull**2 * error) ** 0.5] == pytest.approx(values, rel=1e-11)


def test_every_kind_of_value_is_there():
    kinds = {name.split()[0] for name in VALUES}
    assert kinds == {re.match(r"\w+", rule)[0] for rule in CHECKS} | {"window", "E", "S", "L", "abar", "step"}


def test_document_names_the_hashes_that_the_code_checks():
    assert VALUES["sha256 quantile"] == randomness.TABLE_SHA256
    assert VALUES["sha256 ESL"] == mixture.TABLES_SHA256


def test_layers_of_both_decoders_agree_on_inputs_of_any_size(linear: Codec):
    draw = np.random.default_rng(0)
    second = independent.open_model(FOLDER)
    for c, size in enumerate((153, 154, 155)):
        inputs = draw.integers(-4080, 4081, size)
        one = independent.mixture_of(second.side["causal"][c], inputs.tolist(), 2000)
        said = linear.causal.layers[c](inputs[None].astype(float))
        shifts = (pixel_model.LOGIT_SHIFT, pixel_model.MEAN_SHIFT, pixel_model.SCALE_SHIFT)
        parts = zip(np.split(said, 3, axis=1), shifts, strict=True)
        logits, means, scales = (np.floor(part / 2.0**shift + 0.5).astype(int) for part, shift in parts)
        ours = mixture.Mixture(logits, means + 2000, scales)
        assert one[0] == ours.weights[0].tolist()
        assert one[1] == ours.means[0].tolist()
        assert [independent.slopes()[scale] for scale in one[2]] == ours.slopes[0].tolist()
