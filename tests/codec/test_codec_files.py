"""Files to files, both ways: what is said of each, what a stop leaves, and progress that counts what happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpm
from ddpm.base.progress import Advance, Progress
from ddpm.codec import from_files, to_files
from ddpm.codec.codec_data import Codec, make_codec, read_codec_data
from ddpm.codec.container import LOSSLESS, Header
from ddpm.codec.decode import decode, open_file
from ddpm.codec.encode import encode
from ddpm.codec.file_lists import in_groups
from ddpm.codec.originals import read_original
from ddpm.codec.to_files import byte_limit, compress_all
from ddpm.errors import DamagedFile, InputError, NotVerified, WrongModel
from ddpm.model.model import Model
from ddpm.training.linear_model import make_linear


class Heard(Progress):
    """Notes each stage: title, total, and what it was told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, list[int]]] = []

    @contextmanager
    def stage(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        told: list[int] = []
        self.stages.append((title, total, told))
        yield lambda more, note="": told.append(more)

    def totals(self, title: str) -> list[int]:
        """Of the stages of a title, which were all told of as much as they announced."""
        found = [(total, told) for name, total, told in self.stages if name == title]
        assert all(total == sum(told) for total, told in found), found
        return [total for total, _ in found]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A linear model of digits, 1 x 8 x 8, without codec data."""
    return ddpm.load(make_linear(ddpm.images("digits:test"), tmp_path_factory.mktemp("bare") / "run"), device="cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Another, with codec data."""
    images = ddpm.images("digits:train[0:256]")
    found = ddpm.load(make_linear(images, tmp_path_factory.mktemp("coded") / "run"), device="cpu")
    ddpm.tune_codec(found, images, fit_steps=50, progress=False)
    return found


@pytest.fixture(scope="module")
def codec(model: Model) -> Codec:
    made = read_codec_data(model)
    assert made is not None
    return make_codec(model, made)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def paths(here: Path) -> list[str]:
    """Four digits, and a blank image of 4 tiles, which is stored as PNG."""
    images = [*ddpm.images("digits:test[0:4]").array(), np.full((1, 16, 16), 200, np.uint8)]
    names = [f"{k}.png" for k in range(len(images))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image[0]).save(name)
    return names


# ---- what is said of each file --------------------------------------------------------------------------------------


def test_each_file_is_told_its_own_fingerprint_where_the_model_has_no_codec_data(bare: Model, here: Path):
    prints = {"one.dpc": b"abcd", "two.dpc": b"wxyz"}
    for name, fingerprint in prints.items():
        Path(name).write_bytes(Header(LOSSLESS, fingerprint, (8, 8)).pack())
    Path("bad.dpc").write_bytes(b"GIF89a")
    report = ddpm.decompress_files(bare, ["one.dpc", "bad.dpc", "two.dpc"], "back", progress=False)
    assert [row.file for row in report.files] == ["one.dpc", "bad.dpc", "two.dpc"]
    assert [row.exit_code for row in report.files] == [
        WrongModel.exit_code,
        DamagedFile.exit_code,
        WrongModel.exit_code,
    ]
    for row in (report.files[0], report.files[2]):
        assert [fingerprint.hex() in row.problem for fingerprint in prints.values()] == [
            name == row.file for name in prints
        ]
        assert bare.weights_sha256 in row.problem
    assert all(row.status == "refused" and row.out is None for row in report.files)
    assert report.lines() == []


def test_file_of_another_model_is_told_both_fingerprints(model: Model, codec: Codec, here: Path, paths: list[str]):
    ddpm.compress_files(model, paths[:1], "files", progress=False)
    Path("files/other.dpc").write_bytes(Header(LOSSLESS, b"abcd", (8, 8)).pack())
    report = ddpm.decompress_files(model, ["files/other.dpc", "files/0.dpc"], "back", progress=False)
    assert [row.status for row in report.files] == ["refused", "lossless"]
    assert b"abcd".hex() in report.files[0].problem
    assert codec.fingerprint in report.files[0].problem
    assert report.exit_code == WrongModel.exit_code


def test_image_that_fits_no_file_is_named_and_stops_no_other(model: Model, here: Path, paths: list[str]):
    Image.new("L", (1, 70_000)).save("long.png")
    report = ddpm.compress_files(model, ["long.png", *paths[:1]], "files", progress=False)
    assert [(row.file, row.exit_code) for row in report.files] == [(None, 2), ("files/0.dpc", 0)]
    assert "side" in report.files[0].problem
    assert report.exit_code == InputError.exit_code
    assert report.lines()[-1].endswith("; 1 refused")
    report = ddpm.compress_files(model, ["1.png"], "small", most_bytes=9, progress=False)
    assert "9 bytes" in report.files[0].problem
    assert (report.lines(), report.table()["bits_per_dim"]) == ([], None)
    assert not Path("small").exists()


def test_image_files_are_read_as_they_are(here: Path):
    colours = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(colours).save("rgb.png")
    Image.fromarray(colours[:, :, 0]).save("grey.bmp")
    assert (read_original("rgb.png", lossless=True).pixels == colours.transpose(2, 0, 1)).all()
    assert (read_original("grey.bmp", lossless=True).pixels == colours[None, :, :, 0]).all()
    Image.new("RGBA", (3, 3)).save("alpha.png")
    Path("text.png").write_text("no image")
    for name in ("alpha.png", "text.png", "missing.png", "."):
        for lossless in (True, False):
            with pytest.raises(InputError, match=f"'{name}'"):
                read_original(name, lossless=lossless)


@pytest.mark.parametrize(
    ("rate", "most_bytes", "limit"),
    [
        (None, None, None),
        (2.0, None, 48),
        (1000.0, None, 24_000),
        (0.49, None, 11),
        (None, 25, 25),
        (None, 25.0, 25),
        (None, np.int64(7), 7),
    ],
)
def test_limit_of_a_file_is_its_rate_or_its_bytes(rate: float | None, most_bytes: int | None, limit: int | None):
    found = byte_limit(np.zeros((3, 8, 8), np.uint8), rate, most_bytes)
    assert (found, type(found)) == (limit, type(limit))


@pytest.mark.parametrize(
    ("rate", "most_bytes"),
    [(0.0, None), (-1.0, None), (1e308, None), (np.inf, None), (np.nan, None), (None, 0), (None, 20.5), (1.0, 9)],
)
def test_impossible_limits_are_refused(rate: float | None, most_bytes: float | None):
    with pytest.raises(InputError, match=r"rate|bytes"):
        byte_limit(np.zeros((1, 8, 8), np.uint8), rate, most_bytes)  # type: ignore[arg-type]


# ---- progress -------------------------------------------------------------------------------------------------------


def steps_in(codec: Codec, folder: str) -> int:
    """Steps of tiles that decompressing the files of a folder takes."""
    return sum(open_file(codec, file.read_bytes()).steps for file in Path(folder).iterdir())


@pytest.mark.parametrize("options", [{}, {"most_bytes": 30}, {"rate": 3.0}])
def test_compressing_counts_every_step_and_verifying_those_it_makes(
    options: dict[str, float], model: Model, codec: Codec, paths: list[str]
):
    heard, tiles = Heard(), 4 + 4
    report = ddpm.compress_files(model, paths, "files", progress=heard, **options)
    assert report.verified
    assert heard.totals("Compressing") == [tiles * len(codec.chain.steps)]
    assert heard.totals("Verifying") == [steps_in(codec, "files")]
    assert 0 < steps_in(codec, "files") < tiles * len(codec.chain.steps)
    back = Heard()
    ddpm.decompress_files(model, [str(file) for file in Path("files").iterdir()], "back", progress=back)
    assert back.totals("Decompressing") == [steps_in(codec, "files")]


def test_verification_that_does_not_happen_is_no_stage(model: Model, codec: Codec, paths: list[str]):
    heard = Heard()
    report = ddpm.compress_files(model, paths[:2], "files", verify=False, progress=heard)
    assert not report.verified
    assert [title for title, _, _ in heard.stages] == ["Compressing"]
    assert heard.totals("Compressing") == [2 * len(codec.chain.steps)]


# ---- groups ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 3, 4, 100])
@pytest.mark.parametrize("tiles", [[], [1], [9], [1, 1, 1, 1, 1], [2, 5, 1, 1, 1, 4]])
def test_groups_are_whole_images_in_turn_as_few_as_have_enough_tiles(tiles: list[int], most: int):
    groups = [list(rows) for rows in in_groups(tiles, most)]
    assert [k for rows in groups for k in rows] == list(range(len(tiles)))
    for rows in groups:
        sizes = [tiles[k] for k in rows]
        assert sum(sizes[:-1]) < most
        assert sum(sizes) >= most or rows == groups[-1]


def test_stop_loses_only_the_images_in_hand(model: Model, paths: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(to_files, "GROUP", 1)
    calls: list[int] = []

    def stopped(*given: object, **options: object) -> object:
        calls.append(len(calls))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(to_files, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        ddpm.compress_files(model, paths[:4], "files", batch_size=2, progress=False)
    assert sorted(file.name for file in Path("files").iterdir()) == ["0.dpc", "1.dpc"]


def test_groups_give_the_files_and_images_that_all_at_once_give(
    model: Model, paths: list[str], monkeypatch: pytest.MonkeyPatch
):
    ddpm.compress_files(model, paths, "files", progress=False)
    whole = [file.read_bytes() for file in sorted(Path("files").iterdir())]
    for module in (to_files, from_files):
        monkeypatch.setattr(module, "GROUP", 1)
    heard = Heard()
    ddpm.compress_files(model, paths, "parts", batch_size=2, progress=heard)
    assert len(heard.totals("Verifying")) == 3
    assert [file.read_bytes() for file in sorted(Path("parts").iterdir())] == whole
    names = [f"parts/{k}.dpc" for k in range(5)]
    report = ddpm.decompress_files(model, names, "back", batch_size=2, progress=False)
    for path, row in zip(paths, report.files, strict=True):
        assert (row.status, row.stored) == ("lossless", path == "4.png")
        assert (np.asarray(Image.open(row.out)) == np.asarray(Image.open(path))).all()


# ---- verification ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 30])
def test_files_that_do_not_come_back_are_not_handed_out(
    limit: int | None, model: Model, codec: Codec, paths: list[str], monkeypatch: pytest.MonkeyPatch
):
    images = ddpm.images("digits:test").array([0, 1])
    assert len(compress_all(codec, images, [limit] * 2)) == 2

    def off(codec: Codec, files: object, **options: object) -> object:
        """The first as of a lossless file of an image that differs in one pixel, or of a lossy file that is cut."""
        other = images[0].copy()
        other[0, 3, 3] ^= 1
        data = [one.data for one in encode(codec, [other, images[1]], most_bytes=[limit] * 2)]
        data[0] = data[0] if limit is None else data[0][:-1]
        return decode(codec, [open_file(codec, one) for one in data])

    monkeypatch.setattr(to_files, "decode", off)
    assert [one is None for one in compress_all(codec, images, [limit] * 2)] == [True, False]
    assert None not in compress_all(codec, images, [limit] * 2, verify=False)
    report = ddpm.compress_files(model, paths[:2], "files", most_bytes=limit, progress=False)
    assert [row.exit_code for row in report.files] == [NotVerified.exit_code, 0]
    assert [file.name for file in Path("files").iterdir()] == ["1.dpc"]
    monkeypatch.setattr(to_files, "decode", lambda *given, **options: off(*given)[:1])
    with pytest.raises(NotVerified, match="please report"):
        ddpm.compress(model, images[0], most_bytes=limit)


def test_file_that_does_not_hold_what_was_written_is_named(
    model: Model, paths: list[str], monkeypatch: pytest.MonkeyPatch
):
    plain = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: plain(path, data[:-1]))
    (row,) = ddpm.compress_files(model, paths[:1], "files", progress=False).files
    assert (row.file, row.exit_code) == (None, NotVerified.exit_code)
    assert "'files/0.dpc'" in row.problem
    (row,) = ddpm.compress_files(model, paths[:1], "unverified", verify=False, progress=False).files
    assert row.file == "unverified/0.dpc"
