"""ddpm evaluate --metric fid and kid: what is compared, under which protocol, and what is refused before it costs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import Done, done, drawn, sentence, snapshot, type_in
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim, export, save

import ddpm
from ddpm.model.model import Model
from ddpm.networks import UNet

SHORT = ("--features", "pixels", "--samples", "70", "--steps", "2")
ROW = re.compile(r"^  (fid|kid)  (-?[\d.]+) ± ([\d.]+) +95 %: (-?[\d.]+) to (-?[\d.]+)", re.MULTILINE)
FIELDS = {"value", "error", "interval", "bias", "corrected"}


def evaluated(src: str | Path, *words: str | Path, data: str | Path = "digits:test", metric: str = "fid") -> Done:
    """ddpm evaluate that must succeed."""
    return done("evaluate", src, "--data", data, "--metric", metric, *words)


def found(src: str | Path, *words: str | Path, **how: str | Path) -> dict[str, dict[str, object]]:
    """Its JSON."""
    end = evaluated(src, *words, "--json", **how)
    return json.loads(end.out, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


@pytest.fixture
def no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network call fails."""
    monkeypatch.setattr(UNet, "forward", lambda *_: pytest.fail("the network was called"))


def refusal(src: str | Path, *words: str | Path, data: str | Path = "digits:test", metric: str = "fid") -> str:
    """The one sentence of an evaluation that must fail, and leaves the folder as it was."""
    before = snapshot(Path.cwd())
    said = sentence(type_in("evaluate", src, "--data", data, "--metric", metric, *words))
    assert snapshot(Path.cwd()) == before
    return said


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six features of 1 x 8 x 8 images."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Conv2d(1, 6, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.body(images.float() / 255).relu().mean((2, 3))

    file = tmp_path_factory.mktemp("programs") / "six.pt2"
    example = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with torch.no_grad():
        save(export(Network().eval(), (example,), dynamic_shapes=({0: Dim("B")},)), file)
    return file


# ---- the numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*are few for a Fréchet distance:UserWarning")
def test_numbers_are_those_of_the_library(digits_run: Path, program: Path):
    words = ("--features", program, "--seeds", "5-104", "--sampler", "ddim", "--steps", "3", "--eta", "0.5")
    table = found(digits_run, *words, "--metric", "kid")
    own = ddpm.compare(
        ddpm.load(digits_run),
        ddpm.images("digits:test"),
        features=str(program),
        seeds=range(5, 105),
        sampler="ddim",
        steps=3,
        eta=0.5,
    )
    for name in ("fid", "kid"):
        estimate = getattr(own, name)
        assert set(table[name]) == FIELDS
        assert [table[name][key] for key in FIELDS - {"interval"}] == [
            getattr(estimate, key) for key in FIELDS - {"interval"}
        ]
        assert table[name]["interval"] == list(estimate.interval)
    assert table["protocol"] == own.protocol


def test_a_person_reads_the_same_numbers_and_how_they_were_made(digits_run: Path):
    table, end = found(digits_run, *SHORT), evaluated(digits_run, *SHORT)
    rows = {name: [float(text) for text in rest] for name, *rest in ROW.findall(end.out)}
    assert list(rows) == ["fid", "kid"]
    for name, shown in rows.items():
        expected = [table[name]["value"], table[name]["error"], *table[name]["interval"]]
        assert shown == pytest.approx(expected, abs=1e-4 if name == "fid" else 1e-6)
    assert f"bias about {table['fid']['bias']:.4f}" in end.out
    assert f"times 1,000: {1000 * table['kid']['value']:.3f} ± " in end.out
    facts = ("70 pictures", "averaged weights", "64 images seen", "seeds 0-69", "dpm++sde, eta 1: 2 levels, uniform")
    more = ("2 network calls", "297 reference images of digits:test, 1 x 8 x 8", "pixels, 64 dimensions", "32 blocks")
    for fact in (*facts, *more):
        assert fact in end.out
    assert max(map(len, end.out.splitlines())) <= 120 + len(str(digits_run))


def test_program_is_named_with_the_start_of_its_hash(digits_run: Path, program: Path):
    words = ("--features", program, *SHORT[2:])
    sha256 = found(digits_run, *words)["protocol"]["extractor"]["sha256"]
    assert f"features {program}, 6 dimensions, sha256 {sha256[:12]}\n" in evaluated(digits_run, *words).out


def test_protocol_holds_everything(digits_run: Path):
    told = found(digits_run, *SHORT, "--sampler", "ancestral", "--variance", "small", "--weights", "raw")["protocol"]
    assert told["extractor"] == {"name": "pixels", "sha256": "pixels", "dimensions": 64}
    assert told["counts"] == {"pictures": 70, "reference": 297}
    reference = ddpm.images("digits:test")
    assert (told["reference"]["source"], told["reference"]["fingerprint"]) == ("digits:test", reference.fingerprint)
    drawn_by = told["pictures"]["model"]
    assert [drawn_by[key] for key in ("sampler", "variance", "weights", "steps")] == ["ancestral", "small", "raw", 2]
    assert told["pictures"]["seeds"] == "0-69"
    assert told["quantisation"] == "nearest of 256 levels"


def test_2048_pictures_are_drawn_unless_told_otherwise(digits_run: Path):
    words = ("--features", "pixels", "--steps", "1")
    table = found(digits_run, *words, metric="kid")
    assert set(table) == {"kid", "protocol"}
    assert table["protocol"]["counts"]["pictures"] == 2048
    assert table["protocol"]["pictures"]["seeds"] == "0-2047"


def test_few_images_are_warned_of_and_the_kernel_distance_is_shown(digits_run: Path):
    end = evaluated(digits_run, *SHORT)
    assert "ddpm: 70 pictures and 297 reference images are few" in end.err
    assert [name for name, *_ in ROW.findall(end.out)] == ["fid", "kid"]
    end = evaluated(digits_run, *SHORT, metric="kid")
    assert "few" not in end.err
    assert [name for name, *_ in ROW.findall(end.out)] == ["kid"]


# ---- pictures from everywhere ---------------------------------------------------------------------------------------


def test_pictures_are_judged_alike_whether_drawn_kept_or_made_elsewhere(digits_run: Path):
    one = found(digits_run, *SHORT, "--keep", "kept")
    drawn(digits_run, "--seeds", "0-69", "--steps", "2")
    pictures = np.load("drawn.npz")["arr_0"]
    np.savez("elsewhere.npz", pictures.repeat(3, axis=-1))  # grey as RGB, as other tools save it
    words = ("--features", "pixels")
    for src in ("kept", "drawn.npz", "elsewhere.npz", "kept[0:70]"):
        other = found(src, *words)
        assert {key: other[key] for key in ("fid", "kid")} == {key: one[key] for key in ("fid", "kid")}
        told = other["protocol"]["pictures"]
        assert told["source"] == src
        assert len(told["fingerprint"]) == 64
    told = found("kept", *words)["protocol"]["pictures"]
    assert (told["model"], told["seeds"]) == (one["protocol"]["pictures"]["model"], "0-69")
    assert "drawn by dpm++sde" in evaluated("kept", *words).out


def test_training_images_against_the_test_images_are_the_floor(digits_run: Path):
    floor = found("digits:train", "--features", "pixels")
    assert floor["protocol"]["pictures"]["source"] == "digits:train"
    assert floor["protocol"]["quantisation"] == "8 bits, as given"
    assert 0 < floor["fid"]["value"] < 0.1 * found(digits_run, *SHORT)["fid"]["value"]
    assert abs(floor["kid"]["value"]) < 5 * floor["kid"]["error"]


def test_the_reference_itself_is_judged_with_a_warning():
    end = evaluated("digits:test", "--features", "pixels", "--json")
    assert "very images of the reference 'digits:test'" in end.err
    assert abs(json.loads(end.out)["fid"]["value"]) < 1e-6


def test_kept_pictures_are_not_drawn_again_and_more_may_join_them(digits_run: Path):
    first = evaluated(digits_run, *SHORT, "--keep", "kept")
    assert "Sampling: 140 of 140\n" in first.err
    again = evaluated(digits_run, *SHORT, "--keep", "kept")
    assert "70 of 70 pictures are there already." in again.err
    assert not re.search("Sampling|Drawing", again.err)
    assert again.out == first.out
    more = evaluated(digits_run, *SHORT[:2], "--seeds", "0-79", *SHORT[4:], "--keep", "kept")
    assert "70 of 80 pictures are there already." in more.err
    assert "Sampling: 20 of 20\n" in more.err
    assert len(list(Path("kept").glob("*.png"))) == 80


def test_evaluation_that_was_stopped_goes_on(digits_run: Path, monkeypatch: pytest.MonkeyPatch):
    words = (*SHORT, "--keep", "kept", "--batch-size", "32")
    usual = Model.draw_batches

    def stopped(*args: object, **options: object) -> object:
        yield from (batch for batch, _ in zip(usual(*args, **options), range(1), strict=False))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Model, "draw_batches", stopped)
        end = type_in("evaluate", digits_run, "--data", "digits:test", "--metric", "fid", *words)
    assert (end.code, end.out) == (130, "")
    assert end.err.splitlines()[-1] == "ddpm: stopped."
    end = evaluated(digits_run, *words)
    assert "32 of 70 pictures are there already." in end.err
    assert "Sampling: 76 of 76\n" in end.err
    assert end.out == evaluated(digits_run, *SHORT, "--batch-size", "32").out


def test_metrics_share_the_pictures(digits_run: Path):
    words = (*SHORT, "--metric", "neighbours", "--metric", "kid", "--json")
    end = evaluated(digits_run, *words)
    assert re.findall(r"Sampling: ([\d,]+) of ([\d,]+)", end.err)[-1] == ("140", "140")
    table = json.loads(end.out)
    assert set(table) == {"neighbours", "fid", "kid", "protocol"}
    assert table["neighbours"]["samples"] == 70
    alone = found(digits_run, "--samples", "70", "--steps", "2", metric="neighbours")
    assert alone["neighbours"] == table["neighbours"]
    assert found(digits_run, *SHORT)["fid"] == table["fid"]


def test_images_are_brought_to_the_models_size(photos_run: Path, photos: Path):
    """Sixteen photographs of other sizes, each under five names, and the run's rule: 16 x 24."""
    Path("many").mkdir()
    for file in photos.iterdir():
        for k in range(5):
            Path("many", f"{k}{file.name}").write_bytes(file.read_bytes())
    told = found(photos_run, *SHORT, data="many", metric="kid")["protocol"]
    assert (told["geometry"], told["counts"]["reference"]) == ("3 x 16 x 24", 80)


def test_a_variance_that_the_sampler_has_not_is_the_bounds_alone(digits_run: Path):
    words = ("--metric", "bits", "--calls", "300", "--variance", "small", "--sampler", "ddim")
    table = found(digits_run, *SHORT, *words)
    assert table["bits"]["variance"] == "small"
    assert table["protocol"]["pictures"]["model"]["variance"] is None
    words = (*words[:-1], "ancestral")
    assert found(digits_run, *SHORT, *words)["protocol"]["pictures"]["model"]["variance"] == "small"


@pytest.mark.parametrize("option", [("--threshold", "none"), ("--seeds", "70-139"), ("--weights", "raw")])
def test_every_way_to_draw_changes_the_pictures_of_the_neighbours_too(option: tuple[str, str], digits_run: Path):
    words = ("--steps", "2", *(() if option[0] == "--seeds" else ("--samples", "70")))
    usual = found(digits_run, "--steps", "2", "--samples", "70", metric="neighbours")["neighbours"]
    other = found(digits_run, *words, *option, metric="neighbours")["neighbours"]
    assert other["samples"] == 70
    assert other["median"] != usual["median"]


# ---- statistics -----------------------------------------------------------------------------------------------------


def assert_same(one: dict[str, object], other: dict[str, object]) -> None:
    """A distance from statistics and from their images; 1e-9 is room for another order of sums."""
    assert set(one) == set(other)
    for key, value in one.items():
        assert value == pytest.approx(other[key], rel=1e-9)


def test_statistics_give_the_same_distance_as_their_images(digits_run: Path, program: Path):
    words = ("--features", program, *SHORT[2:])
    end = evaluated(digits_run, *words, "--save-statistics", "below/test.npz", "--json")
    assert "below/test.npz: statistics of digits:test." in end.err
    assert set(np.load("below/test.npz").files) >= {"mu", "sigma"}
    one, other = json.loads(end.out), found(digits_run, *words, data="below/test.npz")
    assert_same(other["fid"], one["fid"])
    assert "kid" not in other
    assert other["protocol"]["reference"] == one["protocol"]["reference"] | {"given_as": "statistics"}
    assert "297 reference images of digits:test" in evaluated(digits_run, *words, data="below/test.npz").out
    elsewhere = found("digits:train", "--features", program, data="below/test.npz")
    assert_same(elsewhere["fid"], found("digits:train", "--features", program)["fid"])


def test_statistics_may_be_saved_anew_but_nothing_else_is_overwritten(digits_run: Path):
    for _ in range(2):
        evaluated(digits_run, *SHORT, "--save-statistics", "test.npz")
    np.savez("mine.npz", arr_0=np.zeros((70, 8, 8), np.uint8))
    assert "'mine.npz'" in refusal(digits_run, *SHORT, "--save-statistics", "mine.npz")
    assert "already" in refusal(digits_run, *SHORT, "--save-statistics", "new.npz", data="test.npz")


def test_statistics_of_other_features_are_never_compared_with(digits_run: Path, program: Path, no_calls: None):
    evaluated("digits:train", "--features", program, "--save-statistics", "six.npz")
    said = refusal(digits_run, *SHORT, data="six.npz")
    assert "64 dimensions" in said
    held = dict(np.load("six.npz"))
    np.savez("other.npz", **held | {"extractor": "0123456789abcdef"})
    said = refusal(digits_run, "--features", program, *SHORT[2:], data="other.npz")
    assert "0123456789ab" in said
    assert "'six.npz'" in refusal(digits_run, "--features", program, *SHORT[2:], data="six.npz", metric="kid")
    assert "six.npz" in refusal(digits_run, "--features", program, "--metric", "bits", data="six.npz")


def test_statistics_of_others_are_taken_on_trust_and_that_is_said(digits_run: Path):
    levels = ddpm.images("digits:test").array().reshape(297, -1) / 255
    np.savez("plain.npz", mu=levels.mean(0), sigma=np.cov(levels, rowvar=False))
    end = evaluated(digits_run, *SHORT, "--json", data="plain.npz")
    assert "nothing in 'plain.npz' says which features" in end.err
    table = json.loads(end.out)
    assert table["fid"]["value"] == pytest.approx(found(digits_run, *SHORT)["fid"]["value"], rel=1e-6)
    assert table["protocol"]["reference"]["extractor"] == "unknown"
    assert table["protocol"]["counts"]["reference"] is None
    assert "an unknown number of reference images" in evaluated(digits_run, *SHORT, data="plain.npz").out


# ---- what cannot be -------------------------------------------------------------------------------------------------

REFUSED = {
    "fid": "--features",
    "kid": "--features",
    "fid --features pixel": "did you mean 'pixels'",
    "fid --features nowhere.pt2": "'nowhere.pt2'",
    "fid --features file": "'file' is no torch.export program",
    "fid --features colour.pt2": "1, 8, 8",
    "bits --features pixels": "--features",
    "bits --seeds 0-69": "--seeds",
    "bits --sampler ddim": "--sampler",
    "bits --class 3": "--class",
    "bits --guidance 2": "--guidance",
    "bits --threshold none": "--threshold",
    "bits --eta 0": "--eta",
    "bits --spacing karras": "--spacing",
    "bits --save-statistics a.npz": "--save-statistics",
    "kid --features pixels --save-statistics a.npz": "--save-statistics",
    "fid --features pixels --calls 300": "--calls",
    "fid --features pixels --full": "--full",
    "fid --features pixels --levels 3": "--levels",
    "fid --features pixels --limit 100": "--limit",
    "fid --features pixels --seed 3": "--seed",
    "fid --features pixels --training-data digits:train": "--training-data",
    "fid --features pixels --samples 63": "64 would fit",
    "kid --features pixels --samples 63": "64 would fit",
    "fid --features pixels --samples 70 --seeds 0-70": "71",
    "fid --features pixels --seeds some": "some",
    "fid --features pixels --seeds 0-69,3": "twice",
    "fid --features pixels --steps 13": "1 to 12",
    "fid --features pixels --steps 0": "0 steps",
    "fid --features pixels --sampler dim": "did you mean 'ddim'",
    "fid --features pixels --spacing karas --steps 3": "did you mean 'karras'",
    "fid --features pixels --sampler ddim --eta 2": "eta",
    "fid --features pixels --variance small --sampler ddim": "variance",
    "fid --features pixels --variance optimal": "ddpm tune",
    "fid --features pixels --threshold some": "some",
    "fid --features pixels --class 3": "without classes",
    "fid --features pixels --guidance 2": "guidance",
    "fid --features pixels --weights best": "best",
    "fid --features pixels --device abacus": "abacus",
    "fid --features pixels --metric beauty": "beauty",
    "fid --features pixels --metric ode --steps 3": "fid",
    "fid --features pixels --metric bits --calls 3": "256",
    "fid --features pixels --metric neighbours --keep kept": "ask one at a time",
    "kid --features pixels --metric rate --keep kept": "ask one at a time",
    "fid --features pixels --keep file": "file",
    "fid --features pixels --keep kept.npz": "kept.npz",
    "fid --features pixels --keep pictures": "sampling.json",
    "fid --features pixels --save-statistics folder": "'folder'",
    "fid --features pixels --save-statistics a.json": "a.npz",
    "fid --features pixels --save-statistics file/a.npz": "'file'",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_is_one_sentence_before_the_first_network_call(words: str, digits_run: Path, no_calls: None):
    Path("file").write_text("mine")
    Path("folder").mkdir()
    Path("pictures").mkdir()
    Path("pictures/000003.png").write_bytes(b"somebody's")
    if "colour.pt2" in words:
        example = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        save(export(nn.Flatten(), (example,), dynamic_shapes=({0: Dim("B")},)), "colour.pt2")
    metric, *rest = words.split()
    assert REFUSED[words] in refusal(digits_run, *rest, metric=metric)


@pytest.mark.parametrize("src", ["digits_run", "digits:train", "elsewhere"])
@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        ("big.npy", "1 x 8 x 8"),
        ("mixed", "mixed"),
        ("digits", "digits:test"),
        ("nowhere", "nowhere"),
        ("digits:test[0:63]", "64 would fit"),
        ("empty", "empty"),
        ("short.npz", "short.npz"),
    ],
)
def test_images_that_do_not_fit_are_named(src: str, data: str, fragment: str, digits_run: Path, no_calls: None):
    rng = np.random.default_rng(0)
    np.save("big.npy", np.zeros((70, 16, 16), np.uint8))
    np.savez("elsewhere.npz", arr_0=rng.integers(0, 256, (70, 8, 8), np.uint8))
    Path("short.npz").write_bytes(b"PK\x03\x04 and no more")
    Path("empty").mkdir()
    Path("mixed").mkdir()
    for size in (8, 16):
        Image.new("L", (size, size)).save(f"mixed/{size}.png")
    judged = {"digits_run": digits_run, "elsewhere": "elsewhere.npz"}.get(src, src)
    words = SHORT if src == "digits_run" else SHORT[:2]
    assert fragment in refusal(judged, *words, data=data)


def test_grey_and_colour_are_compared_where_nothing_is_lost(digits_run: Path):
    """Pictures get the channels of the reference; a model has its own."""
    np.save("colour.npy", np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), np.uint8))
    assert found("digits:train", "--features", "pixels", data="colour.npy")["protocol"]["geometry"] == "3 x 8 x 8"
    assert "3 x 8 x 8" in refusal("colour.npy", "--features", "pixels")
    assert "colour" in refusal(digits_run, *SHORT, data="colour.npy")


@pytest.mark.parametrize("src", ["big.npy", "colour.npy", "nowhere", "digits", "few.npy", "file", ""])
def test_pictures_that_cannot_be_judged_are_named(src: str):
    np.save("big.npy", np.zeros((70, 16, 16), np.uint8))
    np.save("colour.npy", np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), np.uint8))
    np.save("few.npy", np.zeros((63, 8, 8), np.uint8))
    Path("file").write_text("mine")
    said = refusal(src, "--features", "pixels")
    named = {"big.npy": "16 x 16", "colour.npy": "3 x 8 x 8", "few.npy": "63 pictures", "": "''"}
    assert named.get(src, f"'{src}' is no run") in said


OF_A_MODEL = {
    "--sampler": "ddim",
    "--steps": "3",
    "--spacing": "karras",
    "--eta": "0.5",
    "--variance": "small",
    "--threshold": "none",
    "--class": "3",
    "--guidance": "2",
    "--seeds": "0-69",
    "--samples": "70",
    "--weights": "raw",
    "--keep": "kept",
}


@pytest.mark.parametrize("option", OF_A_MODEL)
def test_how_to_draw_means_nothing_to_images_made_elsewhere(option: str):
    said = refusal("digits:train", "--features", "pixels", option, OF_A_MODEL[option])
    assert option in said
    assert "'digits:train' is no run" in said


def test_metrics_of_a_model_need_one():
    for metric in ("bits", "neighbours"):
        assert "digits:train" in refusal("digits:train", "--features", "pixels", "--metric", metric)


def test_pictures_drawn_another_way_are_never_mixed(digits_run: Path):
    evaluated(digits_run, *SHORT, "--keep", "kept")
    for option in (("--weights", "raw"), ("--threshold", "none"), ("--eta", "0.5"), ("--sampler", "ddim")):
        assert "another way" in refusal(digits_run, *SHORT, *option, "--keep", "kept")


def test_pictures_are_not_kept_among_the_files_of_a_run(digits_run: Path, no_calls: None):
    before = snapshot(digits_run)
    for folder in (digits_run, digits_run / "checkpoints" / "0000000064"):
        assert "pictures" in refusal(digits_run, *SHORT, "--keep", folder)
    assert snapshot(digits_run) == before


@pytest.mark.parametrize("name", ["roses", "2"])
def test_class_that_there_is_not_is_answered_with_those_there_are(name: str, kinds_run: Path, kinds: Path):
    assert "china, flower" in refusal(kinds_run, *SHORT, "--class", name, data=kinds)
