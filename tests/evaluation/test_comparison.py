"""Samples compared with a reference: the same numbers however they come, and a protocol that says all of it."""

from __future__ import annotations

import json
import re
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim, export, save

import ddpm
from ddpm.base.geometry import Geometry
from ddpm.base.progress import Progress
from ddpm.base.seeding import parse_seeds
from ddpm.errors import InputError
from ddpm.evaluation import comparison
from ddpm.evaluation.comparison import LEAST, MOST_DIMENSIONS, check_comparison
from ddpm.evaluation.fid_report import FidReport
from ddpm.evaluation.samples import Samples, given_samples, model_samples, written
from ddpm.generation.draw import plan_for, protocol
from ddpm.generation.resumable import Drawing
from ddpm.metrics.extractors import open_extractor
from ddpm.metrics.features import Extractor
from ddpm.metrics.frechet import frechet_estimate
from ddpm.metrics.jackknife import Distance
from ddpm.metrics.kernel import kernel_estimate
from ddpm.metrics.statistics import Statistics, load_statistics, statistics_of
from ddpm.model.model import Model
from ddpm.samplers.plan import Sampling
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
def samples(model: Model) -> np.ndarray:
    """What it draws."""
    return ddpm.sample(model, seeds=SEEDS, steps=3)


class Heard(Progress):
    """Keeps the steps of every stage, and may stop in the middle of one."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.steps: dict[str, list[int]] = {}
        self.totals: dict[str, int] = {}
        self.said: list[str] = []
        self.stop_at = stop_at

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    @contextmanager
    def stage(self, title: str, total: int, done: int = 0) -> Any:
        steps = self.steps.setdefault(title, [])
        self.totals[title] = total

        def advance(more: int, note: str = "") -> None:
            steps.append(more)
            if title == "Sampling" and len(steps) == self.stop_at:
                raise KeyboardInterrupt

        yield advance

    @property
    def drawn(self) -> list[int]:
        """Images in every step."""
        return self.steps.get("Sampling", [])


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


def numbers(found: FidReport) -> list[float]:
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
def test_distances_are_those_of_the_features(which: str, samples: np.ndarray, program: str):
    """The same code on the same features; 1e-9 is room for the order in which batches were merged."""
    features = {"pixels": "pixels", "program": program}[which]
    extractor = open_extractor(features, GEOMETRY, CPU)
    mine, theirs = extractor(torch.from_numpy(samples)), extractor(torch.from_numpy(REAL.array()))
    found = ddpm.evaluate_fid(samples, REAL, features=features)
    fid, kid = frechet_estimate(mine, statistics_of(theirs)), kernel_estimate(mine, theirs)
    expected = [fid.value, fid.error, fid.bias, kid.value, kid.error, 0.0]
    assert numbers(found) == pytest.approx(expected, rel=1e-9)
    assert isinstance(found.fid, Distance)
    assert found.fid.error > 0
    assert found.protocol["extractor"]["dimensions"] == extractor.dimensions == {"pixels": 64, "program": 5}[which]


def test_batch_size_changes_nothing_but_rounding(samples: np.ndarray, program: str):
    usual = numbers(ddpm.evaluate_fid(samples, REAL, features=program))
    assert numbers(ddpm.evaluate_fid(samples, REAL, features=program, batch_size=7)) == pytest.approx(usual, rel=1e-5)


def test_same_samples_have_the_same_distance_however_they_come(model: Model, samples: np.ndarray, tmp_path: Path):
    """Drawn, kept in a folder, found there again, in a folder of unknown origin, in an array made elsewhere; in the
    same batches, so to the last bit."""
    how = {"features": "pixels"}
    drawn = ddpm.evaluate_fid(model, REAL, **how, seeds=SEEDS, steps=3)
    kept = ddpm.evaluate_fid(model, REAL, **how, seeds=SEEDS, steps=3, keep=tmp_path / "kept")
    np.savez(tmp_path / "made.npz", arr_0=samples[:, 0])
    Drawing(model, plan_for(model, Sampling(steps=3)), SEEDS, tmp_path / "drawn.npz").draw()
    (tmp_path / "unknown").mkdir()
    for file in (tmp_path / "kept").glob("*.png"):
        (tmp_path / "unknown" / file.name).write_bytes(file.read_bytes())
    sources = [ddpm.images(str(tmp_path / name)) for name in ("kept", "unknown", "made.npz", "drawn.npz")]
    found = [ddpm.evaluate_fid(source, REAL, **how) for source in (*sources, samples)]
    assert [numbers(other) for other in (kept, *found)] == [numbers(drawn)] * 6
    for known in (found[0], found[3]):
        assert known.protocol["samples"]["model"] == protocol(model, plan_for(model, Sampling(steps=3)))
        assert known.protocol["samples"]["seeds"] == "0-69"
        assert known.protocol["quantisation"] == "nearest of 256 levels"
    for unknown in (found[1], found[2], found[4]):
        assert "model" not in unknown.protocol["samples"]
        assert unknown.protocol["quantisation"] == "8 bits, as given"
    assert "model" not in given_samples(ddpm.images(f"{tmp_path / 'drawn.npz'}[0:69]")).about


def test_images_of_another_name_in_a_kept_folder_were_drawn_in_an_unknown_way(model: Model, tmp_path: Path):
    for _ in model_samples(model, SEEDS, plan_for(model, Sampling(steps=3)), keep=tmp_path).batches(64):
        pass
    (tmp_path / "mine.png").write_bytes((tmp_path / "000003.png").read_bytes())
    assert "model" not in given_samples(ddpm.images(str(tmp_path))).about
    assert given_samples(ddpm.images(f"{tmp_path}[4:66]")).about["seeds"] == "4-65"


def test_sampling_options_are_those_of_sample(model: Model):
    how = {"sampler": "ddim", "steps": 4, "spacing": "uniform", "eta": 0.5, "threshold": "dynamic"}
    own = ddpm.evaluate_fid(model, REAL, features="pixels", seeds=range(5, 75), **how)
    other = ddpm.evaluate_fid(ddpm.sample(model, seeds=range(5, 75), **how), REAL, features="pixels")
    assert numbers(own) == numbers(other)
    assert own.protocol["samples"]["seeds"] == "5-74"


def test_seeds_are_those_from_0_to_2047_unless_named(model: Model):
    heard = Heard()
    found = ddpm.evaluate_fid(model, REAL, features="pixels", steps=1, batch_size=512, progress=heard)
    assert found.protocol["samples"]["seeds"] == "0-2047"
    assert sum(heard.drawn) == found.protocol["counts"]["samples"] == 2048


def test_progress_counts_steps_features_and_distances(model: Model):
    heard = Heard()
    how = {"seeds": SEEDS, "steps": 3, "batch_size": 50, "progress": heard}
    ddpm.evaluate_fid(model, REAL, features="pixels", **how)
    assert heard.steps["Features of the reference"] == [50, 40]
    assert heard.steps["Features"] == [50, 20]
    assert sum(heard.steps["Fréchet distances"]) == 33
    assert sum(heard.drawn) == 3 * 70
    assert heard.totals == {title: sum(steps) for title, steps in heard.steps.items()}
    assert any("3 levels" in sentence for sentence in heard.said)


def test_a_reference_is_seen_as_the_model_was_trained_to_see_it(tmp_path: Path):
    """Photographs of two sizes, scaled by the recipe's rule."""
    sized = stored_model(tmp_path / "model", image={"height": 8, "width": 8}, size="8")
    for k, image in enumerate(pixels(66, (1, 10, 12), seed=3)):
        Image.fromarray(image[0, : 10 - k % 2]).save(tmp_path / f"{k:02}.png")
    found = ddpm.evaluate_fid(sized, tmp_path, features="pixels", seeds=SEEDS, steps=1)
    scaled = ddpm.images(str(tmp_path), size=8)
    assert found.protocol["reference"]["fingerprint"] == scaled.fingerprint
    assert numbers(found) == numbers(ddpm.evaluate_fid(sized, scaled, features="pixels", seeds=SEEDS, steps=1))


# ---- kept samples --------------------------------------------------------------------------------------------------


def test_kept_samples_are_not_drawn_again(model: Model, tmp_path: Path):
    words = {"features": "pixels", "steps": 3, "keep": tmp_path / "kept"}
    heard = Heard()
    first = ddpm.evaluate_fid(model, REAL, seeds=SEEDS, **words)
    again = ddpm.evaluate_fid(model, REAL, seeds=SEEDS, **words, progress=heard)
    assert heard.drawn == []
    assert any("70 of 70" in sentence and "kept" in sentence for sentence in heard.said)
    assert numbers(again) == numbers(first)
    ddpm.evaluate_fid(model, REAL, seeds=range(64), **words, progress=heard)
    assert heard.drawn == [], "fewer are among them"
    ddpm.evaluate_fid(model, REAL, seeds=range(80), **words, progress=heard)
    assert heard.drawn == [10] * 3
    assert heard.totals["Sampling"] == 30


def test_comparison_that_was_stopped_goes_on(model: Model, tmp_path: Path):
    words = {"features": "pixels", "seeds": SEEDS, "steps": 3, "keep": tmp_path / "kept", "batch_size": 32}
    with pytest.raises(KeyboardInterrupt):
        ddpm.evaluate_fid(model, REAL, **words, progress=Heard(stop_at=5))
    heard = Heard()
    found = ddpm.evaluate_fid(model, REAL, **words, progress=heard)
    assert heard.drawn == [32] * 3 + [6] * 3
    assert numbers(found) == numbers(ddpm.evaluate_fid(model, REAL, **words | {"keep": None}))


def test_samples_drawn_another_way_are_never_mixed(model: Model, tmp_path: Path):
    words = {"features": "pixels", "seeds": SEEDS, "keep": tmp_path / "kept"}
    ddpm.evaluate_fid(model, REAL, **words, steps=3)
    for other in ({"steps": 2}, {"steps": 3, "eta": 0.5}, {}):
        with pytest.raises(InputError, match="kept"):
            ddpm.evaluate_fid(model, REAL, **words, **other)


def test_a_damaged_image_that_was_kept_is_drawn_again(model: Model, tmp_path: Path):
    words = {"features": "pixels", "seeds": SEEDS, "keep": tmp_path / "kept", "steps": 3}
    first, file = ddpm.evaluate_fid(model, REAL, **words).table(), tmp_path / "kept" / "000007.png"
    before = file.read_bytes()
    for damage in (b"not an image", (tmp_path / "kept" / "000008.png").read_bytes()):
        file.write_bytes(damage)
        again = ddpm.evaluate_fid(model, REAL, **words).table()
        assert again["fid"]["value"] == pytest.approx(first["fid"]["value"], rel=1e-3)  # drawn in another batch
        assert len(file.read_bytes()) == pytest.approx(len(before), rel=0.2)


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_statistics_stand_for_their_images(samples: np.ndarray, program: str, tmp_path: Path):
    heard, file = Heard(), tmp_path / "below" / "real.npz"
    from_images = ddpm.evaluate_fid(samples, REAL, features=program, save_to=file, progress=heard)
    assert any(str(file) in sentence for sentence in heard.said)
    from_file = ddpm.evaluate_fid(samples, file, features=program)
    assert from_file.kid is None
    assert numbers(from_file) == pytest.approx(numbers(from_images)[:3], rel=1e-9)
    told = from_file.protocol["reference"]
    assert told == from_images.protocol["reference"] | {"given_as": "statistics"}
    assert from_file.protocol["counts"] == from_images.protocol["counts"] == {"samples": 70, "reference": 90}
    assert numbers(ddpm.evaluate_fid(samples, load_statistics(file), features=program)) == numbers(from_file)
    assert numbers(ddpm.evaluate_fid(samples, str(file), features=program)) == numbers(from_file)


def test_statistics_may_be_saved_anew_but_nothing_else_is_overwritten(samples: np.ndarray, tmp_path: Path):
    for _ in range(2):
        ddpm.evaluate_fid(samples, REAL, features="pixels", save_to=tmp_path / "real.npz")
    np.savez(tmp_path / "mine.npz", arr_0=samples)
    (tmp_path / "file").write_text("mine")
    for name, data in (("mine.npz", REAL), ("real.json", REAL), ("file/a.npz", REAL), ("new.npz", pixel_statistics())):
        with pytest.raises(InputError):
            ddpm.evaluate_fid(samples, data, features="pixels", save_to=tmp_path / name)
    assert np.load(tmp_path / "mine.npz").files == ["arr_0"]
    assert {path.name for path in tmp_path.iterdir()} == {"real.npz", "mine.npz", "file"}


def test_statistics_of_other_features_are_refused(samples: np.ndarray, program: str):
    for other in (pixel_statistics(extractor="0123456789abcdef"), pixel_statistics(mean=np.zeros(5))):
        with pytest.raises(InputError, match="of 'real'"):
            ddpm.evaluate_fid(samples, other, features="pixels")
    with pytest.raises(InputError, match="5 dimensions"):
        ddpm.evaluate_fid(samples, pixel_statistics(), features=program)


def test_statistics_of_unknown_features_are_used_with_a_warning(samples: np.ndarray, tmp_path: Path):
    known = pixel_statistics()
    np.savez(tmp_path / "plain.npz", mu=known.mean, sigma=known.covariance)
    with pytest.warns(UserWarning, match=r"plain\.npz"):
        found = ddpm.evaluate_fid(samples, tmp_path / "plain.npz", features="pixels")
    assert found.protocol["reference"]["extractor"] == found.protocol["reference"]["fingerprint"] == "unknown"
    assert found.protocol["counts"]["reference"] is None
    assert numbers(found) == numbers(ddpm.evaluate_fid(samples, known, features="pixels"))


# ---- the protocol ---------------------------------------------------------------------------------------------------


def test_protocol_says_everything_the_numbers_depend_on(model: Model, tmp_path: Path):
    found = ddpm.evaluate_fid(model, REAL, features="pixels", seeds=[*range(40, 110), 3], steps=3)
    assert found.protocol == {
        "extractor": {"name": "pixels", "sha256": "pixels", "dimensions": 64},
        "geometry": "1 x 8 x 8",
        "counts": {"samples": 71, "reference": 90},
        "reference": {
            "source": "real",
            "given_as": "images",
            "fingerprint": REAL.fingerprint,
            "extractor": "pixels",
            "trained_on": {"images": None, "of": 90},
        },
        "samples": {
            "source": model.source,
            "images_seen": model.images_seen,
            "model": protocol(model, plan_for(model, Sampling(steps=3))),
            "seeds": "40-109,3",
        },
        "quantisation": "nearest of 256 levels",
        "errors": comparison.ERRORS,
    }
    assert json.loads(json.dumps(found.protocol, allow_nan=False)) == found.protocol


def test_protocol_of_a_program_is_the_hash_of_its_file(samples: np.ndarray, program: str):
    told = ddpm.evaluate_fid(samples, REAL, features=program).protocol["extractor"]
    assert told == {"name": program, "sha256": open_extractor(program, GEOMETRY, CPU).sha256, "dimensions": 5}


def test_report_says_the_numbers_and_how_they_were_made(model: Model, program: str, tmp_path: Path):
    how = {"sampler": "dpm++sde", "steps": 4, "threshold": "dynamic"}
    found = ddpm.evaluate_fid(model, REAL, features=program, seeds=SEEDS, save_to=tmp_path / "real.npz", **how)
    text = "\n".join(found.lines())
    fid, kid = found.fid, found.kid
    for name, distance, digits in (("fid", fid, 4), ("kid", kid, 6)):
        low, high = distance.interval
        assert re.search(rf"{name}  {distance.value:.{digits}f} ± {distance.error:.{digits}f}\b", text)
        assert f"{low:.{digits}f} to {high:.{digits}f}" in text
    assert f"{fid.bias:.4f}, {fid.corrected:.4f}" in text
    assert f"1,000: {1000 * kid.value:.3f} ± {1000 * kid.error:.3f}" in text
    hashed = found.protocol["extractor"]["sha256"]
    seen = f"70 samples of {model.source}, ema weights, {model.images_seen:,} images seen, seeds 0-69"
    drawn = ("4 levels, uniform", "eta 1", "threshold dynamic", "4 network calls")
    for fact in (
        seen,
        *drawn,
        "90 reference images of real, 1 x 8 x 8",
        "32 blocks",
        f"{program}, 5 dimensions, sha256 {hashed[:12]}",
    ):
        assert fact in text
    for unusual in ("variance", "class", "guidance", "statistics"):
        assert unusual not in text
    others = image_set(pixels(80, SHAPE, seed=2), name="others")
    text = "\n".join(ddpm.evaluate_fid(others, tmp_path / "real.npz", features=program).lines())
    assert "80 samples of others\n" in text
    assert "statistics" in text
    assert "kid  " not in text
    assert found.table() == {"fid": fid.table(), "kid": kid.table(), "protocol": found.protocol}


@pytest.mark.parametrize("text", ["7", "0-63", "1,5,10-19", "3,2,1", "0-1,5-6,2"])
def test_seeds_are_written_as_they_are_read(text: str):
    assert written(parse_seeds(text)) == text


# ---- few images -----------------------------------------------------------------------------------------------------


def told(count: int, reference: object, extractor: Extractor, **how: object) -> list[str]:
    """What is said of so many samples."""
    some = Samples(count, extractor.geometry, {}, "", lambda size: iter(()))
    return check_comparison(some, reference, extractor, **how)


def test_few_images_are_warned_of():
    extractor, enough = fake(64), image_set(pixels(2048, SHAPE))
    assert told(2048, enough, extractor) == []
    for count, reference in ((2047, enough), (2048, REAL)):
        (remark,) = told(count, reference, extractor)
        assert f"{count:,} samples and {len(reference):,} reference images" in remark
        assert "2,048 of each" in remark


def test_images_must_be_at_least_as_many_as_dimensions():
    """Else the covariance is far from full rank; 2,048 images in 2,048 dimensions are what papers take."""
    enough = image_set(pixels(2100, SHAPE))
    assert told(2100, enough, fake(2100)) == []
    assert "2,101 of each" in told(2100, enough, fake(2101))[0]


def test_statistics_of_few_images_are_warned_of_and_those_of_an_unknown_number_are_not():
    (remark,) = told(2048, pixel_statistics(), fake(64, "pixels"))
    assert "90 reference images" in remark
    assert told(2048, pixel_statistics(count=None), fake(64, "pixels")) == []
    (remark,) = told(2047, pixel_statistics(count=None), fake(64, "pixels"))
    assert "2,047 samples" in remark
    assert "reference" not in remark


def test_fewer_than_two_images_a_block_are_refused_with_the_number_it_takes():
    some, least = (pixels(count, SHAPE) for count in (LEAST - 1, LEAST))
    few = image_set(some, name="little")
    for samples, reference, words in ((some, REAL, "samples"), (least, few, "'little'")):
        with pytest.raises(InputError, match=f"{LEAST - 1} .*{words}.* {LEAST}"):
            ddpm.evaluate_fid(samples, reference, features="pixels")
    with pytest.raises(InputError, match=f"{LEAST - 1} samples.* {LEAST}"):
        ddpm.evaluate_fid(some, pixel_statistics(), features="pixels")
    found = ddpm.evaluate_fid(least, image_set(pixels(LEAST, SHAPE, seed=1)), features="pixels")
    assert np.isfinite(numbers(found)).all()


def test_warnings_are_said_once_and_before_anything_is_drawn(model: Model):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(KeyboardInterrupt):
            ddpm.evaluate_fid(model, REAL, features="pixels", seeds=SEEDS, steps=3, progress=Heard(stop_at=1))
    assert len(said) == 1
    assert said[0].filename == __file__


def test_images_of_the_reference_itself_are_warned_of():
    with pytest.warns(UserWarning, match="'real'"):
        found = ddpm.evaluate_fid(REAL, REAL, features="pixels")
    assert found.fid is not None
    assert abs(found.fid.value) < 1e-9
    with pytest.warns(UserWarning, match="'real'"):
        ddpm.evaluate_fid(REAL, pixel_statistics(), features="pixels")


# ---- what cannot be -------------------------------------------------------------------------------------------------


def test_images_of_another_size_are_refused_with_both_sizes(samples: np.ndarray, model: Model):
    other = image_set(pixels(90, (1, 8, 4)), name="wide")
    for given in (samples, model, REAL):
        with pytest.raises(InputError, match=r"'wide' .*1 x 8 x 4.*1 x 8 x 8"):
            ddpm.evaluate_fid(given, other, features="pixels")
    with pytest.raises(InputError, match=r"'real' .*1 x 8 x 4.*1 x 8 x 8"):
        ddpm.evaluate_fid(samples, pixel_statistics(geometry="1 x 8 x 4"), features="pixels")


REFUSED = {
    "features": ({"features": "pixel"}, "'pixels'"),
    "sampler": ({"sampler": "dim"}, "'ddim'"),
    "steps": ({"steps": 13}, "1 to 12"),
    "class": ({"class_name": "cat"}, "class"),
    "seed twice": ({"seeds": [*range(70), 3]}, "twice"),
    "seeds": ({"seeds": range(10)}, "^10 samples"),
    "array": ({"keep": "kept.npz"}, "kept.npz"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_before_anything_is_drawn(case: str, model: Model, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, fragment = REFUSED[case]
    heard = Heard()
    usual = {"features": "pixels", "seeds": SEEDS, "progress": heard, "keep": "kept"}
    with pytest.raises(InputError, match=fragment):
        ddpm.evaluate_fid(model, REAL, **usual | words)
    assert heard.steps == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [{"steps": 3}, {"seeds": SEEDS}, {"keep": "kept"}, {"threshold": "none"}])
def test_how_to_draw_does_not_go_with_images_that_are_there(words: dict[str, object], samples: np.ndarray):
    with pytest.raises(InputError, match="these samples are images"):
        ddpm.evaluate_fid(samples, REAL, features="pixels", **words)


def test_arrays_are_taken_in_every_layout_that_can_be_read_in_one_way_only(samples: np.ndarray):
    usual = numbers(ddpm.evaluate_fid(samples, REAL, features="pixels"))
    layouts = (samples[:, 0], samples.transpose(0, 2, 3, 1), torch.from_numpy(samples), samples.tolist())
    for given in layouts[:3]:
        assert numbers(ddpm.evaluate_fid(given, REAL.array(), features="pixels")) == usual
    for refused in (layouts[3], samples / 255, samples[:, :, None], None, {}):
        with pytest.raises(InputError):
            ddpm.evaluate_fid(refused, REAL, features="pixels")
        with pytest.raises(InputError):
            ddpm.evaluate_fid(samples, refused, features="pixels")


def test_in_too_many_dimensions_there_is_the_kernel_distance_alone(monkeypatch: pytest.MonkeyPatch):
    many = fake(MOST_DIMENSIONS + 1, "pixels")
    assert told(2048, REAL, many) == [], "few images are no matter then"
    for reference, how in ((pixel_statistics(mean=np.zeros(MOST_DIMENSIONS + 1)), {}), (REAL, {"saved": True})):
        with pytest.raises(InputError, match=f"{MOST_DIMENSIONS:,}"):
            told(2048, reference, many, **how)
    monkeypatch.setattr(comparison, "MOST_DIMENSIONS", 63)
    found = ddpm.evaluate_fid(pixels(80, SHAPE, seed=2), REAL, features="pixels")
    assert found.fid is None
    assert found.kid == ddpm.evaluate_fid(pixels(80, SHAPE, seed=2), REAL, features="pixels").kid
    assert set(found.table()) == {"kid", "protocol"}
    assert not any("fid  " in line for line in found.lines())
