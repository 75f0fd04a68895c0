"""What every evaluation has in common: which images, at which size, of which classes; files that cannot be written."""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ddpm
from ddpm.base import files as base_files
from ddpm.base.image_io import save_grid
from ddpm.data.sources import open_images
from ddpm.errors import InputError
from ddpm.evaluation import codec_report
from ddpm.evaluation.result_files import ResultFiles
from ddpm.model.model import Model
from scorings import Counting, image_set, pixels, stored_model

pytestmark = pytest.mark.filterwarnings("ignore:.*are few for a Fréchet distance:UserWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Of 1 x 8 x 8, trained on digits as its recipe says, with codec data."""
    settings = {"image": {"height": 8, "width": 8}, "data": "digits"}
    found = stored_model(tmp_path_factory.mktemp("models") / "model", **settings)
    ddpm.tune_codec(found, "digits:train[0:64]", fit_steps=2, progress=False)
    return found


def likelihood(model: Model, data: Any, **options: Any) -> Any:
    return ddpm.evaluate_likelihood(model, data, calls=256, progress=False, **options)


def codec(model: Model, data: Any, *, out: Path, **options: Any) -> Any:
    """The plots, which take seconds, are drawn in test_codec_report.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec_report, "coded", lambda codec, images: list(images))
        for name in ("plot_report", "plot_strip", "plot_bytes"):
            patch.setattr(codec_report, name, lambda *given: save_grid(pixels(1), given[-1]))
        return ddpm.evaluate_codec(model, data, limit=2, out=out, progress=False, **options)


def fid(model: Model, data: Any, **options: Any) -> Any:
    how = {"features": "pixels", "seeds": range(64), "steps": 1, "progress": False}
    return ddpm.evaluate_fid(model, data, **how, **options)


def memorisation(model: Model, data: Any, **options: Any) -> Any:
    return ddpm.evaluate_memorisation(model, data, seeds=range(4), steps=1, progress=False, **options)


@pytest.fixture(params=[likelihood, codec, fid, memorisation], ids=lambda verb: verb.__name__)
def verb(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Each of the four; files go to the folder out."""

    def call(model: Model, data: Any, **options: Any) -> Any:
        named = {} if request.param is fid else {"out": tmp_path / "out"}
        return request.param(model, data, **named | options)

    return call


def told(report: Any) -> Any:
    """What a report's table says about training images."""
    table = report.table()
    about = (table.get("about"), table.get("protocol", {}).get("reference"), table.get("memorisation"), table)
    return next(one["trained_on"] for one in about if one and "trained_on" in one)


SAID = "images that the model was trained on."

# ---- images that the model was trained on ---------------------------------------------------------------------------


def test_images_that_were_trained_on_are_said_in_every_output(verb: Callable[..., Any], model: Model, tmp_path: Path):
    """A slice of them, of which memorisation refuses more than half."""
    unseen, seen = ddpm.images("digits:test[0:60]").array(), ddpm.images("digits:train[900:940]").array()
    mixed = image_set(np.concatenate([unseen, seen]))
    report = verb(model, mixed)
    found = told(report)
    (line,) = [line for line in report.lines() if SAID in line]
    assert line == f"{found['images']} of {found['of']} images compared of here are {SAID}"
    assert (found["images"], found["of"]) in ((40, 100), (1, 2))
    assert json.loads(json.dumps(report.table())) == report.table()
    clean = verb(model, "digits:test")
    assert told(clean)["images"] == 0
    assert SAID not in "\n".join(clean.lines())


def test_all_that_is_scored_may_be_training_images(model: Model, tmp_path: Path):
    for report in (
        likelihood(model, "digits:train[900:1000]"),
        fid(model, "digits:train"),
        codec(model, "digits:train[900:1000]", out=tmp_path),
    ):
        found = told(report)
        assert found["images"] == found["of"] > 0
        assert any(line.startswith("All ") and line.endswith(SAID) for line in report.lines())
    assert json.loads((tmp_path / "codec.json").read_text())["trained_on"] == {"images": 2, "of": 2}
    with pytest.raises(InputError, match="most of the held-out images are training images"):
        memorisation(model, "digits:train[900:1000]")


def test_statistics_of_the_training_images_are_known_by_their_fingerprint(model: Model, tmp_path: Path):
    fid(model, "digits:train", save_to=tmp_path / "train.npz")
    trained = replace(model, data_fingerprint=ddpm.images("digits:train").fingerprint)
    assert told(fid(trained, tmp_path / "train.npz")) == {"images": 1500, "of": 1500}
    assert told(fid(model, tmp_path / "train.npz")) is None


# ---- sizes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Seventy grey images of two sizes."""
    (tmp_path / "mixed").mkdir()
    for k, image in enumerate(pixels(70, (1, 12, 20), seed=3)):
        Image.fromarray(image[0, : 12 - k % 2]).save(tmp_path / "mixed" / f"{k:02}.png")
    return tmp_path / "mixed"


def test_mixed_sizes_are_judged_with_fit_and_the_error_names_it(verb: Callable[..., Any], model: Model, mixed: Path):
    with pytest.raises(InputError, match=r"differ in size.*--fit crop or --fit resize"):
        verb(model, mixed)
    reports = {fit: verb(model, mixed, fit=fit).table() for fit in ("crop", "resize")}
    assert reports["crop"] != reports["resize"]
    brought = verb(model, open_images(mixed, size=(8, 8), fit="resize"))
    same = {"about", "protocol", "files", "seconds"}  # names of files and images, and times
    assert {k: v for k, v in brought.table().items() if k not in same} == {
        k: v for k, v in reports["resize"].items() if k not in same
    }
    with pytest.raises(InputError, match="size 9"):
        verb(model, mixed, size=9)


def test_training_images_that_are_named_are_fitted_as_well(model: Model, mixed: Path):
    for options in ({"fit": "crop"}, {"size": 8}):
        assert memorisation(model, "digits:test", training_data=mixed, **options).training == 70
    with pytest.raises(InputError, match=r"mixed' differ in size.*--fit"):
        memorisation(model, "digits:test", training_data=mixed)


def test_two_sources_are_brought_to_any_size(mixed: Path):
    def judged(**options: Any) -> Any:
        return ddpm.evaluate_fid(mixed, "digits:test", features="pixels", progress=False, **options)

    with pytest.raises(InputError, match=r"differ in size.*--size 8"):
        judged()
    six = judged(size="6x7", fit="resize")
    assert six.protocol["geometry"] == "1 x 6 x 7"
    sized = [open_images(src, size=(6, 7), fit="resize") for src in (mixed, "digits:test")]
    assert six.fid == ddpm.evaluate_fid(*sized, features="pixels", progress=False).fid
    with pytest.raises(InputError, match=r"fit says how .* give the size"):
        judged(fit="crop")
    with pytest.raises(InputError, match="1 x 8 x 8, the samples are 1 x 6 x 6; --size brings both to one"):
        ddpm.evaluate_fid(open_images(mixed, size=(6, 6)), "digits:test", features="pixels", progress=False)


def test_statistics_beside_a_model_leave_nothing_to_size(model: Model, tmp_path: Path):
    fid(model, "digits:test", save_to=tmp_path / "test.npz")
    for options in ({"size": 8}, {"fit": "crop"}):
        with pytest.raises(InputError, match=r"statistics.*leave size, fit and alpha out"):
            fid(model, tmp_path / "test.npz", **options)


# ---- classes --------------------------------------------------------------------------------------------------------

NAMES, ORDER = ("cat", "dog", "owl"), ("owl", "cat", "dog")
ARRAY, NUMBERS = pixels(20, (1, 4, 4)), [k % 3 for k in range(20)]


@pytest.fixture
def conditional(tmp_path: Path) -> Model:
    return stored_model(tmp_path / "conditional", NAMES, network={"classes": 3})


def total(report: Any) -> float:
    return float(report.bound.total.value)


def test_a_mapping_gives_the_number_of_the_names_themselves_and_is_said(conditional: Model):
    named = likelihood(conditional, image_set(ARRAY, NUMBERS, NAMES))
    foreign = image_set(ARRAY, NUMBERS, ("Katze", "Hund", "Eule"))
    with pytest.raises(InputError, match="Katze, Hund, Eule; it knows cat, dog, owl; --labels says how"):
        likelihood(conditional, foreign)
    mapped = likelihood(conditional, foreign, labels={"Katze": "cat", "Hund": "dog", "Eule": "owl"})
    assert total(mapped) == total(named)
    remark = "classes met as named: Katze as cat, Hund as dog, Eule as owl"
    assert mapped.table()["about"]["labels"] == remark
    assert remark in mapped.lines()
    assert named.table()["about"]["labels"] == ""
    assert total(likelihood(conditional, foreign, labels="Katze=owl,Hund=cat,Eule=dog")) != total(named)


def test_labels_that_are_ignored_have_a_number_of_their_own(conditional: Model, tmp_path: Path):
    plain = image_set(ARRAY)
    with pytest.raises(InputError, match="'here' has none; --labels"):
        likelihood(conditional, plain)
    drawn = likelihood(conditional, plain, labels="ignore")
    assert any("drawn by the seed" in line for line in drawn.lines())
    free = stored_model(tmp_path / "free", NAMES, network={"classes": 3}, training={"label_dropout": 0.1})
    without = total(likelihood(free, plain))
    assert total(likelihood(free, image_set(ARRAY, NUMBERS, NAMES), labels="ignore")) == without
    assert total(likelihood(free, image_set(ARRAY, NUMBERS, NAMES))) != without


def test_full_sums_of_the_same_images_with_other_classes_are_kept_apart(conditional: Model, tmp_path: Path):
    """Their fingerprints are equal, since that is of the numbers; once the first one's shards were taken for both."""
    how = {"full": True, "out": tmp_path / "out", "progress": False}
    totals = [
        total(ddpm.evaluate_likelihood(conditional, image_set(ARRAY, NUMBERS, names), **how))
        for names in (NAMES, ORDER)
    ]
    assert totals[0] != totals[1]
    assert len(list((tmp_path / "out").glob("full-*"))) == 2
    alone = ddpm.evaluate_likelihood(conditional, image_set(ARRAY, NUMBERS, ORDER), **how | {"out": tmp_path / "new"})
    assert total(alone) == totals[1]


def test_codec_and_distances_ask_for_no_class(tmp_path: Path):
    """The encoder chooses one itself, and a distance compares pixels."""
    settings = {"image": {"height": 8, "width": 8}, "data": "digits", "network": {"classes": 10}}
    model = stored_model(tmp_path / "model", tuple(map(str, range(10))), **settings)
    for some in (ddpm.images("digits:test").array(), image_set(pixels(70, (1, 8, 8)), [0] * 70, ("bird",))):
        assert fid(model, some).fid is not None
        with pytest.raises(InputError, match=r"codec data .* were not made yet"):
            codec(model, some, out=tmp_path / "out")


# ---- splits ---------------------------------------------------------------------------------------------------------


def test_a_source_with_splits_must_name_one_everywhere(verb: Callable[..., Any], model: Model):
    """As on the command line, which hands the words on as they are."""
    for src in ("digits", "digits[0:100]"):
        with pytest.raises(InputError, match=r"splits .*digits:train or digits:test"):
            verb(model, src)
    report = verb(model, "digits:test[0:70]")
    assert "70" in "\n".join(report.lines()) or report.images == 2


# ---- files ----------------------------------------------------------------------------------------------------------

WRITES: dict[str, tuple[Callable[..., Any], dict[str, Any], tuple[str, ...]]] = {
    "likelihood": (likelihood, {"rate": True}, ("rate.png", "rate.json", "rate.csv")),
    "codec": (codec, {}, ("codec.png", "codec-strip.png", "codec-bytes.png", "codec.json")),
    "memorisation": (memorisation, {}, ("memorisation.png",)),
}
EACH = [(verb, name) for verb, (_, _, names) in WRITES.items() for name in names]


@pytest.mark.parametrize(("verb", "name"), EACH)
def test_a_destination_that_cannot_be_is_refused_before_the_work(verb: str, name: str, model: Model, tmp_path: Path):
    call, options, _ = WRITES[verb]
    (tmp_path / name).mkdir()
    asked: list[int] = []
    hook = model.network.register_forward_hook(lambda module, given, output: asked.append(len(given[0])))
    with pytest.raises(InputError, match=f"{name}' is a folder"):
        call(model, "digits:test", out=tmp_path, **options)
    hook.remove()
    assert asked == []
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("verb", WRITES)
def test_a_file_that_cannot_be_written_loses_no_other(
    verb: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first one finds the disk full; the numbers and all others are there."""
    call, options, names = WRITES[verb]
    refuse(monkeypatch, names[0])
    with pytest.warns(UserWarning, match=rf"{names[0]}' could not be written: .*No space left"):
        report = call(model, "digits:test", out=tmp_path, **options)
    assert len(report.lost) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(names[1:])
    assert report.lines()


def test_statistics_that_cannot_be_saved_lose_no_distance(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    refuse(monkeypatch, "test.npz")
    with pytest.warns(UserWarning, match=r"test\.npz' could not be written"):
        report = fid(model, "digits:test", save_to=tmp_path / "test.npz")
    assert report.fid == fid(model, "digits:test").fid
    assert len(report.lost) == 1


def test_a_compressed_file_that_cannot_be_written_is_a_sentence(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    refuse(monkeypatch, "00001.dpc")
    with pytest.raises(InputError, match=r"00001\.dpc' could not be written: .*No space left"):
        codec(model, "digits:test", out=tmp_path)


def test_files_are_named_before_they_are_written(tmp_path: Path):
    files, progress = ResultFiles(tmp_path, ["a"]), Counting()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files.write("a", lambda path: path.write_text("mine"))
    assert (files.written, files.lost, progress.said) == ([tmp_path / "a"], [], [])
    with pytest.raises(AssertionError, match="checked before"):
        files.write("b", lambda path: path.write_text("mine"))


def refuse(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """From now on the disk is full for one file, when it gets its name."""
    rename = base_files.os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(base_files.os, "replace", full)


@pytest.mark.parametrize("alpha", ["drop", "white", "black"])
def test_see_through_images_are_judged_without_their_alpha(alpha: str, tmp_path: Path):
    (tmp_path / "stray").mkdir()
    levels = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 4), np.uint8)
    for k, image in enumerate(levels):
        Image.fromarray(image[..., : 3 + k % 2]).save(tmp_path / "stray" / f"{k:02}.png")
    grey = str(tmp_path / "stray")
    with pytest.raises(InputError, match=r"are see-through .* and others have no alpha"):
        ddpm.evaluate_fid(grey, grey, features="pixels")
    report = ddpm.evaluate_fid(grey, grey, features="pixels", alpha=alpha)
    assert report.table()["fid"]["value"] < 1e-6
