"""The same command again goes on: outputs that are right are left, others refused; one that fails loses only itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddpm
from ddpm.base.tensors import Pixels
from ddpm.codec import from_files, to_files
from ddpm.codec.encode import encode
from ddpm.codec.file_lists import dpc_plan, image_plan
from ddpm.data.sources import open_images
from ddpm.errors import DamagedFile, InputError, NotVerified
from ddpm.model.model import Model
from ddpm.training.linear_model import make_linear

DIGITS = ddpm.images("digits:test[0:5]").array()
NAMES = [f"{k}.png" for k in range(len(DIGITS))]


def written(file: Path) -> tuple[int, ...]:
    """Which file it is, and when it was last written; reading it changes neither."""
    about = file.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A linear model of digits with codec data."""
    images = ddpm.images("digits:train[0:64]")
    found = ddpm.load(make_linear(images, tmp_path_factory.mktemp("coded") / "run"), device="cpu")
    ddpm.tune_codec(found, images, fit_steps=2, progress=False)
    return found


@pytest.fixture(scope="module")
def coded(model: Model) -> dict[str, bytes]:
    """Each digit's lossless file."""
    return {Path(n).stem: ddpm.compress(model, image, verify=False) for n, image in zip(NAMES, DIGITS, strict=True)}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Digits in a folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    for name, image in zip(NAMES, DIGITS, strict=True):
        Image.fromarray(image[0]).save(name)
    return tmp_path


def put(files: dict[str, bytes], folder: str = "files") -> None:
    Path(folder).mkdir(exist_ok=True)
    for stem, data in files.items():
        Path(folder, f"{stem}.dpc").write_bytes(data)


def contents(folder: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def forbid(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> None:
    def refused(codec: object, things: list[object], **options: object) -> list[object]:
        assert not things, f"{name} was called"
        return []

    monkeypatch.setattr(module, name, refused)


# ---- compress -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", [True, False])
def test_files_that_are_right_are_neither_made_nor_written_again(
    verify: bool, model: Model, coded: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    put(coded)
    before = [written(file) for file in sorted(Path("files").iterdir())]
    forbid(monkeypatch, to_files, "encode")
    if not verify:
        forbid(monkeypatch, to_files, "decode")
    report = ddpm.compress_files(model, NAMES, "files", verify=verify, progress=False)
    assert [(row.there, row.bytes) for row in report.files] == [(True, len(data)) for data in coded.values()]
    assert (report.exit_code, report.verified, report.table()["there"]) == (0, verify, 5)
    assert report.lines()[0].endswith(", there already")
    assert report.lines()[-1].endswith("; 5 there already")
    assert [written(file) for file in sorted(Path("files").iterdir())] == before


def test_the_same_command_goes_on_where_it_was_stopped(
    model: Model, coded: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(to_files, "GROUP", 1)
    compressed: list[int] = []

    def stopped(codec: object, images: list[Pixels], **options: object) -> object:
        if len(compressed) == 3:
            raise KeyboardInterrupt
        compressed.extend([1] * len(images))
        return encode(codec, images, **options)

    with monkeypatch.context() as patch:
        patch.setattr(to_files, "encode", stopped)
        with pytest.raises(KeyboardInterrupt):
            ddpm.compress_files(model, NAMES, "files", batch_size=1, verify=False, progress=False)
    assert len(contents("files")) == 3
    report = ddpm.compress_files(model, NAMES, "files", batch_size=1, progress=False)
    assert [row.there for row in report.files] == [True] * 3 + [False] * 2
    assert contents("files") == {f"{stem}.dpc": data for stem, data in coded.items()}


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


OTHERWISE: dict[str, Callable[[Model, dict[str, bytes]], bytes]] = {
    "of another image": lambda model, coded: coded["1"],
    "of another model": lambda model, coded: flipped(coded["0"], 6),
    "with a damaged header": lambda model, coded: flipped(coded["0"], 4),
    "with a damaged progressive layer": lambda model, coded: flipped(coded["0"], 15),
    "with a damaged lossless layer": lambda model, coded: flipped(coded["0"], len(coded["0"]) - 5),
    "cut short": lambda model, coded: coded["0"][:-1],
    "longer": lambda model, coded: coded["0"] + b"x",
    "empty": lambda model, coded: b"",
    "of somebody": lambda model, coded: b"mine",
    "lossy": lambda model, coded: ddpm.compress(model, DIGITS[0], most_bytes=30),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_a_file_there_that_is_anything_else_is_refused_and_kept_and_force_replaces_it(
    what: str, model: Model, coded: dict[str, bytes]
):
    there = OTHERWISE[what](model, coded)
    put({"0": there})
    first, second = ddpm.compress_files(model, NAMES[:2], "files", progress=False).files
    assert (first.file, first.exit_code, second.there) == (None, InputError.exit_code, False)
    assert "'files/0.dpc' is there already" in first.problem
    assert "--force" in first.problem
    assert contents("files") == {"0.dpc": there, "1.dpc": coded["1"]}
    (row,) = ddpm.compress_files(model, NAMES[:1], "files", force=True, progress=False).files
    assert (row.there, contents("files")["0.dpc"]) == (False, coded["0"])


@pytest.mark.parametrize("more", [{"most_bytes": 30}, {"rate": 3.0}])
def test_a_lossy_file_is_right_if_compressing_gives_its_bytes(more: dict[str, float], model: Model):
    ddpm.compress_files(model, NAMES[:2], "files", progress=False, **more)
    before = contents("files")
    report = ddpm.compress_files(model, NAMES[:2], "files", progress=False, **more)
    assert [row.there for row in report.files] == [True, True]
    for other in ({"most_bytes": 18}, {"rate": 2.0}, {}):
        rows = ddpm.compress_files(model, NAMES[:2], "files", progress=False, **other).files
        assert all("is there already" in row.problem for row in rows)
    Image.fromarray(DIGITS[3][0]).save("0.png")
    rows = ddpm.compress_files(model, NAMES[:2], "files", progress=False, **more).files
    assert [row.there for row in rows] == [False, True]
    assert contents("files") == before


# ---- decompress -----------------------------------------------------------------------------------------------------


def test_images_that_are_right_are_not_decompressed_again(
    model: Model, coded: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    put(coded)
    first = ddpm.decompress_files(model, ["files"], "back", progress=False)
    assert [row.there for row in first.files] == [False] * 5
    before = [written(file) for file in sorted(Path("back").iterdir())]
    forbid(monkeypatch, from_files, "decode")
    again = ddpm.decompress_files(model, ["files"], "back", progress=False)
    assert [(row.there, row.status, row.steps, row.of) for row in again.files] == [
        (True, "lossless", row.steps, row.of) for row in first.files
    ]
    assert again.lines()[0] == "back/0.png: exact, there already"
    assert [written(file) for file in sorted(Path("back").iterdir())] == before


@pytest.mark.parametrize("other", [(), ("0.dpc", "notes.txt")])
def test_decompressed_images_below_a_source_are_left_out_and_named(
    other: tuple[str, ...], model: Model, coded: dict[str, bytes]
):
    put(coded)
    source = Path("source")
    for name in ("cat", "dog"):
        (source / name).mkdir(parents=True)
        Image.fromarray(DIGITS[0, 0]).save(source / name / "1.png")
    before = open_images(str(source))
    for name in other:
        (source / "cat/back").mkdir(exist_ok=True)
        (source / "cat/back" / name).write_bytes(b"mine")
    ddpm.decompress_files(model, ["files"], source / "cat/back", progress=False)
    after = open_images(str(source))
    assert after.fingerprint == before.fingerprint
    assert f"cat/back/ {6 + len(other)} (decompressed images, made by ddpm)" in after.summary()[1]
    assert len(open_images(str(source / "cat/back"))) == 5


@pytest.mark.parametrize("out", ["source", "source/cat"])
def test_images_that_were_there_are_read_as_before_beside_decompressed_ones(
    out: str, model: Model, coded: dict[str, bytes]
):
    put(coded)
    Path("source/cat").mkdir(parents=True)
    Image.fromarray(DIGITS[0, 0]).save("source/cat/mine.png")
    ddpm.decompress_files(model, ["files"], out, progress=False)
    assert len(open_images("source")) == 6


@pytest.mark.parametrize("case", ["lossy", "cut", "asked", "damaged"])
def test_coarse_images_are_right_if_decompressing_gives_their_pixels(case: str, model: Model, coded: dict[str, bytes]):
    data, options = coded["0"], {"most_bytes": 30} if case == "asked" else {}
    if case == "lossy":
        data = ddpm.compress(model, DIGITS[0], most_bytes=30)
    if case == "cut":
        data = data[:30]
    if case == "damaged":
        data = flipped(data, len(data) - 5)
    put({"0": data})
    first, second = (ddpm.decompress_files(model, ["files"], "back", progress=False, **options) for _ in range(2))
    assert [row.there for row in (first.files[0], second.files[0])] == [False, True]
    assert first.exit_code == second.exit_code == (DamagedFile.exit_code if case == "damaged" else 0)
    Image.fromarray(DIGITS[1][0]).save("back/0.png")
    (row,) = ddpm.decompress_files(model, ["files"], "back", progress=False, **options).files
    assert "'back/0.png' is there already" in row.problem


@pytest.mark.parametrize("what", ["another image", "another size", "colour", "no image", "16 bits"])
def test_an_image_there_that_is_anything_else_is_refused_and_kept(what: str, model: Model, coded: dict[str, bytes]):
    put({"0": coded["0"], "1": coded["1"]})
    Path("back").mkdir()
    path = Path("back/0.png")
    if what == "no image":
        path.write_bytes(b"mine")
    else:
        grey = Image.fromarray(DIGITS[2 if what == "another image" else 0][0])
        wide = Image.fromarray(DIGITS[0][0].astype(np.uint16) * 257)
        others = {"another size": grey.crop((0, 0, 7, 8)), "colour": grey.convert("RGB"), "16 bits": wide}
        others.get(what, grey).save(path)
    before = path.read_bytes()
    refused, good = ddpm.decompress_files(model, ["files"], "back", progress=False).files
    assert (refused.status, refused.exit_code, good.status) == ("refused", InputError.exit_code, "lossless")
    assert "'back/0.png' is there already" in refused.problem
    assert path.read_bytes() == before
    (row,) = ddpm.decompress_files(model, ["files/0.dpc"], "back", force=True, progress=False).files
    assert (np.asarray(Image.open(path)) == DIGITS[0][0]).all()
    assert not row.there


def test_an_image_that_does_not_hold_what_was_written_is_named(
    model: Model, coded: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    put({"0": coded["0"]})
    monkeypatch.setattr(from_files, "to_pil", lambda image: Image.fromarray(255 - image[0]))
    (row,) = ddpm.decompress_files(model, ["files"], "back", progress=False).files
    assert (row.status, row.exit_code) == ("refused", NotVerified.exit_code)
    assert "'back/0.png'" in row.problem


# ---- one that fails loses only itself -------------------------------------------------------------------------------


def act(way: str, model: Model, out: str) -> list[tuple[str | None, str]]:
    """Compress or decompress all; (output or None, problem) of each."""
    if way == "compress":
        report = ddpm.compress_files(model, NAMES, out, verify=False, progress=False)
        return [(row.file, row.problem) for row in report.files]
    return [(row.out, row.problem) for row in ddpm.decompress_files(model, ["files"], out, progress=False).files]


@pytest.mark.parametrize(("way", "code"), [("compress", errno.ENOSPC), ("decompress", errno.EACCES)])
def test_an_output_that_cannot_be_written_loses_only_itself(
    way: str, code: int, model: Model, coded: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    put(coded)
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(target).stem == "2":
            raise OSError(code, os.strerror(code))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        rows = act(way, model, "out")
    assert [out is None for out, _ in rows] == [False, False, True, False, False]
    assert os.strerror(code) in rows[2][1]
    assert len([file for file in Path("out").iterdir() if not file.name.startswith(".")]) == 4
    assert all(out for out, _ in act(way, model, "out"))


@pytest.mark.parametrize("way", ["compress", "decompress"])
def test_an_output_that_is_a_folder_loses_only_itself(way: str, model: Model, coded: dict[str, bytes]):
    put(coded)
    Path("out/2.dpc").mkdir(parents=True)
    Path("out/2.png").mkdir()
    rows = act(way, model, "out")
    assert [out is None for out, _ in rows] == [False, False, True, False, False]
    assert "is a folder" in rows[2][1]


@pytest.mark.parametrize("way", ["compress", "decompress"])
def test_inputs_that_cannot_be_read_lose_only_themselves(way: str, model: Model, coded: dict[str, bytes]):
    put(coded)
    suffix, verb = (".png", ddpm.compress_files) if way == "compress" else (".dpc", ddpm.decompress_files)
    os.mkfifo(f"pipe{suffix}")
    Path(f"text{suffix}").write_text("none")
    bad = ["nowhere", f"pipe{suffix}", f"text{suffix}", ""]
    good = NAMES[:1] if way == "compress" else ["files/0.dpc"]
    report = verb(model, [*bad, *good], "out", progress=False)
    assert [bool(row.problem) for row in report.files] == [True, True, True, True, False]
    assert all(row.problem.endswith(".") and not row.problem.startswith("'") for row in report.files[:3])
    assert report.exit_code == (InputError.exit_code if way == "compress" else DamagedFile.exit_code)


def test_an_image_that_changes_while_others_are_compressed_is_refused_alone(
    model: Model, coded: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(to_files, "GROUP", 1)

    def changing(*given: object, **options: object) -> object:
        Path("1.png").unlink(missing_ok=True)
        Image.new("RGB", (8, 8), (1, 2, 3)).save("2.png")
        return encode(*given, **options)

    monkeypatch.setattr(to_files, "encode", changing)
    rows = ddpm.compress_files(model, NAMES[:4], "files", batch_size=1, verify=False, progress=False).files
    assert [row.exit_code for row in rows] == [0, 2, 2, 0]


# ---- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_means_its_files_of_the_kind_below_it_and_outputs_keep_their_paths(
    model: Model, coded: dict[str, bytes]
):
    for name in ("in/a/0.png", "in/b/0.PNG", "in/.hidden/0.png", "in/b/.hidden.png", "in/__MACOSX/0.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(DIGITS[0][0]).save(name)
    Path("in/notes.txt").write_text("mine")
    Path("in/c").write_bytes(Path("0.png").read_bytes())
    os.mkfifo("in/pipe")
    report = ddpm.compress_files(model, ["in", "1.png"], "files", verify=False, progress=False)
    assert [row.image for row in report.files] == ["in/a/0.png", "in/b/0.PNG", "in/c", "1.png"]
    assert [row.file for row in report.files] == ["files/a/0.dpc", "files/b/0.dpc", "files/c.dpc", "files/1.dpc"]
    Path("files/notes.txt").write_text("mine")
    back = ddpm.decompress_files(model, ["files"], "back", progress=False)
    assert [row.out for row in back.files] == ["back/1.png", "back/a/0.png", "back/b/0.png", "back/c.png"]


def problems(way: str, model: Model, inputs: list[str]) -> list[tuple[str, str]]:
    """Of each file, its path and what is wrong."""
    if way == "compress":
        report = ddpm.compress_files(model, inputs, "out", verify=False, progress=False)
        return [(row.image, row.problem) for row in report.files]
    return [(row.file, row.problem) for row in ddpm.decompress_files(model, inputs, "out", progress=False).files]


@pytest.mark.parametrize("way", ["compress", "decompress"])
def test_what_would_become_one_file_is_refused_by_name_unless_the_other_is_refused_itself(
    way: str, model: Model, coded: dict[str, bytes]
):
    suffix, made = (".png", ".dpc") if way == "compress" else (".dpc", ".png")
    sound = Path("0.png").read_bytes() if way == "compress" else coded["0"]
    for folder in "abcd":
        Path(folder).mkdir()
        Path(folder, f"0{suffix}").write_bytes(b"none" if folder == "a" else sound)
    paths = [f"{folder}/0{suffix}" for folder in "abcdd"]
    taken = f"it would become 'out/0{made}', as 'b/0{suffix}' does: rename one of them."
    for _ in range(2):  # again, with the output there
        found = problems(way, model, paths)
        assert [path for path, _ in found] == paths
        assert found[0][1].endswith(".")
        assert "would become" not in found[0][1]
        assert [problem for _, problem in found[1:]] == ["", taken, taken, "it was given twice."]


def test_what_would_become_one_file_of_a_folder_and_folders_without_any_are_refused_by_name(model: Model):
    Path("in/sub").mkdir(parents=True)
    Path("empty").mkdir()
    for name in ("in/a.png", "in/a.bmp", "in/sub/a.png"):
        Image.fromarray(DIGITS[0][0]).save(name)
    taken = "it would become 'out/a.dpc', as 'in/a.bmp' does: rename one of them."
    assert problems("compress", model, ["in", "in/a.png", "empty", "in/sub/a.png"]) == [
        ("in/a.bmp", ""),
        ("in/a.png", taken),
        ("in/sub/a.png", ""),
        ("in/a.png", "it was given twice."),
        ("empty", "the folder holds no image files."),
        ("in/sub/a.png", "it was given twice."),
    ]
    assert "no .dpc files" in str(dpc_plan(["in"], "back")[0].problem)


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_looked_through(monkeypatch: pytest.MonkeyPatch):
    for name in ("in/a", "other"):
        Path(name).mkdir(parents=True)
        Image.fromarray(DIGITS[0][0]).save(f"{name}/0.png")
    scan = os.scandir

    def failing(path: str) -> object:
        if str(path) == "in/a":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", failing)
    assert [(one.path, one.problem is None) for one in image_plan(["in", "other"], "files")] == [
        ("in", False),
        ("other/0.png", True),
    ]
