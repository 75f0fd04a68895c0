"""A .dpc file is read with the checkpoint that made it, wherever in its run that lies, and it is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import ddpm
from ddpm.codec.codec_data import SIDECAR, read_codec_data, write_codec_data
from ddpm.codec.lookup import Codecs, find_in_run
from ddpm.errors import DamagedFile, DdpmError, InputError, WrongModel
from ddpm.model.checkpoint import MODEL_FILE
from ddpm.model.model import Model
from ddpm.model.pruning import forget_checkpoints
from ddpm.training.linear_model import make_linear
from scorings import Of

OLD, MIDDLE, NEW = "0000000016", "0000000032", "0000000064"
IMAGES = ddpm.images("digits:test[0:3]").array()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of three checkpoints, the middle one without codec data, and files; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    run = folder / "run"
    for k, name in enumerate((OLD, MIDDLE, NEW)):
        images = ddpm.images(f"digits:train[{64 * k}:{64 * k + 64}]")
        model = ddpm.load(make_linear(images, run / "checkpoints" / name), device="cpu")
        if name != MIDDLE:
            ddpm.tune_codec(model, images, fit_steps=1, progress=False)
    (folder / "files").mkdir()
    for k, by in enumerate((OLD, NEW, OLD)):
        (folder / "files" / f"{k}.dpc").write_bytes(ddpm.compress(of(run, by), IMAGES[k], verify=False))
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run: the folder run in the current one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, ".", dirs_exist_ok=True)
    return Path("run")


def checkpoint(run: Path, name: str) -> Path:
    return run / "checkpoints" / name


def of(run: Path, name: str) -> Model:
    return ddpm.load(checkpoint(run, name), device="cpu")


def print_of(run: Path, name: str) -> str:
    found = read_codec_data(of(run, name))
    assert found is not None
    return found.own_sha256


@pytest.fixture
def files(run: Path) -> list[str]:
    """Compressed by the oldest, the newest and the oldest checkpoint."""
    return [f"files/{k}.dpc" for k in range(3)]


# ---- decompress -----------------------------------------------------------------------------------------------------


def test_files_of_any_checkpoint_of_the_run_are_decompressed_and_the_one_that_has_it_is_named(
    run: Path, files: list[str]
):
    report = ddpm.decompress_files(ddpm.load(run, device="cpu"), files, "back", progress=False)
    older = f"'{checkpoint(run, OLD)}', which is not the newest checkpoint of its run"
    assert [(row.file, row.status, row.checkpoint) for row in report.files] == [
        (files[0], "lossless", older),
        (files[1], "lossless", ""),
        (files[2], "lossless", older),
    ]
    assert report.lines()[0] == f"back/0.png: exact; by {older}"
    again = ddpm.decompress_files(ddpm.load(run, device="cpu"), files, "back", progress=False)
    assert [(row.there, row.checkpoint) for row in again.files] == [(True, row.checkpoint) for row in report.files]


@pytest.mark.parametrize("loaded", [OLD, MIDDLE, NEW])
def test_bytes_are_decompressed_by_whatever_checkpoint_is_loaded(loaded: str, run: Path, files: list[str]):
    model = of(run, loaded)
    for name, image in zip(files, IMAGES, strict=True):
        assert (ddpm.decompress(model, Path(name).read_bytes()) == image).all()


def test_a_checkpoint_that_training_went_back_from_still_reads_its_files(run: Path, files: list[str]):
    forget_checkpoints(run, 32)
    model = ddpm.load(run, device="cpu")
    assert model.source == str(checkpoint(run, MIDDLE))
    rows = ddpm.decompress_files(model, files, "back", progress=False).files
    assert [row.status for row in rows] == ["lossless"] * 3
    assert str(checkpoint(run, f"left-{NEW}")) in rows[1].checkpoint
    assert [Path(row["checkpoint"]).name for row in ddpm.show(run)["by_checkpoint"]] == [f"left-{NEW}", OLD, MIDDLE]


def test_a_newer_checkpoint_is_named_too_but_not_called_old(run: Path, files: list[str]):
    rows = ddpm.decompress_files(of(run, OLD), files, "back", progress=False).files
    assert [row.checkpoint for row in rows] == ["", f"'{checkpoint(run, NEW)}'", ""]


def test_each_checkpoint_is_loaded_once(run: Path, files: list[str], monkeypatch: pytest.MonkeyPatch):
    loaded: list[str] = []

    def noting(path: str, **options: str) -> Model:
        loaded.append(path)
        return ddpm.load(path, **options)

    monkeypatch.setattr("ddpm.codec.lookup.load_model", noting)
    ddpm.decompress_files(of(run, NEW), files, "back", progress=False)
    assert loaded == [str(checkpoint(run, OLD))]


def test_a_file_of_no_checkpoint_of_the_run_is_told_all_that_there_are(run: Path, files: list[str]):
    data = Path(files[0]).read_bytes()
    shutil.rmtree(checkpoint(run, OLD))
    row, good, _ = ddpm.decompress_files(of(run, NEW), files, "back", progress=False).files
    assert (row.exit_code, good.status) == (WrongModel.exit_code, "lossless")
    assert data[5:9].hex() in row.problem
    assert print_of(run, NEW) in row.problem
    with pytest.raises(WrongModel, match=data[5:9].hex()):
        ddpm.decompress(of(run, NEW), data)


# ---- looking --------------------------------------------------------------------------------------------------------


def test_codec_data_are_found_by_their_first_digits_in_a_run_or_a_checkpoint(run: Path):
    wanted = print_of(run, OLD)
    for place in (run, checkpoint(run, OLD), checkpoint(run, MIDDLE), checkpoint(run, NEW)):
        found = find_in_run(place, wanted[:8])
        assert (found.of.source, found.of.weights) == (str(checkpoint(run, OLD)), "ema")
        assert (found.made.own_sha256, found.shape, found.older) == (wanted, (1, 8, 8), True)
    assert not find_in_run(run, print_of(run, NEW)).older
    with pytest.raises(WrongModel) as caught:
        find_in_run(run, "00000000")
    assert all(text in str(caught.value) for text in ("00000000", wanted, print_of(run, NEW)))
    with pytest.raises(InputError, match="nowhere"):
        find_in_run("nowhere", wanted)


@pytest.mark.parametrize("weights", ["raw", "ema-0.05"])
def test_codec_data_of_other_weights_are_found_too(weights: str, run: Path):
    data = read_codec_data(of(run, OLD))
    assert data is not None
    other = Of(str(checkpoint(run, OLD)), weights, of(run, OLD).weights_sha256)
    write_codec_data(other, data)
    made = read_codec_data(other)
    assert made is not None
    assert find_in_run(run, made.own_sha256).of.weights == weights
    assert find_in_run(run, data.own_sha256).of.weights == "ema"


@pytest.mark.parametrize("kept", ["codec-old.json", "codec-averaged-old.json"])
def test_a_copy_under_another_name_hides_nothing(kept: str, run: Path):
    wanted, file = print_of(run, NEW), checkpoint(run, NEW) / "codec-averaged.json"
    shutil.copy(file, file.with_name(kept))
    assert find_in_run(run, wanted).of.weights == "ema"
    file.unlink()
    with pytest.raises(WrongModel, match=f"{kept}' was measured on other weights"):
        find_in_run(run, wanted)


@pytest.mark.parametrize("file", ["codec-averaged.json", "config.json"])
def test_damage_elsewhere_in_the_run_hides_nothing_and_is_named_where_the_data_may_lie_in_it(file: str, run: Path):
    wanted = print_of(run, NEW)
    path = checkpoint(run, OLD) / file
    path.write_bytes(path.read_bytes()[:100])
    assert find_in_run(run, wanted).of.source == str(checkpoint(run, NEW))
    with pytest.raises(DdpmError) as caught:
        find_in_run(run, "00000000")
    assert str(path) in str(caught.value)


def test_weights_that_are_damaged_are_named_once_for_every_file(run: Path, files: list[str]):
    path = checkpoint(run, OLD) / MODEL_FILE
    path.write_bytes(path.read_bytes()[:-1])
    rows = ddpm.decompress_files(of(run, NEW), files, "back", progress=False).files
    assert [row.exit_code for row in rows] == [DamagedFile.exit_code, 0, DamagedFile.exit_code]
    assert all(str(path) in row.problem for row in (rows[0], rows[2]))


def test_a_model_whose_checkpoint_was_replaced_is_read_anew(run: Path):
    model, data = of(run, NEW), ddpm.compress(of(run, OLD), IMAGES[0], verify=False)
    shutil.rmtree(checkpoint(run, NEW))
    checkpoint(run, OLD).rename(checkpoint(run, NEW))
    codec, by = Codecs(model).wanted(data[5:9].hex())
    assert (codec.name, by) == (str(checkpoint(run, NEW)), "")
    assert np.array_equal(ddpm.decompress(model, data), IMAGES[0])


# ---- show -----------------------------------------------------------------------------------------------------------


def test_show_names_the_checkpoint_of_a_file(run: Path, files: list[str]):
    old, new = (ddpm.show(name, run) for name in files[:2])
    assert (old["model"], old["checkpoint"], old["older"]) == ("run", str(checkpoint(run, OLD)), True)
    assert (new["model"], new["checkpoint"], new["older"]) == ("run", str(checkpoint(run, NEW)), False)
    Path("runs").mkdir()
    run.rename("runs/mine")
    assert ddpm.show(files[0])["checkpoint"] == str(checkpoint(Path("runs/mine"), OLD))
    SIDECAR.path(of(Path("runs/mine"), OLD)).unlink()
    assert "model" not in ddpm.show(files[0])
