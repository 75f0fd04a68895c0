"""The library as a user writes it: `import ddpm` and its verbs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ddpm
from ddpm import api
from ddpm.errors import DamagedFile, InputError
from ddpm.samplers import Sampling

TINY = {
    "batch_size": 16,
    "learning_rate": 1e-2,
    "network": {"channels": 8, "groups": 4},
    "process": {"steps": 12},
    "training": {"warmup_images": 0, "log_images": 16},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of digits with classes."""
    network = TINY["network"] | {"classes": 10}
    recipe = ddpm.recipe("digits", **TINY | {"train_images": "0.064k", "network": network})
    return ddpm.train(recipe, out=tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def model(run: Path) -> api.Model:
    return ddpm.load(run)


# ---- the front door -------------------------------------------------------------------------------------------------

CHECK = """
import importlib, pkgutil, sys
{first}
import ddpm
import ddpm.api
names = [name for name in ddpm.__all__ if name != "__version__"]
for _ in range(2):
    wrong = [name for name in names if getattr(ddpm, name) is not getattr(ddpm.api, name)]
    assert not wrong, wrong
for module in pkgutil.walk_packages(ddpm.__path__, "ddpm."):
    importlib.import_module(module.name)
wrong = [name for name in names if getattr(ddpm, name) is not getattr(ddpm.api, name)]
assert not wrong, wrong
"""
FIRST = {
    "nothing": "",
    "another verb": "import ddpm; ddpm.train; ddpm.load",
    "the modules": "from ddpm.model.recipe import Recipe\nimport ddpm.convert, ddpm.errors",
    "every verb": "from ddpm import *",
}


@pytest.mark.parametrize("first", FIRST)
def test_every_name_is_the_verb_whatever_was_imported_before(first: str):
    code = CHECK.format(first=FIRST[first])
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stderr.splitlines()[-1]


def test_names_are_those_of_the_api():
    assert set(dir(ddpm)) == set(ddpm.__all__) == {*api.__all__, "__version__"}
    assert sorted(api.__all__) == list(api.__all__)
    assert all(callable(getattr(ddpm, name)) and getattr(ddpm, name).__doc__ for name in api.__all__)


def test_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="smaple"):
        _ = ddpm.smaple
    with pytest.raises(ImportError, match="smaple"):
        from ddpm import smaple  # noqa: F401


# ---- recipe, train --------------------------------------------------------------------------------------------------


def test_recipe_takes_nested_changes_and_leaves_the_rest():
    usual, changed = ddpm.recipe("digits"), ddpm.recipe("digits", train_images="300k", network={"channels": 32})
    assert changed.train_images == 300_000
    assert changed.network.channels == 32
    assert changed.network.multipliers == usual.network.multipliers
    assert changed.process == usual.process
    with pytest.raises(InputError, match=r"did you mean 'network\.channels'"):
        ddpm.recipe("digits", network={"chanels": 32})
    with pytest.raises(ValueError, match=r"no recipe 'digit', did you mean 'digits'"):
        ddpm.recipe("digit")
    with pytest.raises(ValueError, match="frozen"):
        changed.seed = 3


def test_recipe_is_read_from_a_file(tmp_path: Path):
    (tmp_path / "mine.toml").write_text("train_images = 7\n[process]\nsteps = 5\n")
    recipe = ddpm.recipe(str(tmp_path / "mine.toml"), seed=3)
    assert (recipe.train_images, recipe.process.steps, recipe.seed) == (7, 5, 3)
    assert ddpm.recipe(tmp_path / "mine.toml") == ddpm.recipe(str(tmp_path / "mine.toml"))


def test_same_call_again_is_complete_and_a_larger_one_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def train(images: int) -> tuple[list[api.Progress], list[str]]:
        seen: list[api.Progress] = []
        said: list[str] = []
        recipe = ddpm.recipe("digits", **TINY | {"train_images": images})
        path = ddpm.train(recipe, out=tmp_path / "run", on_progress=seen.append, say=said.append)
        assert path == tmp_path / "run"
        return seen, said

    first, said = train(64)
    assert [progress.images for progress in first] == [16, 32, 48, 64]
    assert {progress.total for progress in first} == {64}
    assert first[-1].loss > 0
    assert first[-1].images_per_second > 0
    assert (first[-1].seconds_left, said) == (0, [])
    files = {path: path.read_bytes() for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()}
    again, said = train(64)
    assert again == []
    assert all(path.read_bytes() == data for path, data in files.items())
    longer, said = train(96)
    assert [progress.images for progress in longer] == [80, 96]
    assert any("64" in sentence for sentence in said)
    assert ddpm.load(tmp_path / "run").images_seen == 96
    with pytest.raises(InputError, match="seed"):
        ddpm.train(ddpm.recipe("digits", **TINY | {"train_images": 96, "seed": 1}), out=tmp_path / "run")
    assert capsys.readouterr() == ("", ""), "a library does not print"


def test_train_takes_data_and_the_geometry_and_classes_from_it(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 16, 3), np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=[0, 1, 2, 0, 1, 2])
    recipe = ddpm.recipe("small", **TINY | {"train_images": 16})
    run = ddpm.train(recipe, data=str(tmp_path / "mine.npz"), out=str(tmp_path / "run"))
    model = ddpm.load(run)
    assert model.geometry.shape == (3, 8, 16)
    assert model.class_names == ("0", "1", "2")
    assert model.recipe.data == str(tmp_path / "mine.npz")
    with pytest.raises(InputError, match="data"):
        ddpm.train(recipe, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


# ---- load, sample, save_grid ----------------------------------------------------------------------------------------


def test_load_takes_a_run_or_a_checkpoint_as_string_or_path(run: Path):
    model = ddpm.load(str(run))
    assert model.images_seen == 64
    assert model.weights == "averaged"
    assert model.recipe.process.steps == 12
    newest = run / "checkpoints" / "0000000064"
    raw = ddpm.load(newest, weights="raw", device="cpu")
    assert (raw.weights, raw.device) == ("raw", torch.device("cpu"))
    assert any((a != b).any() for a, b in zip(model.network.parameters(), raw.network.parameters(), strict=True))
    assert not any(weight.requires_grad for weight in raw.network.parameters())
    with pytest.raises(InputError, match="best"):
        ddpm.load(run, weights="best")
    with pytest.raises(InputError, match="nowhere"):
        ddpm.load("nowhere")


def test_load_refuses_a_damaged_checkpoint(run: Path, tmp_path: Path):
    for file in (run / "checkpoints" / "0000000064").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        ddpm.load(tmp_path)


def test_sample_draws_a_picture_a_seed(model: api.Model):
    pictures = ddpm.sample(model, seeds=range(4))
    assert (pictures.dtype, pictures.shape, pictures.device.type) == (torch.uint8, (4, 1, 8, 8), "cpu")
    assert not torch.is_grad_enabled() or not pictures.requires_grad
    for seeds in ([0, 1, 2, 3], (seed for seed in range(4)), np.arange(4), torch.arange(4)):
        assert torch.equal(ddpm.sample(model, seeds=seeds), pictures)
    calls: list[int] = []
    ddpm.sample(model, seeds=range(3), steps=5, batch_size=2, on_step=calls.append)
    assert calls == [2] * 5 + [1] * 5
    with pytest.raises(InputError):
        ddpm.sample(model, seeds=[])


def test_sample_takes_sampler_variance_and_class(model: api.Model):
    usual = ddpm.sample(model, seeds=range(4), class_name="3")
    assert torch.equal(ddpm.sample(model, seeds=range(4), class_name="3", sampler="ancestral"), usual)
    assert torch.equal(ddpm.sample(model, seeds=range(4), class_name="3", variance="large"), usual)
    assert not torch.equal(ddpm.sample(model, seeds=range(4), class_name="3", variance="small"), usual)
    assert not torch.equal(ddpm.sample(model, seeds=range(4), class_name="4"), usual)
    for wrong in ({"sampler": "fast"}, {"variance": "none"}, {"class_name": "ten"}, {"steps": 0}, {"steps": 13}):
        with pytest.raises(InputError):
            ddpm.sample(model, seeds=[0], **wrong)


def test_sample_takes_every_choice_of_sampling_by_its_name(model: api.Model):
    """Each gives what the same Sampling gives, and not what is drawn without it."""
    few = {"steps": 4}
    choices: list[dict[str, object]] = [
        few,
        few | {"spacing": "karras"},
        few | {"sampler": "ddim", "eta": 0.7},
        few | {"eta": 0.3},
        few | {"threshold": "dynamic"},
        few | {"variance": "small"},
        few | {"class_name": "7"},
        {"sampler": "heun"},
    ]
    seen = {ddpm.sample(model, seeds=range(8)).numpy().tobytes()}
    for chosen in choices:
        found = ddpm.sample(model, seeds=range(8), **chosen)
        assert torch.equal(found, model.draw(range(8), Sampling(**chosen))), chosen
        seen.add(found.numpy().tobytes())
    assert len(seen) == 1 + len(choices)
    wrong: list[dict[str, object]] = [
        {"spacing": "karras"},
        few | {"eta": 3.0},
        few | {"threshold": "some"},
        {"guidance": 2.0},
        few | {"spacing": "tuned"},
    ]
    for chosen in wrong:
        with pytest.raises(InputError):
            ddpm.sample(model, seeds=[0], **chosen)


def test_sampling_does_not_touch_the_global_random_state(model: api.Model):
    torch.manual_seed(3)
    np.random.seed(3)
    first = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    ddpm.sample(model, seeds=range(2))
    assert (torch.rand(1), np.random.rand()) == first


def test_save_grid_writes_a_png_below_any_folder(model: api.Model, tmp_path: Path):
    pictures = ddpm.sample(model, seeds=range(3))
    for path in (tmp_path / "new" / "grid.png", str(tmp_path / "grid.png")):
        ddpm.save_grid(pictures, path)
        image = Image.open(path)
        assert (image.format, image.mode) == ("PNG", "L")
    with pytest.raises(InputError, match=r"\.png"):
        ddpm.save_grid(pictures, tmp_path / "grid.webm")
    with pytest.raises(InputError):
        ddpm.save_grid(pictures[:0], tmp_path / "none.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png", "new"]


# ---- bits_per_dim, rate_distortion, ode_bits_per_dim, tune ----------------------------------------------------------


def test_bits_per_dim_are_a_sum_with_errors_and_repeatable(model: api.Model):
    test = ddpm.images("digits:test")
    calls: list[int] = []
    bound = ddpm.bits_per_dim(model, test, calls=300, batch_size=64, on_calls=calls.append)
    parts = (bound.prior, bound.steps, bound.decoder)
    assert bound.total.value == pytest.approx(sum(part.value for part in parts))
    assert all(part.error > 0 for part in (bound.total, *parts))
    assert (bound.images, bound.calls, sum(calls)) == (297, 300, 300)
    assert ddpm.bits_per_dim(model, test, calls=300).total.value == pytest.approx(bound.total.value, rel=1e-5)
    assert ddpm.bits_per_dim(model, test, calls=300, variance="small").total.value != bound.total.value
    for wrong in ({"calls": 255}, {"calls": 0}, {"variance": "none"}, {"variance": "range"}, {"limit": 0}):
        with pytest.raises(InputError):
            ddpm.bits_per_dim(model, test, **wrong)


def test_rate_distortion_begins_with_the_whole_bound_and_ends_with_the_prior(model: api.Model):
    test = ddpm.images("digits:test")
    profile = ddpm.rate_distortion(model, test, calls=2400)
    bound = ddpm.bits_per_dim(model, test)
    assert profile.rate[0] == pytest.approx(bound.total.value, abs=8 * bound.total.error)
    assert profile.rate[-1] == pytest.approx(bound.prior.value, abs=0.01)
    assert (np.diff(profile.rate) <= 0).all()
    with pytest.raises(InputError, match="12"):
        ddpm.rate_distortion(model, test, calls=11)


def test_ode_bits_per_dim_scores_as_many_images_as_the_calls_allow(model: api.Model):
    found = ddpm.ode_bits_per_dim(model, ddpm.images("digits:test"), calls=11, steps=1)
    assert (found.images, found.calls) == (2, 10)
    assert found.total.value == pytest.approx(found.flow.value + found.decoder.value)
    for wrong in ({"steps": 0}, {"steps": -1}, {"calls": 9, "steps": 1}):
        with pytest.raises(InputError):
            ddpm.ode_bits_per_dim(model, ddpm.images("digits:test"), **wrong)


def test_images_and_classes_must_be_those_of_the_model(model: api.Model, tmp_path: Path):
    np.save(tmp_path / "plain.npy", np.zeros((3, 8, 8), np.uint8))
    np.save(tmp_path / "big.npy", np.zeros((3, 16, 16), np.uint8))
    for verb in (ddpm.bits_per_dim, ddpm.rate_distortion, ddpm.ode_bits_per_dim, ddpm.tune):
        with pytest.raises(InputError, match="class"):
            verb(model, ddpm.images(str(tmp_path / "plain.npy")))
        with pytest.raises(InputError, match="16"):
            verb(model, ddpm.images(str(tmp_path / "big.npy")))


def test_tune_writes_what_optimal_reads_and_the_loaded_model_knows_it(tmp_path: Path):
    recipe = ddpm.recipe("digits", **TINY | {"train_images": 32, "process": {"steps": 40}})
    model = ddpm.load(ddpm.train(recipe, out=tmp_path / "run"))
    test = ddpm.images("digits:test")
    for use in ({"variance": "optimal"}, {"levels": 3}):
        with pytest.raises(InputError, match="ddpm tune"):
            ddpm.bits_per_dim(model, test, calls=300, **use)
    with pytest.raises(InputError, match="ddpm tune"):
        ddpm.sample(model, seeds=[0], variance="optimal")
    path = ddpm.tune(model, calls=264)
    assert path == Path(model.source) / "variance-averaged.json"
    assert ddpm.bits_per_dim(model, test, calls=300, variance="optimal").total.error > 0
    assert ddpm.bits_per_dim(model, test, calls=300, levels=3).total.error > 0
    assert len(ddpm.rate_distortion(model, test, calls=300, levels=3).levels) == 4
    assert ddpm.sample(model, seeds=[0], steps=3, variance="optimal").shape == (1, 1, 8, 8)
    with pytest.raises(InputError, match="digits:train"):
        ddpm.bits_per_dim(model, ddpm.images("digits:train"), calls=300, variance="optimal")
    for wrong in ({"calls": 0}, {"calls": -1}):
        with pytest.raises(InputError):
            ddpm.tune(model, **wrong)


def test_placed_levels_are_those_that_the_loaded_model_samples_with(tmp_path: Path):
    recipe = ddpm.recipe("digits", **TINY | {"train_images": 32})
    model = ddpm.load(ddpm.train(recipe, out=tmp_path / "run"))
    before, calls = ddpm.sample(model, seeds=range(4), steps=3), []
    few = {"trials": 5, "pictures": 64}
    path = ddpm.place_levels(model, steps=[3, 2], **few, batch_size=32, on_calls=calls.append)
    assert path == Path(model.source) / "levels-averaged.json"
    assert (set(calls), sum(calls)) == ({32}, 5 * 64 * (3 + 2))
    after = ddpm.sample(model, seeds=range(4), steps=3)
    assert not torch.equal(after, before)
    assert torch.equal(ddpm.sample(model, seeds=range(4), steps=3, sampler="dpm++sde", spacing="tuned"), after)
    assert torch.equal(ddpm.sample(model, seeds=range(4), steps=3, spacing="uniform"), before)
    assert str(path) in ddpm.show(tmp_path / "run")["side_files"]
    held = path.read_bytes()
    ddpm.place_levels(model, ddpm.images("digits:train"), steps=[2, 2], sampler="ddim", **few)
    assert path.read_bytes() != held
    assert ddpm.sample(model, seeds=[0], steps=2, sampler="ddim", spacing="tuned").shape == (1, 1, 8, 8)
    for wrong in ({"steps": []}, {"steps": [0]}, {"steps": [3, 13]}, {"steps": [2], "sampler": "unpic"},
                  {"steps": [2], "features": ["pixel"]}, {"steps": [2], "trials": 4}, {"steps": [2], "pictures": 9},
                  {"steps": [2], "features": []}):  # fmt: skip
        with pytest.raises(InputError):
            ddpm.place_levels(model, **few | wrong)


# ---- images, inspect, nearest_neighbours, convert -------------------------------------------------------------------


def test_images_are_a_sequence_of_uint8():
    test = ddpm.images("digits:test")
    assert len(test) == 297
    assert (test[0].dtype, test[0].shape) == (np.uint8, (1, 8, 8))
    assert (test.array()[5] == test[5]).all()
    assert (test[-1] == test[296]).all()
    assert len(ddpm.images("digits", split="train")) == 1500
    assert ddpm.images("digits:test", size="16x24", fit="resize").geometry.shape == (1, 16, 24)
    with pytest.raises(InputError, match="digits:train or digits:test"):
        ddpm.images("digits")
    with pytest.raises(InputError, match="fit"):
        ddpm.images("digits:test", size="16", fit="stretch")
    with pytest.raises(IndexError):
        test[297]
    assert sum(1 for _ in ddpm.images("digits:test[0:3]")) == 3, "a sequence ends when it is walked"


def test_inspect_reports_as_text_and_json():
    report = ddpm.inspect("digits")
    assert report.images == 1797
    assert json.loads(json.dumps(report.as_dict()))["splits"] == {"train": 1500, "test": 297}
    assert any("8x8" in line for line in report.lines())


def test_nearest_neighbours_are_the_nearest():
    training = ddpm.images("digits:train").array()
    pictures = training[[7, 3]].copy()
    pictures[0, 0, 0, 0] ^= 4
    distances, indices = ddpm.nearest_neighbours(pictures, training, count=3)
    assert distances.shape == indices.shape == (2, 3)
    assert indices[:, 0].tolist() == [7, 3]
    np.testing.assert_allclose(distances[:, 0], [4, 0], atol=0.1)  # scikit-learn forms squares in float32 and subtracts
    assert (np.diff(distances) >= 0).all()


def test_convert_refuses_what_is_no_diffusers_folder(tmp_path: Path, run: Path):
    for _ in range(2):
        with pytest.raises(InputError, match="nowhere"):
            ddpm.convert("nowhere", tmp_path / "ours")
    with pytest.raises(InputError, match="exists"):
        ddpm.convert("nowhere", run)
    assert list(tmp_path.iterdir()) == []
