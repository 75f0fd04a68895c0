"""Pictures compared with a reference: the same numbers however they come, and a protocol that says all of it."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export, save

import ddpm
from ddpm.base.geometry import Geometry
from ddpm.base.seeding import parse_seeds
from ddpm.errors import DamagedFile, InputError
from ddpm.evaluation import Comparison, distance
from ddpm.evaluation.comparison import DISTANCES, LEAST, MOST_DIMENSIONS, question
from ddpm.evaluation.samples import Pictures, ToDraw, given_pictures, written
from ddpm.metrics import (
    Estimate,
    Extractor,
    Statistics,
    frechet_estimate,
    kernel_estimate,
    load_statistics,
    open_extractor,
    save_statistics,
    statistics_of,
)
from ddpm.model.model import Model
from ddpm.samplers import Sampling
from scorings import image_set, pixels, stored_model

SHAPE = (1, 8, 8)
GEOMETRY = Geometry(*SHAPE)
CPU = torch.device("cpu")
REAL = image_set(pixels(90, SHAPE, seed=1), name="real")
SEEDS = range(70)
FEW = "ignore:.*are few for a Fréchet distance:UserWarning"

pytestmark = pytest.mark.filterwarnings(FEW)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Twelve levels, 8 x 8 grey pixels, weights at random."""
    return stored_model(tmp_path_factory.mktemp("models") / "model", image={"height": 8, "width": 8})


@pytest.fixture(scope="module")
def pictures(model: Model) -> Tensor:
    """What it draws."""
    return ddpm.sample(model, seeds=SEEDS, steps=3)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a network with five features."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Conv2d(1, 5, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.body(images.float() / 255).relu().mean((2, 3))

    file = tmp_path_factory.mktemp("programs") / "five.pt2"
    example = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    with torch.no_grad():
        save(export(Network().eval(), (example,), dynamic_shapes=({0: Dim("B")},)), file)
    return str(file)


def numbers(found: Comparison) -> list[float]:
    """All that is estimated."""
    estimates = [estimate for estimate in (found.fid, found.kid) if estimate is not None]
    return [number for e in estimates for number in (e.value, e.error, e.bias)]


def fake(dimensions: int, sha256: str = "fake", geometry: Geometry = GEOMETRY) -> Extractor:
    return Extractor("fake", sha256, dimensions, geometry, CPU, lambda images: images.flatten(1).float())


def pixel_statistics(**changes: object) -> Statistics:
    rows = REAL.array().reshape(len(REAL), -1) / 255
    return replace(statistics_of(rows, extractor="pixels", fingerprint=REAL.fingerprint, source="real"), **changes)


# ---- the numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["pixels", "program"])
def test_distances_are_those_of_the_features(which: str, pictures: Tensor, program: str):
    """The same code on the same features; 1e-9 is room for the order in which batches were merged."""
    features = {"pixels": "pixels", "program": program}[which]
    extractor = open_extractor(features, GEOMETRY, CPU)
    mine, theirs = extractor(pictures), extractor(torch.from_numpy(REAL.array()))
    found = ddpm.compare(pictures, REAL, features=features)
    fid, kid = frechet_estimate(mine, statistics_of(theirs)), kernel_estimate(mine, theirs)
    expected = [fid.value, fid.error, fid.bias, kid.value, kid.error, 0.0]
    assert numbers(found) == pytest.approx(expected, rel=1e-9)
    assert isinstance(found.fid, Estimate)
    assert found.fid.error > 0
    assert found.protocol["extractor"]["dimensions"] == extractor.dimensions == {"pixels": 64, "program": 5}[which]


def test_batch_size_changes_nothing_but_rounding(pictures: Tensor, program: str):
    usual = numbers(ddpm.compare(pictures, REAL, features=program))
    assert numbers(ddpm.compare(pictures, REAL, features=program, batch_size=7)) == pytest.approx(usual, rel=1e-5)


def test_same_pictures_have_the_same_distance_however_they_come(model: Model, pictures: Tensor, tmp_path: Path):
    """Drawn, kept in a folder, found there again, in a folder of nobody, in an array made elsewhere; in the same
    batches, so to the last bit."""
    how = {"features": "pixels"}
    drawn = ddpm.compare(model, REAL, **how, seeds=SEEDS, steps=3)
    kept = ddpm.compare(model, REAL, **how, seeds=SEEDS, steps=3, keep=tmp_path / "kept")
    np.savez(tmp_path / "made.npz", arr_0=pictures[:, 0].numpy())
    (tmp_path / "nobodys").mkdir()
    for file in (tmp_path / "kept").glob("*.png"):
        (tmp_path / "nobodys" / file.name).write_bytes(file.read_bytes())
    sources = [ddpm.images(str(tmp_path / name)) for name in ("kept", "nobodys", "made.npz")]
    found = [ddpm.compare(source, REAL, **how) for source in (*sources, pictures)]
    assert [numbers(other) for other in (kept, *found)] == [numbers(drawn)] * 5
    assert found[0].protocol["pictures"]["model"] == model.protocol(Sampling(steps=3))
    assert found[0].protocol["pictures"]["seeds"] == "0-69"
    assert "model" not in found[1].protocol["pictures"]
    assert [other.protocol["quantisation"] for other in found] == ["nearest of 256 levels", *["8 bits, as given"] * 3]


def test_pictures_of_another_name_in_a_kept_folder_are_nobodys(model: Model, pictures: Tensor, tmp_path: Path):
    ToDraw(model, SEEDS, Sampling(steps=3), tmp_path).draw()
    (tmp_path / "mine.png").write_bytes((tmp_path / "000003.png").read_bytes())
    assert "model" not in given_pictures(ddpm.images(str(tmp_path))).about
    assert given_pictures(ddpm.images(f"{tmp_path}[4:66]")).about["seeds"] == "4-65"


def test_sampling_options_are_those_of_sample(model: Model):
    how = {"sampler": "ddim", "steps": 4, "spacing": "uniform", "eta": 0.5, "threshold": "dynamic"}
    own = ddpm.compare(model, REAL, features="pixels", seeds=range(5, 75), **how)
    other = ddpm.compare(ddpm.sample(model, seeds=range(5, 75), **how), REAL, features="pixels")
    assert numbers(own) == numbers(other)
    assert own.protocol["pictures"]["seeds"] == "5-74"


def test_seeds_are_those_from_0_to_2047_unless_named(model: Model):
    drawn: list[int] = []
    found = ddpm.compare(model, REAL, features="pixels", metrics=["kid"], steps=1, on_step=drawn.append)
    assert found.protocol["pictures"]["seeds"] == "0-2047"
    assert sum(drawn) == found.protocol["counts"]["pictures"] == 2048


@pytest.mark.parametrize("metric", DISTANCES)
@pytest.mark.filterwarnings("error")
def test_only_what_is_asked_for_is_computed(metric: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distance, "USUAL", 64)
    found = ddpm.compare(REAL, image_set(pixels(80, SHAPE, seed=2)), features="pixels", metrics=[metric])
    assert [name for name in DISTANCES if getattr(found, name) is not None] == [metric]


def test_progress_counts_steps_and_features(model: Model):
    drawn, seen = [], []
    ddpm.compare(
        model, REAL, features="pixels", seeds=SEEDS, steps=3, on_step=drawn.append, on_images=seen.append, batch_size=50
    )
    assert (sum(drawn), sum(seen)) == (3 * 70, 90 + 70)
    assert seen == [50, 40, 50, 20], "the reference comes first"


# ---- kept pictures --------------------------------------------------------------------------------------------------


def test_kept_pictures_are_not_drawn_again(model: Model, tmp_path: Path):
    words = {"features": "pixels", "steps": 3, "keep": tmp_path / "kept"}
    drawn: list[int] = []
    first = ddpm.compare(model, REAL, seeds=SEEDS, **words)
    again = ddpm.compare(model, REAL, seeds=SEEDS, **words, on_step=drawn.append)
    assert drawn == []
    assert numbers(again) == numbers(first)
    ddpm.compare(model, REAL, seeds=range(64), **words, on_step=drawn.append)
    assert drawn == [], "fewer are among them"
    ddpm.compare(model, REAL, seeds=range(80), **words, on_step=drawn.append)
    assert drawn == [10] * 3


def test_comparison_that_was_stopped_goes_on(model: Model, tmp_path: Path):
    words = {"features": "pixels", "seeds": SEEDS, "steps": 3, "keep": tmp_path / "kept", "batch_size": 32}
    drawn: list[int] = []

    def stop(pictures: int) -> None:
        drawn.append(pictures)
        if len(drawn) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ddpm.compare(model, REAL, **words, on_step=stop)
    drawn.clear()
    found = ddpm.compare(model, REAL, **words, on_step=drawn.append)
    assert drawn == [32] * 3 + [6] * 3
    assert numbers(found) == numbers(ddpm.compare(model, REAL, **words | {"keep": None}))


def test_pictures_drawn_another_way_are_never_mixed(model: Model, tmp_path: Path):
    words = {"features": "pixels", "seeds": SEEDS, "keep": tmp_path / "kept"}
    ddpm.compare(model, REAL, **words, steps=3)
    for other in ({"steps": 2}, {"steps": 3, "eta": 0.5}, {}):
        with pytest.raises(InputError, match="another way"):
            ddpm.compare(model, REAL, **words, **other)


def test_damaged_picture_is_named(model: Model, tmp_path: Path):
    words = {"features": "pixels", "seeds": SEEDS, "keep": tmp_path / "kept", "steps": 3}
    ddpm.compare(model, REAL, **words)
    (tmp_path / "kept" / "000007.png").write_bytes(b"not a picture")
    with pytest.raises(DamagedFile, match=r"000007\.png"):
        ddpm.compare(model, REAL, **words)


# ---- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metrics", [("fid",), DISTANCES])
def test_statistics_stand_for_their_images(metrics: tuple[str, ...], pictures: Tensor, program: str, tmp_path: Path):
    extractor = open_extractor(program, GEOMETRY, CPU)
    measured = question(given_pictures(pictures), REAL, extractor, metrics=metrics).measure()
    assert measured.statistics is not None
    file = save_statistics(tmp_path / "real.npz", measured.statistics)
    from_images = measured.judge(given_pictures(pictures))
    from_file = ddpm.compare(pictures, file, features=program)
    assert from_file.kid is None
    assert numbers(from_file) == pytest.approx(numbers(from_images)[:3], rel=1e-9)
    told = from_file.protocol["reference"]
    assert told == from_images.protocol["reference"] | {"given_as": "statistics"}
    assert from_file.protocol["counts"] == from_images.protocol["counts"] == {"pictures": 70, "reference": 90}
    assert numbers(ddpm.compare(pictures, load_statistics(file), features=program)) == numbers(from_file)


def test_statistics_of_other_features_are_refused(pictures: Tensor, program: str):
    for other in (pixel_statistics(extractor="0123456789abcdef"), pixel_statistics(mean=np.zeros(5))):
        with pytest.raises(InputError, match="of 'real'"):
            ddpm.compare(pictures, other, features="pixels")
    with pytest.raises(InputError, match="5 dimensions"):
        ddpm.compare(pictures, pixel_statistics(), features=program)


def test_statistics_of_unknown_features_are_used_with_a_warning(pictures: Tensor, tmp_path: Path):
    known = pixel_statistics()
    np.savez(tmp_path / "plain.npz", mu=known.mean, sigma=known.covariance)
    with pytest.warns(UserWarning, match=r"plain\.npz' says which features"):
        found = ddpm.compare(pictures, tmp_path / "plain.npz", features="pixels")
    assert found.protocol["reference"]["extractor"] == found.protocol["reference"]["fingerprint"] == "unknown"
    assert found.protocol["counts"]["reference"] is None
    assert numbers(found) == numbers(ddpm.compare(pictures, known, features="pixels"))


def test_kernel_distance_needs_images(pictures: Tensor):
    with pytest.raises(InputError, match="kid needs the images"):
        ddpm.compare(pictures, pixel_statistics(), features="pixels", metrics=DISTANCES)


# ---- the protocol ---------------------------------------------------------------------------------------------------


def test_protocol_says_everything_the_numbers_depend_on(model: Model, tmp_path: Path):
    found = ddpm.compare(model, REAL, features="pixels", seeds=[*range(40, 110), 3], steps=3)
    assert found.protocol == {
        "extractor": {"name": "pixels", "sha256": "pixels", "dimensions": 64},
        "geometry": "1 x 8 x 8",
        "counts": {"pictures": 71, "reference": 90},
        "reference": {
            "source": "real",
            "given_as": "images",
            "fingerprint": REAL.fingerprint,
            "extractor": "pixels",
        },
        "pictures": {
            "source": model.source,
            "images_seen": model.images_seen,
            "model": model.protocol(Sampling(steps=3)),
            "seeds": "40-109,3",
        },
        "quantisation": "nearest of 256 levels",
        "errors": distance.ERRORS,
    }
    assert json.loads(json.dumps(found.protocol, allow_nan=False)) == found.protocol


def test_protocol_of_a_program_is_the_hash_of_its_file(pictures: Tensor, program: str):
    told = ddpm.compare(pictures, REAL, features=program).protocol["extractor"]
    assert told == {"name": program, "sha256": open_extractor(program, GEOMETRY, CPU).sha256, "dimensions": 5}


@pytest.mark.parametrize("text", ["7", "0-63", "1,5,10-19", "3,2,1", "0-1,5-6,2"])
def test_seeds_are_written_as_they_are_read(text: str):
    assert written(parse_seeds(text)) == text


# ---- few images -----------------------------------------------------------------------------------------------------


def told(count: int, reference: object, extractor: Extractor, **how: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is computed, and what is said, of so many pictures."""
    some = Pictures(count, extractor.geometry, {}, "", lambda size: iter(()))
    found = question(some, reference, extractor, **how)
    return found.metrics, found.remarks


def test_few_images_are_warned_of_and_the_kernel_distance_comes_too():
    extractor, enough = fake(64), image_set(pixels(2048, SHAPE))
    assert told(2048, enough, extractor, metrics=["fid"]) == (("fid",), ())
    for count, reference in ((2047, enough), (2048, REAL)):
        metrics, (remark,) = told(count, reference, extractor, metrics=["fid"])
        assert metrics == DISTANCES
        assert f"{count:,} pictures and {len(reference):,} reference images are few" in remark
        assert "2,048 of each would fit" in remark
    assert told(2047, REAL, extractor, metrics=["kid"]) == (("kid",), ()), "which has no bias"


def test_images_must_be_at_least_as_many_as_dimensions():
    """Else the covariance is far from full rank; 2,048 images in 2,048 dimensions are what papers take."""
    enough = image_set(pixels(2100, SHAPE))
    assert told(2100, enough, fake(2100), metrics=["fid"])[1] == ()
    assert "2,101 of each" in told(2100, enough, fake(2101), metrics=["fid"])[1][0]


def test_statistics_of_few_images_are_warned_of_and_those_of_an_unknown_number_are_not():
    metrics, (remark,) = told(2048, pixel_statistics(), fake(64, "pixels"))
    assert metrics == ("fid",)
    assert "90 reference images" in remark
    assert told(2048, pixel_statistics(count=None), fake(64, "pixels")) == (("fid",), ())
    assert told(2047, pixel_statistics(count=None), fake(64, "pixels"))[1][0].startswith("2,047 pictures are few")


@pytest.mark.parametrize("metrics", [["fid"], ["kid"], None])
def test_fewer_than_two_images_a_block_are_refused_with_the_number_that_would_fit(metrics: list[str] | None):
    extractor = open_extractor("pixels", GEOMETRY, CPU)
    some, least = (given_pictures(torch.from_numpy(pixels(count, SHAPE))) for count in (LEAST - 1, LEAST))
    with pytest.raises(InputError, match=f"^{LEAST - 1} pictures are too few.*{LEAST} would fit"):
        question(some, REAL, extractor, metrics=metrics)
    few = image_set(pixels(LEAST - 1, SHAPE), name="little")
    with pytest.raises(InputError, match=f"{LEAST - 1} reference images in 'little'.*{LEAST} would fit"):
        question(least, few, extractor, metrics=metrics)
    found = question(least, image_set(pixels(LEAST, SHAPE)), extractor, metrics=metrics).measure().judge(least)
    assert np.isfinite(numbers(found)).all()


def test_warnings_are_said_once_and_before_anything_is_drawn(model: Model):
    def fail(pictures: int) -> None:
        raise AssertionError

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(AssertionError):
            ddpm.compare(model, REAL, features="pixels", seeds=SEEDS, steps=3, on_step=fail)
    assert len(said) == 1


def test_images_of_the_reference_itself_are_warned_of():
    with pytest.warns(UserWarning, match="very images of the reference 'real'"):
        found = ddpm.compare(REAL, REAL, features="pixels")
    assert found.fid is not None
    assert abs(found.fid.value) < 1e-9
    with pytest.warns(UserWarning, match="very images"):
        ddpm.compare(REAL, pixel_statistics(), features="pixels")


# ---- what cannot be -------------------------------------------------------------------------------------------------


def test_images_of_another_size_are_refused_with_both_sizes(pictures: Tensor, model: Model):
    other = image_set(pixels(90, (1, 8, 4)), name="wide")
    for judged in (pictures, model, REAL):
        with pytest.raises(InputError, match="'wide' are 1 x 8 x 4, the pictures 1 x 8 x 8"):
            ddpm.compare(judged, other, features="pixels")


REFUSED = {
    "metric": ({"metrics": ["fit"]}, "did you mean 'fid'"),
    "features": ({"features": "pixel"}, "did you mean 'pixels'"),
    "sampler": ({"sampler": "dim"}, "did you mean 'ddim'"),
    "steps": ({"steps": 13}, "1 to 12"),
    "class": ({"class_name": "cat"}, "without classes"),
    "seed twice": ({"seeds": [*range(70), 3]}, "comes twice"),
    "seeds": ({"seeds": range(10)}, "10 pictures are too few"),
    "array": ({"keep": "kept.npz"}, "'kept' would fit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_before_anything_is_drawn(case: str, model: Model, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, fragment = REFUSED[case]
    drawn: list[int] = []
    usual = {"features": "pixels", "seeds": SEEDS, "on_step": drawn.append, "keep": "kept"}
    with pytest.raises(InputError, match=fragment):
        ddpm.compare(model, REAL, **usual | words)
    assert drawn == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [{"steps": 3}, {"seeds": SEEDS}, {"keep": "kept"}, {"threshold": "none"}])
def test_how_to_draw_means_nothing_to_pictures_that_are_there(words: dict[str, object], pictures: Tensor):
    with pytest.raises(InputError, match="mean nothing"):
        ddpm.compare(pictures, REAL, features="pixels", **words)


@pytest.mark.parametrize("shape", [(70, 8, 8), (70, 8, 8, 1), (70, 5, 8, 8)])
def test_pictures_must_be_uint8_with_the_channels_first(shape: tuple[int, ...]):
    with pytest.raises(InputError):
        ddpm.compare(torch.zeros(shape, dtype=torch.uint8), REAL, features="pixels")
    with pytest.raises(InputError, match="float32"):
        ddpm.compare(torch.zeros(70, *SHAPE), REAL, features="pixels")


def test_frechet_distance_in_too_many_dimensions_is_refused_and_the_kernel_distance_is_not():
    many = fake(MOST_DIMENSIONS + 1)
    with pytest.raises(InputError, match="out of reach"):
        told(2048, REAL, many, metrics=["fid"])
    assert told(2048, REAL, many, metrics=["kid"]) == (("kid",), ())
