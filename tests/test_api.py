"""The library as a user writes it: `import ddpm`, and what all verbs have in common."""

from __future__ import annotations

import inspect
import json
import pkgutil
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ddpm
from ddpm import api
from ddpm.base.progress import Progress
from ddpm.codec.codec_data import read_codec_data
from ddpm.data.sources import ImageSet
from ddpm.diffusion.denoiser import THRESHOLDS
from ddpm.errors import DamagedFile, DdpmError, InputError, PartialImageWarning, WrongModel
from ddpm.model.model import Model
from ddpm.networks.unet import UNet
from ddpm.samplers.plan import ETA, SAMPLERS, Sampling
from ddpm.samplers.spacing import SPACINGS
from scorings import drawn, stored_model

TINY: dict[str, Any] = {
    "batch_size": 16,
    "learning_rate": 1e-2,
    "network": {"channels": 8, "groups": 4, "multipliers": [1], "blocks": 1, "attention_levels": []},
    "process": {"steps": 12},
    "training": {"warmup_images": 0, "log_images": 16},
}
DIGITS: dict[str, Any] = {"data": "digits", "image": {"height": 8, "width": 8}, "process": {"steps": 12}}
EIGHT = range(8)
FEW = {"steps": 2}
VERBS = [name for name in api.__all__ if not inspect.isclass(getattr(api, name))]


class Heard(Progress):
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stages: dict[str, list[int]] = {}
        """By title: the total, then what was added."""

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    @contextmanager
    def stage(self, title: str, total: int, done: int = 0) -> Iterator[Any]:
        heard = self.stages.setdefault(title, [total - done])
        yield lambda more, note="": heard.append(more)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of digits with classes, trained for four steps."""
    network, training = TINY["network"] | {"classes": 10}, TINY["training"] | {"label_dropout": 0.2}
    recipe = ddpm.recipe("digits", **TINY | {"train_images": "0.064k", "network": network, "training": training})
    return ddpm.train(recipe, out=tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return ddpm.load(run)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model without classes, of digits, with its codec data."""
    model = stored_model(tmp_path_factory.mktemp("models") / "plain", **DIGITS)
    ddpm.tune_codec(model, "digits:train[0:64]", fit_steps=2)
    return model


@pytest.fixture(scope="module")
def untuned(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model without classes, of digits; nothing lies beside it."""
    return stored_model(tmp_path_factory.mktemp("models") / "untuned", **DIGITS)


# ---- the front door -------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_api_and_no_module_takes_one():
    assert set(dir(ddpm)) == {*ddpm.__all__, "__version__"} == {*api.__all__, "__version__"}
    assert sorted(api.__all__) == list(api.__all__)
    assert all(getattr(ddpm, name) is getattr(api, name) and getattr(ddpm, name).__doc__ for name in api.__all__)
    assert not {module.name for module in pkgutil.iter_modules(ddpm.__path__)} & {*api.__all__}
    given: dict[str, Any] = {}
    exec("from ddpm import *", given)
    assert given["train"] is api.train


def test_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="smaple"):
        _ = ddpm.smaple
    with pytest.raises(ImportError, match="smaple"):
        from ddpm import smaple  # noqa: F401


# ---- what all verbs have in common ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(plain: Model) -> tuple[ImageSet, bytes]:
    """Images that verbs take, and one of them compressed."""
    images = ddpm.images("digits:test[0:70]")
    return images, ddpm.compress(plain, images[0], verify=False)


Calls = dict[str, tuple[Callable[..., Any], dict[str, Any]]]


@pytest.fixture
def verbs(plain: Model, inputs: tuple[ImageSet, bytes], tmp_path: Path) -> Calls:
    """Every verb with arguments that it takes, and that cost little."""
    model, (images, data), folder = plain, inputs, tmp_path
    recipe = ddpm.recipe("digits", **TINY | {"train_images": 16})
    (folder / "a.dpc").write_bytes(data)
    Image.fromarray(images[0][0]).save(folder / "a.png")
    few = {"steps": 1, "batch_size": 70}
    pruned = folder / "pruned"
    for name in ("1", "2", "3", "4"):
        (pruned / "checkpoints" / name).mkdir(parents=True)
    copied = shutil.copytree(model.source, folder / "copied")
    table: dict[str, dict[str, Any]] = {
        "compress": {"model": model, "image": images[0], "most_bytes": 40, "verify": False},
        "compress_files": {"model": model, "paths": [folder / "a.png"], "out": folder / "files", "force": True},
        "convert": {"src": folder / "nowhere", "dst": folder / "new", "size": 8},
        "cost": {"recipe": recipe},
        "decompress": {"model": model, "data": data},
        "decompress_files": {"model": model, "paths": [folder / "a.dpc"], "out": folder / "back", "force": True},
        "evaluate_codec": {"model": model, "data": images, "limit": 1, "out": folder / "codec"},
        "evaluate_fid": {"samples": model, "data": images, "features": "pixels", "seeds": range(64), **few},
        "evaluate_likelihood": {"model": model, "data": images, "calls": 256, "out": folder / "kept"},
        "evaluate_memorisation": {"model": model, "data": images, "seeds": [3, 4], **few},
        "images": {"src": "digits:test[0:3]", "size": 8, "split": "train"},
        "inspect": {"src": "digits"},
        "load": {"path": model.source, "weights": "raw", "device": "cpu"},
        "nearest_neighbours": {"images": images.array([0]), "training": images.array(), "count": 2},
        "prune": {"run": pruned, "checkpoints": ["3"], "codec": True},
        "recipe": {"name": "digits"},
        "sample": {"model": model, "seeds": [0], **few},
        "save_grid": {"images": images.array(), "path": folder / "grid.png", "columns": 9},
        "save_samples": {"model": model, "seeds": [0, 1], "out": folder / "samples", **few},
        "show": {"path": model.source},
        "train": {"recipe": recipe, "out": folder / "run"},
        "tune_codec": {"model": model, "data": "digits:train[0:64]", "fit_steps": 1, "force": True},
        "tune_ema": {"run": copied, "data": images, "steps": 1, "samples": 64},
        "tune_linear": {"data": "digits:train[0:64]", "out": folder / "linear", "fit_steps": 1},
        "tune_timesteps": {"model": model, "data": images, "steps": [1], "trials": 5, "samples": 64},
        "tune_variance": {"model": model, "data": "digits:train[0:64]", "calls": 96},
    }
    return {name: (getattr(ddpm, name), arguments) for name, arguments in table.items()}


def called(verb: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call a verb; its positional-only arguments are taken out of the table."""
    only = [name for name, p in inspect.signature(verb).parameters.items() if p.kind is p.POSITIONAL_ONLY]
    return verb(*(arguments[name] for name in only), **{k: v for k, v in arguments.items() if k not in only})


def test_every_verb_is_tried_and_those_that_take_long_show_progress_unless_told_otherwise(verbs: Calls):
    assert sorted(verbs) == sorted(VERBS)
    shown = {name: inspect.signature(getattr(api, name)).parameters.get("progress") for name in VERBS}
    assert all(progress.default is True for progress in shown.values() if progress is not None)
    assert {name for name in VERBS if name.startswith(("tune", "evaluate"))} <= {k for k, p in shown.items() if p}


SAMPLING = {"sampler", "steps", "spacing", "variance", "eta", "threshold", "class_name", "guidance", "precision"}


@pytest.mark.parametrize("name", VERBS)
def test_arguments_of_another_type_are_refused_by_name(name: str, verbs: Calls):
    verb, arguments = verbs[name]
    parameters = inspect.signature(verb).parameters
    options = {key: str(p.annotation) for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    if any("SamplingOptions" in str(p.annotation) for p in parameters.values()):
        options |= {key: str(field) for key, field in Sampling.__annotations__.items()}
        assert options.keys() >= SAMPLING
    for key, annotation in options.items():
        wrong: list[Any] = [object(), {"a": 1}]
        if not any(word in annotation for word in ("str", "Path", "ArrayLike", "ImageData")):
            wrong += ["x", b"x"] if key != "data" else ["x"]
        if not any(word in annotation for word in ("int", "float")) and key != "data":
            wrong += [3]
        if "float" not in annotation:
            wrong += [1.5, float("nan")]
        if "bool" not in annotation:
            wrong += [True]
        if "None" not in annotation:
            wrong += [None]
        for value in wrong:
            with pytest.raises(InputError) as caught:
                called(verb, arguments | {key: value})
            sentence = str(caught.value)
            assert sentence.endswith("."), (key, value)
            assert "\n" not in sentence, (key, value)


def test_numbers_of_numpy_are_numbers_and_end_in_json(plain: Model):
    report = ddpm.evaluate_likelihood(
        plain, "digits:test", calls=np.int64(256), limit=np.int32(9), seed=np.int64(2), batch_size=np.uint8(64)
    )
    assert json.loads(json.dumps(report.table()))["about"]["seed"] == 2
    seeds = (np.arange(2), torch.arange(2), (seed for seed in range(2)), range(2))
    assert len({ddpm.sample(plain, seeds=some, steps=np.int8(2)).tobytes() for some in seeds}) == 1
    assert ddpm.sample(plain, seeds=[0], steps=2, sampler="ddim", eta=1).shape == (1, 1, 8, 8)


@pytest.mark.parametrize(("name", "key"), [("sample", "batch_size"), ("tune_codec", "fit_steps"),
                                           ("save_grid", "columns"), ("nearest_neighbours", "count")])  # fmt: skip
def test_whole_numbers_that_are_none_are_refused_by_name(name: str, key: str, verbs: Calls):
    for value in (0, -1):
        with pytest.raises(InputError, match=key):
            called(verbs[name][0], verbs[name][1] | {key: value})


def test_what_is_empty_is_refused_by_name(plain: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for call, named in (
        (lambda: ddpm.sample(plain, seeds=[]), "seeds"),
        (lambda: ddpm.evaluate_fid(plain, "digits:test", features="pixels", seeds=[]), "0 samples"),
        (lambda: ddpm.evaluate_fid(plain, "digits:test", features="pixels", keep=""), "keep"),
        (lambda: ddpm.evaluate_likelihood(plain, "digits:test", full=True, out=""), "out"),
        (lambda: ddpm.compress_files(plain, [], tmp_path), "files"),
        (lambda: ddpm.decompress_files(plain, [], tmp_path), "files"),
        (lambda: ddpm.load(""), "path"),
        (lambda: ddpm.images(""), "src"),
        (lambda: ddpm.tune_timesteps(plain, steps=[]), "steps"),
        (lambda: ddpm.tune_timesteps(plain, steps=[2], features=[]), "features"),
    ):
        with pytest.raises(InputError, match=named):
            call()
    assert list(tmp_path.iterdir()) == []


def test_model_and_recipe_are_what_load_and_recipe_return(run: Path):
    with pytest.raises(InputError, match=r"model .*ddpm\.load"):
        ddpm.sample(str(run), seeds=[0])
    with pytest.raises(InputError, match=r"recipe .*ddpm\.recipe"):
        ddpm.train("digits", out=run)
    with pytest.raises(TypeError, match="stesp"):  # as of any function
        ddpm.sample(ddpm.load(run), seeds=[0], stesp=3)


REPORTS = {"inspect": 1, "compress_files": 2, "decompress_files": 1, "evaluate_codec": 3, "evaluate_fid": 4,
           "evaluate_likelihood": 3, "evaluate_memorisation": 2, "tune_codec": 2, "tune_ema": 4, "tune_linear": 2,
           "tune_timesteps": 2, "tune_variance": 2, "prune": 2}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*are few for a Fréchet distance:UserWarning")
@pytest.mark.parametrize("name", [name for name in VERBS if name != "convert"])
def test_verbs_are_silent_report_in_stages_and_return_json_and_lines(
    name: str, verbs: Calls, capfd: pytest.CaptureFixture[str]
):
    """Where stderr is no terminal; a Progress of one's own hears stages that reach their ends."""
    verb, arguments = verbs[name]
    found = called(verb, arguments)
    assert capfd.readouterr() == ("", "")
    if "progress" in inspect.signature(verb).parameters and name != "compress":
        heard = Heard()
        again = {"out": arguments["out"].with_name("again")} if "out" in arguments else {}
        found = called(verb, arguments | again | {"progress": heard})
        assert heard.stages
        assert all(sum(more) == total for total, *more in heard.stages.values()), heard.stages
        if name not in ("sample", "save_samples", "train", "evaluate_codec"):
            again = {"out": arguments["out"].with_name("last")} if "out" in arguments else {}
            called(verb, arguments | again | {"progress": False})
        assert capfd.readouterr() == ("", "")
    if name in REPORTS:
        assert json.loads(json.dumps(found.table(), allow_nan=False))
        lines = found.lines()
        assert len(lines) >= REPORTS[name]
        assert all(isinstance(line, str) and "\n" not in line for line in lines)


def test_convert_takes_every_kind_of_progress(tmp_path: Path):
    for progress in (True, False, Heard()):
        with pytest.raises(InputError, match="nowhere"):
            ddpm.convert("nowhere", tmp_path / "new", progress=progress)


@pytest.mark.filterwarnings("ignore:.*are few for a Fréchet distance:UserWarning")
def test_images_are_a_source_an_array_or_an_imageset(plain: Model, tmp_path: Path):
    source = "digits:test[0:70]"
    images = ddpm.images(source)
    np.save(tmp_path / "them.npy", images.array())
    forms = (source, images, images.array())
    more = (torch.from_numpy(images.array()), tmp_path / "them.npy")
    fit = "digits:train[0:64]"
    numbers = {
        "likelihood": lambda data: ddpm.evaluate_likelihood(plain, data, calls=256).bound.total.value,
        "fid": lambda data: ddpm.evaluate_fid(fit, data, features="pixels").fid.value,
        "judged": lambda data: ddpm.evaluate_fid(data, fit, features="pixels").kid.value,
        "memorisation": lambda data: ddpm.evaluate_memorisation(plain, data, seeds=[0], **FEW).held_out_median,
        "training": lambda data: ddpm.evaluate_memorisation(plain, fit, seeds=[0], training_data=data, **FEW).median,
        "variance": lambda data: ddpm.tune_variance(plain, data, calls=96).found.measured.second_moment,
        "timesteps": lambda data: ddpm.tune_timesteps(plain, data, steps=[1], trials=5, samples=64).found[0].value,
    }
    for what, number in numbers.items():
        assert len({number(form) for form in (*forms, *(more if what == "likelihood" else ()))}) == 1, what


# ---- recipe, train, cost --------------------------------------------------------------------------------------------


def test_recipe_takes_nested_changes_and_leaves_the_rest():
    usual, changed = ddpm.recipe("digits"), ddpm.recipe("digits", train_images="300k", network={"channels": 32})
    assert changed.train_images == 300_000
    assert changed.network.channels == 32
    assert changed.network.multipliers == usual.network.multipliers
    assert changed.process == usual.process
    with pytest.raises(InputError, match=r"'network\.channels'"):
        ddpm.recipe("digits", network={"chanels": 32})
    with pytest.raises(ValueError, match="'digits'"):
        ddpm.recipe("digit")
    with pytest.raises(ValueError, match="frozen"):
        changed.seed = 3


def test_recipe_is_read_from_a_file(tmp_path: Path):
    (tmp_path / "mine.toml").write_text("train_images = 7\n[process]\nsteps = 5\n")
    recipe = ddpm.recipe(str(tmp_path / "mine.toml"), seed=3)
    assert (recipe.train_images, recipe.process.steps, recipe.seed) == (7, 5, 3)
    assert ddpm.recipe(tmp_path / "mine.toml", seed=3) == recipe


def test_same_call_again_is_complete_and_a_larger_one_resumes(tmp_path: Path):
    def train(images: int) -> Heard:
        heard = Heard()
        recipe = ddpm.recipe("digits", **TINY | {"train_images": images})
        assert ddpm.train(recipe, out=tmp_path / "run", progress=heard) == tmp_path / "run"
        return heard

    assert train(32).stages == {"Training": [32, 16, 16]}
    files = {path: path.read_bytes() for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()}
    again = train(32)
    assert again.stages == {"Training": [0]}
    assert any("32" in sentence for sentence in again.said)
    assert all(path.read_bytes() == data for path, data in files.items())
    assert train(48).stages == {"Training": [16, 16]}
    assert ddpm.load(tmp_path / "run").images_seen == 48
    with pytest.raises(InputError, match="seed"):
        ddpm.train(ddpm.recipe("digits", **TINY | {"train_images": 48, "seed": 1}), out=tmp_path / "run")


@pytest.mark.parametrize("channels", [2, 4])
def test_train_takes_geometry_and_classes_from_the_data(channels: int, tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 16, channels), np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=[0, 1, 2, 0, 1, 2])
    recipe = ddpm.recipe("small", **TINY | {"train_images": 16})
    model = ddpm.load(ddpm.train(recipe, data=tmp_path / "mine.npz", out=tmp_path / "run"))
    assert model.geometry.shape == (channels, 8, 16)
    assert model.class_names == ("0", "1", "2")
    assert model.recipe.data == str(tmp_path / "mine.npz")
    assert ddpm.sample(model, seeds=[0, 1], class_name="2", **FEW).shape == (2, channels, 8, 16)
    with pytest.raises(InputError, match="data"):
        ddpm.train(recipe, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()
    without = ddpm.recipe("small", data=str(tmp_path / "mine.npz"), network={"classes": 0})
    assert ddpm.cost(without)[0].network.classes == 0


def test_cost_fills_the_recipe_in_and_grows_with_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddpm.training.cost.PROBE_SECONDS", 0.01)
    resolved, cost = ddpm.cost(ddpm.recipe("digits", batch_size=32))
    assert resolved.geometry.shape == (1, 8, 8)
    assert cost.seconds == pytest.approx(resolved.train_images / cost.images_per_second)
    wide = ddpm.cost(ddpm.recipe("digits", network={"channels": 48}, batch_size=64))[1]
    assert 3 < wide.parameters / cost.parameters < 4.5
    assert 2 < wide.macs / cost.macs < 4.5
    assert wide.memory > 2 * cost.memory
    shape = {"channels": 3, "height": 16, "width": 24}
    small = ddpm.recipe("small", image=shape, network={"channels": 16, "groups": 8})
    assert ddpm.cost(small)[0].network.classes == 0
    with pytest.raises(InputError, match="--data"):
        ddpm.cost(ddpm.recipe("small"))


# ---- load, show -----------------------------------------------------------------------------------------------------


def test_load_takes_a_run_or_a_checkpoint_as_string_or_path(run: Path):
    model = ddpm.load(str(run))
    assert (model.images_seen, model.weights) == (64, "ema")
    assert model.recipe.process.steps == 12
    newest = run / "checkpoints" / "0000000064"
    raw = ddpm.load(newest, weights="raw", device="cpu")
    assert (raw.weights, raw.device) == ("raw", torch.device("cpu"))
    assert any((a != b).any() for a, b in zip(model.network.parameters(), raw.network.parameters(), strict=True))
    assert not any(weight.requires_grad for weight in raw.network.parameters())
    for wrong in ({"weights": "best"}, {"weights": "averaged"}, {"device": "abacus"}):
        with pytest.raises(InputError, match=next(iter(wrong.values()))):
            ddpm.load(run, **wrong)
    with pytest.raises(InputError, match="nowhere"):
        ddpm.load("nowhere")


def test_load_refuses_a_damaged_checkpoint(run: Path, tmp_path: Path):
    for file in (run / "checkpoints" / "0000000064").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        ddpm.load(tmp_path)


def test_show_is_plain_values(run: Path, tmp_path: Path):
    assert json.loads(json.dumps(ddpm.show(run)))["images_seen"] == 64
    (tmp_path / "a.txt").write_text("no model")
    for path in (tmp_path, tmp_path / "a.txt", tmp_path / "nowhere"):
        with pytest.raises(InputError, match=str(path)):
            ddpm.show(path)


# ---- sample, save_grid ----------------------------------------------------------------------------------------------


def test_sample_draws_an_image_a_seed_the_same_in_any_batch(model: Model):
    images = ddpm.sample(model, seeds=range(4))
    assert (type(images), images.dtype, images.shape) == (np.ndarray, np.uint8, (4, 1, 8, 8))
    assert images.flags.writeable
    alone = np.concatenate([ddpm.sample(model, seeds=[seed]) for seed in range(4)])
    apart = np.abs(images.astype(int) - alone)
    assert apart.max() <= 1, "the tolerance of the design: one grey level in 0.5 % of the pixels"
    assert (apart > 0).mean() <= 0.005
    heard = Heard()
    ddpm.sample(model, seeds=range(3), steps=5, batch_size=2, progress=heard)
    assert heard.stages == {"Sampling": [15, *[2] * 5, *[1] * 5]}


def test_sample_takes_every_choice_of_sampling_by_its_name(model: Model):
    """Each gives what the same Sampling gives, and not what is drawn without it."""
    few = {"steps": 4}
    choices: list[dict[str, Any]] = [
        few,
        *(few | {"spacing": spacing} for spacing in SPACINGS if spacing != "uniform"),
        *({"sampler": sampler} for sampler in SAMPLERS if sampler != "ancestral"),
        *(few | {"sampler": sampler, "eta": 0.7} for sampler in ETA),
        *(few | {"threshold": threshold} for threshold in THRESHOLDS if threshold != "static"),
        few | {"variance": "small"},
        few | {"class_name": "7"},
        few | {"class_name": "7", "guidance": 2.0},
    ]
    seen = {ddpm.sample(model, seeds=EIGHT).tobytes()}
    for chosen in choices:
        found = ddpm.sample(model, seeds=EIGHT, **chosen)
        assert (found == drawn(model, EIGHT, Sampling(**chosen)).numpy()).all(), chosen
        seen.add(found.tobytes())
    assert len(seen) == 1 + len(choices)
    usual = ddpm.sample(model, seeds=EIGHT, **few)
    for same in ({"sampler": "dpm++sde"}, {"eta": 1.0}, {"spacing": "uniform"}, {"threshold": "static"}):
        assert (ddpm.sample(model, seeds=EIGHT, **few | same) == usual).all(), same
    ancestral = ddpm.sample(model, seeds=EIGHT, **few, sampler="ancestral")
    assert (ddpm.sample(model, seeds=EIGHT, **few, variance="large") == ancestral).all()
    assert (ddpm.sample(model, seeds=EIGHT, steps=12, sampler="ancestral") == ddpm.sample(model, seeds=EIGHT)).all()


def test_seeds_draw_a_class_each_and_guidance_exaggerates_it_at_twice_the_calls(model: Model):
    ten = [ddpm.sample(model, seeds=EIGHT, class_name=str(k), **FEW) for k in range(10)]
    mixed = ddpm.sample(model, seeds=EIGHT, **FEW)
    which = [[k for k in range(10) if (mixed[row] == ten[k][row]).all()] for row in EIGHT]
    assert all(which), "each seed draws one of the classes"
    assert len({found[0] for found in which}) > 2, "and not all the same"
    nought = [ddpm.sample(model, seeds=EIGHT, **FEW, class_name=name, guidance=0.0) for name in ("3", "5")]
    assert (nought[0] == nought[1]).all(), "without weight the class is nothing"
    assert (ten[3] == ddpm.sample(model, seeds=EIGHT, **FEW, class_name="3", guidance=1.0)).all()


def test_learned_variances_draw_on_the_levels_that_they_can(tmp_path: Path):
    """The ancestral sampler's; others have no variance, so that few steps alone suit any model."""
    for variance, loss in (("learned", "bound"), ("range", "hybrid")):
        process = DIGITS["process"] | {"variance": variance}
        model = stored_model(tmp_path / variance, **DIGITS | {"process": process}, objective={"loss": loss})
        usual = ddpm.sample(model, seeds=EIGHT)
        assert (ddpm.sample(model, seeds=EIGHT, variance=variance) == usual).all()
        assert (ddpm.sample(model, seeds=EIGHT, variance="large") != usual).any()
        assert ddpm.sample(model, seeds=[0], steps=3).shape == (1, 1, 8, 8)
        assert ddpm.sample(model, seeds=[0], steps=3, variance="small").shape == (1, 1, 8, 8)
        if variance == "range":
            assert ddpm.sample(model, seeds=[0], steps=3, sampler="ancestral").shape == (1, 1, 8, 8)
            continue
        for few in ({"steps": 3}, {"steps": 12, "spacing": "karras"}):
            with pytest.raises(InputError, match="--variance"):
                ddpm.sample(model, seeds=EIGHT, sampler="ancestral", **few)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"steps": 0}, "steps"),
    ({"steps": 13}, "1 to 12"),
    ({"steps": 13, "spacing": "karras"}, "1 to 12"),
    ({"sampler": "dpm+"}, r"'dpm\+\+'"),
    ({"steps": 4, "spacing": "karas"}, "'karras'"),
    ({"spacing": "karras"}, "steps"),
    ({"threshold": "dinamic"}, "'dynamic'"),
    ({"variance": "smal"}, "'small'"),
    ({"variance": "small", "sampler": "heun"}, "variance"),
    ({"variance": "range"}, "range"),
    ({"variance": "optimal"}, "`ddpm tune variance"),
    ({"variance": "optimal", "steps": 3}, "`ddpm tune variance"),
    ({"eta": 0.5}, "eta"),
    ({"eta": 0.5, "steps": 4, "sampler": "heun"}, "eta"),
    ({"eta": 1.5, "sampler": "ddim"}, "0 to 1"),
    ({"eta": -0.1, "steps": 4}, "0 to 2"),
    ({"eta": float("nan"), "steps": 4}, "0 to 2"),
    ({"spacing": "tuned"}, "steps"),
    ({"spacing": "tuned", "steps": 4}, r"`ddpm tune timesteps .*--sampler dpm\+\+sde --steps 4"),
    ({"guidance": 2.0}, "label_dropout"),
    ({"guidance": float("nan")}, "guidance"),
    ({"class_name": "3"}, "class"),
    ({"seeds": []}, "seeds"),
]


@pytest.mark.parametrize(("how", "named"), REFUSED, ids=[str(how) for how, _ in REFUSED])
def test_what_cannot_be_drawn_is_refused_before_the_network_is_asked(
    how: dict[str, Any], named: str, untuned: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(UNet, "forward", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(InputError, match=named):
        ddpm.sample(untuned, **{"seeds": [0], **how})
    with pytest.raises(InputError, match=named):
        ddpm.save_samples(untuned, tmp_path / "a.npz", **{"seeds": [0], **how})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [{"class_name": "10"}, {"class_name": "roses"}, {"guidance": float("inf")}], ids=str)
def test_what_a_model_of_classes_cannot_draw_is_refused(how: dict[str, Any], model: Model):
    with pytest.raises(InputError, match=how.get("class_name", "guidance")):
        ddpm.sample(model, seeds=[0], **how)


def test_sampling_does_not_touch_the_global_random_state(model: Model):
    torch.manual_seed(3)
    np.random.seed(3)
    first = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    ddpm.sample(model, seeds=range(2))
    assert (torch.rand(1), np.random.rand()) == first


def test_save_grid_writes_a_png_below_any_folder(model: Model, tmp_path: Path):
    images = ddpm.sample(model, seeds=range(3), **FEW)
    for path in (tmp_path / "new" / "grid.png", str(tmp_path / "grid.png")):
        ddpm.save_grid(images, path)
        image = Image.open(path)
        assert (image.format, image.mode) == ("PNG", "L")
    with pytest.raises(InputError, match=r"\.png"):
        ddpm.save_grid(images, tmp_path / "grid.webm")
    with pytest.raises(InputError):
        ddpm.save_grid(images[:0], tmp_path / "none.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png", "new"]


# ---- images, inspect, nearest_neighbours, convert -------------------------------------------------------------------


def test_images_are_a_sequence_of_uint8():
    test = ddpm.images("digits:test")
    assert len(test) == 297
    assert (test[0].dtype, test[0].shape) == (np.uint8, (1, 8, 8))
    assert (test.array()[5] == test[5]).all()
    assert (test[-1] == test[296]).all()
    assert len(ddpm.images("digits", split="train")) == 1500
    assert ddpm.images("digits:test", size="16x24", fit="resize").geometry.shape == (1, 16, 24)
    for wrong in ({"src": "digits"}, {"fit": "stretch"}, {"size": "0"}, {"src": "digits", "split": "val"}):
        with pytest.raises(InputError, match=list(wrong.values())[-1]):
            ddpm.images(**{"src": "digits:test", "size": "16"} | wrong)
    with pytest.raises(IndexError):
        test[297]
    assert sum(1 for _ in ddpm.images("digits:test[0:3]")) == 3, "a sequence ends when it is walked"


def test_inspect_counts_every_split():
    report = ddpm.inspect("digits")
    assert report.images == 1797
    assert report.table()["splits"] == {"train": 1500, "test": 297}
    assert any("8x8" in line for line in report.lines())


def test_nearest_neighbours_are_the_nearest():
    training = ddpm.images("digits:train").array()
    images = training[[7, 3]].copy()
    images[0, 0, 0, 0] ^= 4
    distances, indices = ddpm.nearest_neighbours(images, training, count=3)
    assert distances.shape == indices.shape == (2, 3)
    assert indices[:, 0].tolist() == [7, 3]
    np.testing.assert_allclose(distances[:, 0], [4, 0], atol=0.1)  # scikit-learn forms squares in float32 and subtracts
    assert (np.diff(distances) >= 0).all()


def test_convert_refuses_what_is_no_diffusers_folder(tmp_path: Path, run: Path):
    for src, dst in (("nowhere", tmp_path / "new"), ("nowhere", run)):
        with pytest.raises(DdpmError, match="nowhere" if dst.name == "new" else "digits"):
            ddpm.convert(src, dst)
    assert list(tmp_path.iterdir()) == []


# ---- compress, decompress -------------------------------------------------------------------------------------------


def test_bytes_are_the_image(plain: Model):
    image = ddpm.images("digits:test")[0]
    data = ddpm.compress(plain, image)
    assert isinstance(data, bytes)
    for form in (data, bytearray(data), memoryview(data)):
        back = ddpm.decompress(plain, form)
        assert (back.dtype, back.flags.writeable) == (np.uint8, True)
        assert (back == image).all()
    assert ddpm.compress(plain, torch.from_numpy(image)) == data
    small = ddpm.compress(plain, image, most_bytes=25)
    assert len(small) <= 25
    for reconstruct in ("mean", "flow"):
        assert ddpm.decompress(plain, small, reconstruct=reconstruct).shape == (1, 8, 8)
    assert len(ddpm.compress(plain, image, rate=3.0)) <= 3 * 64 / 8
    for wrong in ({"most_bytes": -5}, {"most_bytes": 0}, {"rate": 0.0}, {"rate": float("inf")},
                  {"rate": 3.0, "most_bytes": 25}):  # fmt: skip
        with pytest.raises(InputError):
            ddpm.compress(plain, image, **wrong)
    for other in (image[0], image[None], image.astype(float), np.zeros((3, 8, 8), np.uint8), image[:, :0], "a.png"):
        with pytest.raises(InputError):
            ddpm.compress(plain, other)
    with pytest.raises(InputError, match="median"):
        ddpm.decompress(plain, data, reconstruct="median")


def test_cut_bytes_warn_and_damaged_ones_carry_the_coarse_image(plain: Model, recwarn: pytest.WarningsRecorder):
    noise = np.random.default_rng(0).integers(100, 140, (1, 8, 8), dtype=np.uint8)
    data = ddpm.compress(plain, noise, most_bytes=10**4)
    assert ddpm.decompress(plain, data, most_bytes=len(data) - 4).shape == (1, 8, 8)
    assert len(recwarn) == 0, "less was asked for"
    with pytest.warns(PartialImageWarning):
        assert ddpm.decompress(plain, data[:-4]).shape == (1, 8, 8)
    place = len(data) - 5
    with pytest.raises(DamagedFile) as caught:
        ddpm.decompress(plain, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    assert caught.value.image.shape == (1, 8, 8)


def test_first_compress_makes_the_codec_data_and_decompress_never_does(
    plain: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = api.tune_codec  # as it is, but with few steps
    monkeypatch.setattr(api, "tune_codec", lambda *args, **how: made(*args, **how, fit_steps=2))
    other = stored_model(tmp_path / "other", seed=1, **DIGITS)
    image, heard = ddpm.images("digits:test")[0], Heard()
    data = ddpm.compress(plain, image)
    for _ in range(2):
        with pytest.raises(WrongModel, match=r"codec-averaged\.json"):
            ddpm.decompress(other, data)
    (tmp_path / "a.dpc").write_bytes(data)
    (row,) = ddpm.decompress_files(other, [tmp_path / "a.dpc"], tmp_path).files
    assert (row.status, row.exit_code, row.out) == ("refused", WrongModel.exit_code, None)
    with pytest.raises(InputError, match="bytes"):
        ddpm.compress(other, image, most_bytes=0)
    assert read_codec_data(other) is None
    first = ddpm.compress(other, image, progress=heard)
    assert {"Network calls", "Pixel model"} <= heard.stages.keys()
    assert (ddpm.decompress(other, first) == image).all()
    heard = Heard()
    assert ddpm.compress(other, image, progress=heard) == first
    assert "Pixel model" not in heard.stages
    both = [read_codec_data(one).own_sha256[:8] for one in (plain, other)]
    with pytest.raises(WrongModel) as caught:
        ddpm.decompress(other, data)
    assert all(fingerprint in str(caught.value) for fingerprint in both)


def test_first_compress_takes_what_another_process_made_meanwhile_and_else_says_why_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    image, made = ddpm.images("digits:test")[0], api.tune_codec
    with pytest.raises(InputError, match="nowhere"):
        ddpm.compress(stored_model(tmp_path / "moved", **DIGITS | {"data": "nowhere"}), image)
    model = stored_model(tmp_path / "model", **DIGITS)

    def overtaken(model: Model, **how: Any) -> Any:
        made(model, "digits:train[0:64]", fit_steps=2)
        return made(model, **how)

    monkeypatch.setattr(api, "tune_codec", overtaken)
    assert (ddpm.decompress(model, ddpm.compress(model, image)) == image).all()


def test_of_two_that_make_the_codec_data_at_once_one_is_refused(tmp_path: Path):
    model, ends = stored_model(tmp_path / "model", **DIGITS), []

    def make(seed: int) -> None:
        try:
            ends.append(ddpm.tune_codec(model, "digits:train[0:64]", seed=seed, fit_steps=2).made.seed)
        except InputError:
            ends.append(None)

    both = [threading.Thread(target=make, args=(seed,)) for seed in (1, 2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    (kept,) = (seed for seed in ends if seed is not None)
    assert len(ends) == 2
    assert read_codec_data(model).seed == kept
