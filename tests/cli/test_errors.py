"""What a user can fix is one sentence and exit 2, a damaged file exit 4; nothing is left half-written by either."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commandline import TINY, Done, done, sentence, snapshot, type_in
from PIL import Image

from ddpm.diffusion.denoiser import LEARNED, REVERSE_VARIANCES
from ddpm.diffusion.objectives import LEVEL_SAMPLING, LOSSES
from ddpm.diffusion.process import PREDICTIONS
from ddpm.diffusion.schedule import VARIANCES
from ddpm.evaluation import METRICS
from ddpm.model.checkpoint import WEIGHTS
from ddpm.model.recipe import recipe_names
from ddpm.samplers import SAMPLERS


def refused(here: Path, *words: str | Path, code: int = 2) -> str:
    """The sentence of a command that must fail, and must leave the current folder as it was."""
    before = snapshot(here)
    end = type_in(*words)
    left = snapshot(here)
    said = sentence(end, code)
    assert left == before, f"left behind by {end.words}"
    return said


def noise(name: str, size: tuple[int, int] = (16, 24), channels: int = 3, seed: int = 0) -> None:
    """A PNG of uniform random levels."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (*size, channels), np.uint8)
    Image.fromarray(levels[..., 0] if channels == 1 else levels).save(name)


# ---- data -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bad(here: Path) -> Path:
    """A folder of folders, each with one thing wrong."""
    for name in ("zero", "cut", "text", "gone", "good", "mixed", "odd"):
        for k in range(3):
            noise(f"bad/{name}/{k}.png", size=(20, 24) if name == "odd" else (16, 24), seed=k)
    Path("bad/empty").mkdir()
    Path("bad/notes").mkdir()
    Path("bad/notes/read.me").write_text("no image")
    Path("bad/zero/it.png").touch()
    Path("bad/cut/it.png").write_bytes(Path("bad/good/0.png").read_bytes()[:300])
    Path("bad/text/it.jpg").write_text("not a picture")
    Path("bad/gone/it.png").symlink_to("nowhere.png")
    noise("bad/mixed/it.png", size=(40, 60))
    Path("bad/file.txt").write_text("no source")
    Path("bad/short.npz").write_bytes(b"PK\x03\x04 and no more")
    Path("bad/short.zip").write_bytes(b"PK\x03\x04 and no more")
    np.save("bad/float.npy", np.zeros((3, 8, 8), np.float32))
    return here


SOURCES = {
    "missing": ["missing"],
    "empty": ["empty"],
    "notes": ["notes", "no images"],
    "zero": ["it.png", "zero bytes"],
    "cut": ["it.png", "truncated"],
    "text": ["it.jpg"],
    "gone": ["it.png"],
    "mixed": ["16x24", "40x60", "--size"],
    "odd": ["20x24", "--size 16x24"],
    "good:train": ["no splits"],
    "good[7:]": ["[7:]", "3 images"],
    "file.txt": ["file.txt"],
    "short.npz": ["short.npz"],
    "short.zip": ["short.zip"],
    "float.npy": ["float32", "uint8"],
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("dry", [False, True])
def test_source_that_cannot_be_trained_on_is_named(name: str, dry: bool, bad: Path):
    words = ("train", "small", "--data", f"bad/{name}", *TINY, *(["--dry-run"] if dry else ["--out", "run"]))
    said = refused(bad, *words)
    for fragment in SOURCES[name]:
        assert fragment in said


@pytest.mark.parametrize("name", ["missing", "empty", "notes", "good:train", "good[7:]", "file.txt", "short.zip", ""])
def test_source_that_cannot_be_looked_into_is_named(name: str, bad: Path):
    refused(bad, "data", f"bad/{name}" if name else "")


def test_suggested_sizes_fit(bad: Path):
    for name in ("mixed", "odd"):
        said = refused(bad, "train", "small", "--data", f"bad/{name}", "--out", "run", *TINY)
        size = said.split("--size ")[1].split()[0].rstrip(",.;")
        done("train", "small", "--data", f"bad/{name}", "--size", size, *TINY, "--dry-run")


def test_data_without_a_name_is_asked_for(here: Path):
    for words in (("cifar10",), ("small", "--size", "16")):
        assert "--data" in refused(here, "train", *words, "--out", "run")


@pytest.mark.parametrize("data", ["other size", "colour", "other split"])
def test_data_that_does_not_fit_a_recipe_with_a_geometry_is_refused(data: str, here: Path):
    noise("big/0.png", size=(16, 16), channels=1)
    noise("colour/0.png", size=(8, 8))
    src = {"other size": "big", "colour": "colour", "other split": "digits:val"}[data]
    refused(here, "train", "digits", "--data", src, "--out", "run", *TINY)


# ---- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_unknown_recipe_offers_the_nearest_name(name: str, here: Path):
    said = refused(here, "train", f"{name}x", "--dry-run")
    assert f"did you mean '{name}'" in said


@pytest.mark.parametrize("name", ["", "zzzz", "nowhere.toml", "folder.toml", "latin.toml", "broken.toml", "key.toml"])
def test_recipe_that_cannot_be_read_is_named(name: str, here: Path):
    Path("folder.toml").mkdir()
    Path("latin.toml").write_bytes('data = "é"\n'.encode("latin-1"))
    Path("broken.toml").write_text("data = = 3\n")
    Path("key.toml").write_text("[network]\nchanels = 3\n")
    said = refused(here, "train", name, "--dry-run")
    assert f"'{name}'" in said
    assert name != "key.toml" or "did you mean 'network.channels'" in said


KEYS = {
    "train_image=3": "train_images",
    "learning_rat=3": "learning_rate",
    "netwrk.channels=3": "network",
    "network.chanels=3": "channels",
    "process.step=3": "steps",
    "training.warmup=3": "warmup_images",
    "objective.predictions=eps": "prediction",
    "image.heigth=3": "height",
}


@pytest.mark.parametrize("setting", KEYS)
def test_unknown_key_offers_the_nearest_one(setting: str, here: Path):
    said = refused(here, "train", "digits", "--set", setting, "--out", "run")
    assert f"'{setting.split('=')[0]}'" in said or f"'{setting.split('.')[0]}'" in said
    assert re.search(rf"did you mean '(\w+\.)?{KEYS[setting]}'", said)


VALUES = {
    "network.channels=wide": "network.channels",
    "network.channels=0": "network.channels",
    "network.channels=1.5": "network.channels",
    "network.multipliers=2": "network.multipliers",
    "network.multipliers=[]": "network.multipliers",
    "network.multipliers=[1, 2": "network.multipliers",
    "network.attention_levels=[7]": "network.attention_levels",
    "network.groups=5": "network.groups",
    "network.classes=7": "network.classes",
    "network.dropout=1": "network.dropout",
    "network=3": "network",
    "train_images=0": "train_images",
    "train_images=-3k": "train_images",
    "train_images=many": "train_images",
    "train_images=nan": "train_images",
    "learning_rate=0": "learning_rate",
    "learning_rate=nan": "learning_rate",
    "learning_rate=inf": "learning_rate",
    "learning_rate=fast": "learning_rate",
    "batch_size=true": "batch_size",
    "seed=one": "seed",
    "seed=99999999999999999999": "seed",
    "precision=float16": "precision",
    "on_bad_image=ignore": "on_bad_image",
    "fit=stretch": "fit",
    "device=abacus": "abacus",
    "process.schedule=sine": "process.schedule",
    "process.variance=medium": "process.variance",
    "process.beta_end=1e-9": "process.beta_end",
    "process.beta_end=0.999": "beta_end",
    "objective.prediction=epsilon": "objective.prediction",
    "training.flip=maybe": "training.flip",
    "training.clip_norm=-1": "training.clip_norm",
    "training.average_decay=1": "training.average_decay",
}


@pytest.mark.parametrize("setting", VALUES)
def test_value_that_does_not_fit_names_its_key(setting: str, here: Path):
    more = ("--set", "process.steps=1000") if setting == "process.beta_end=0.999" else ()
    said = refused(here, "train", "digits", "--out", "run", *TINY, *more, "--set", setting)
    assert VALUES[setting] in said
    for word in ("NetworkTable", "dictionary", "tuple"):
        assert word not in said, "words of Python, not of the user"


LISTS = {
    "objective.prediction": PREDICTIONS,
    "objective.loss": tuple(LOSSES),
    "objective.levels": LEVEL_SAMPLING,
    "process.variance": (*VARIANCES, *LEARNED),
}


@pytest.mark.parametrize("key", LISTS)
def test_value_outside_a_list_is_answered_with_the_list(key: str, here: Path):
    said = refused(here, "train", "digits", "--out", "run", "--set", f"{key}=noise")
    for choice in LISTS[key]:
        assert f"'{choice}'" in said


UNFIT = {
    "process.variance=learned": "objective.loss",
    "process.variance=range": "objective.loss",
    "objective.loss=hybrid": "process.variance",
}


@pytest.mark.parametrize("setting", UNFIT)
def test_learned_variance_and_the_loss_that_teaches_it_need_each_other(setting: str, here: Path):
    said = refused(here, "train", "digits", "--out", "run", *TINY, "--set", setting)
    assert UNFIT[setting] in said
    assert setting.split("=")[0] in said


@pytest.mark.parametrize("source", ["nowhere", "digits:val", "digits", "colour"])
def test_validation_images_that_do_not_fit_are_refused_before_a_step_is_taken(source: str, here: Path):
    noise("colour/0.png", size=(8, 8))
    said = refused(here, "train", "digits", "--out", "run", *TINY, "--set", f"validation={source}")
    assert source.rpartition(":")[2] in said


@pytest.mark.parametrize("setting", ["network.channels", "", "=3", ".=3", "network.=3", "seed.x=3 seed=3"])
def test_set_that_is_not_key_value_says_how_it_is_written(setting: str, here: Path):
    words = [word for part in setting.split(" ")[::-1] for word in ("--set", part)]
    refused(here, "train", "digits", "--out", "run", *words)


@pytest.mark.parametrize("size", ["abc", "", "0", "-8", "16x", "x16", "16x24x32", "1e2", "16.0", "0x16", "999999"])
def test_size_that_makes_no_sense_says_how_it_is_written(size: str, here: Path, photos: Path):
    assert "HxW" in refused(here, "train", "small", "--data", photos, "--size", size, "--out", "run", *TINY)


def test_size_that_the_network_cannot_divide_is_answered_with_one_that_fits(here: Path, photos: Path):
    said = refused(here, "train", "small", "--data", photos, "--size", "17x25", "--out", "run", *TINY)
    assert "--size 16x24" in said


# ---- run folders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["seed=3", "network.channels=12", "train_images=16", "objective.prediction=v"])
def test_folder_of_another_recipe_is_kept_and_the_key_named(key: str, digits_run: Path):
    before = snapshot(digits_run)
    said = refused(digits_run, "train", "digits", "--out", digits_run, *TINY, "--set", key)
    assert f"{key.split('=')[0]} = " in said
    assert snapshot(digits_run) == before


def test_folder_of_other_data_is_kept(digits_run: Path, here: Path):
    said = refused(digits_run, "train", "digits", "--data", "digits:test", "--out", digits_run, *TINY)
    assert "data = digits" in said
    for k in range(3):
        noise(f"mine/{k}.png", seed=k)
    done("train", "small", "--data", "mine", "--out", "run", *TINY, "--set", "train_images=16")
    noise("mine/4.png", seed=4)
    words = ("train", "small", "--data", "mine", "--out", "run", *TINY, "--set", "train_images=32")
    assert "'mine' changed" in refused(here, *words)


@pytest.mark.parametrize("out", ["full", "file", "file/below", "mine.png"])
def test_run_folder_that_is_something_else_is_kept(out: str, here: Path):
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("mine")
    Path("file").write_text("mine")
    Path("mine.png").write_text("mine")
    assert out.split("/")[0] in refused(here, "train", "digits", "--out", out, *TINY)


COMMANDS = {
    "sample": ("--seeds", "0", "--steps", "1", "--out", "a.png"),
    "show": (),
    "evaluate": ("--data", "digits:test", "--metric", "neighbours", "--samples", "1", "--steps", "1"),
    "tune": ("--variance",),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("path", ["nowhere", "empty", "file", "pictures", ""])
def test_path_that_is_no_run_is_named(command: str, path: str, here: Path):
    Path("empty").mkdir()
    Path("file").touch()
    noise("pictures/0.png")
    assert f"'{path or '.'}'" in refused(here, command, path, *COMMANDS[command])


def test_run_that_was_never_saved_is_said_to_have_no_checkpoint(here: Path, digits_run: Path):
    Path("young").mkdir()
    shutil.copy(digits_run / "recipe.json", "young")
    for command, words in COMMANDS.items():
        assert "no checkpoint" in refused(here, command, "young", *words)


def use(command: str, run: Path | str) -> Done:
    """Run any command that reads the checkpoints of a run of digits."""
    if command == "train":
        return type_in("train", "digits", "--out", run, *TINY, "--set", "train_images=80")
    return type_in(command, run, *COMMANDS[command])


@pytest.fixture
def copy(digits_run: Path, here: Path) -> Path:
    """A run to damage; returns its newest checkpoint."""
    shutil.copytree(digits_run, "run")
    return Path("run/checkpoints/0000000064")


def edit(checkpoint: Path, key: str, value: object) -> None:
    """Change a dotted key of config.json."""
    table = json.loads((checkpoint / "config.json").read_text())
    *above, last = key.split(".")
    below = table
    for name in above:
        below = below[name]
    below[last] = value
    (checkpoint / "config.json").write_text(json.dumps(table, indent=2) + "\n")


@pytest.mark.parametrize("command", [*COMMANDS, "train"])
def test_newer_format_version_is_exit_2(command: str, copy: Path):
    edit(copy, "format_version", 2)
    said = sentence(use(command, "run"))
    assert "config.json" in said
    assert "version 2" in said
    assert "newer" in said


@pytest.mark.parametrize("version", [0, -1, "x", None])
def test_format_version_that_never_was_is_not_called_newer(version: object, copy: Path):
    edit(copy, "format_version", version)
    end = use("show", "run")
    assert end.code in (2, 4)
    assert "newer" not in sentence(end, end.code)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "training.pt"])
def test_continuing_a_run_that_is_refused_leaves_the_run_as_it_was(file: str, copy: Path):
    (copy / file).write_bytes(b"")
    before = snapshot(Path("run"))
    assert use("train", "run").code == 4
    assert snapshot(Path("run")) == before


@pytest.mark.parametrize("command", [*COMMANDS, "train"])
def test_configuration_that_is_not_ours_is_exit_2(command: str, copy: Path):
    (copy / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    assert "ddpm convert" in sentence(use(command, "run"))


def flipped(data: bytes, position: int) -> bytes:
    """The same bytes with the lowest bit of one turned over."""
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


DAMAGE = {
    "cut short": lambda data: data[: len(data) // 2],
    "a flipped bit": lambda data: flipped(data, len(data) // 3),
    "emptied": lambda data: b"",
}
READS = [
    *((command, "config.json") for command in (*COMMANDS, "train")),
    *((command, "model.safetensors") for command in ("sample", "evaluate", "tune", "train")),
    ("train", "training.pt"),
]


@pytest.mark.parametrize(("command", "file"), READS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_exit_4_and_names_the_file(command: str, file: str, damage: str, copy: Path):
    path = copy / file
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert f"'{path}'" in sentence(use(command, "run"), 4)
    assert not Path("a.png").exists()
    assert snapshot(copy).keys() == {"config.json", "model.safetensors", "training.pt"}


def test_missing_weights_are_exit_4(copy: Path):
    (copy / "model.safetensors").unlink()
    assert "model.safetensors" in sentence(use("sample", "run"), 4)


CONFIG = {
    "images_seen": ["many", [64], -1],
    "class_names": [3, [3]],
    "sha256": [3, {}],
    "data_fingerprint": [3],
    "recipe": [None, [], {"chanels": 3}],
    "recipe.network.channels": [16, "wide"],
    "recipe.network.groups": [5],
    "recipe.process.beta_end": [0.03],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in CONFIG.items() for value in values])
def test_configuration_that_was_altered_is_exit_4(key: str, value: object, copy: Path):
    edit(copy, key, value)
    for command in ("sample", "show"):
        assert "config.json" in sentence(use(command, "run"), 4)


def test_flipped_bit_anywhere_in_the_configuration_is_noticed(copy: Path):
    path = copy / "config.json"
    data = path.read_bytes()
    unnoticed, tracebacks = [], []
    for position in random.Random(0).sample(range(len(data)), 60):
        path.write_bytes(flipped(data, position))
        end = type_in("show", "run")
        line = path.read_bytes().splitlines()[data[:position].count(b"\n")].strip()
        if end.code == 0:
            unnoticed.append(line)
        elif end.code not in (2, 4):
            tracebacks.append(line)
    assert (tracebacks, unnoticed) == ([], [])


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"recipe": null}', '{"recipe": {"chanels": 3}}'])
def test_damaged_recipe_of_a_run_is_exit_4(text: str, copy: Path):
    Path("run/recipe.json").write_text(text)
    assert "recipe.json" in sentence(use("train", "run"), 4)


@pytest.mark.parametrize("line", ["garbage", "[]", '{"loss": 1}'])
def test_damaged_metrics_of_a_run_are_left_out_or_exit_4(line: str, copy: Path):
    metrics = Path("run/metrics.jsonl")
    metrics.write_text(f"{line}\n{metrics.read_text()}")
    end = use("train", "run")
    assert end.code in (0, 4), end.err
    assert end.code == 0 or end.err.splitlines()[-1].startswith("ddpm: 'run/metrics.jsonl'")


# ---- sample ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", ["5-3", "abc", "", "1,,2", "-1", "0-99999999999", "1.5", "1-", ",", "0x10", "1 2"])
def test_seeds_that_make_no_sense_say_how_they_are_written(seeds: str, digits_run: Path, here: Path):
    said = refused(here, "sample", digits_run, "--out", "a.png", "--seeds", seeds)
    assert f"'{seeds}'" in said
    assert "0-63" in said


CHOICES = {
    "--sampler": ("fast", list(SAMPLERS)),
    "--variance": ("medium", list(REVERSE_VARIANCES)),
    "--weights": ("best", list(WEIGHTS)),
    "--device": ("abacus", ["auto", "cpu"]),
}


@pytest.mark.parametrize("option", CHOICES)
def test_choice_that_there_is_not_is_answered_with_those_there_are(option: str, digits_run: Path, here: Path):
    value, choices = CHOICES[option]
    said = refused(here, "sample", digits_run, "--out", "a.png", option, value)
    assert f"'{value}'" in said
    assert all(choice in said for choice in choices)


@pytest.mark.parametrize("device", ["", "meta", "cpu:x", "cuda:99"])
def test_device_that_cannot_compute_is_refused(device: str, digits_run: Path, here: Path):
    refused(here, "sample", digits_run, "--seeds", "0", "--out", "a.png", "--device", device)


@pytest.mark.parametrize("steps", ["0", "-1", "13", "1001"])
@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_steps_that_do_not_fit_are_answered_with_those_that_do(command: str, steps: str, digits_run: Path, here: Path):
    words = {"sample": ("--out", "a.png"), "evaluate": ("--data", "digits:test", "--metric", "neighbours")}[command]
    said = refused(here, command, digits_run, *words, "--steps", steps)
    assert steps in said
    assert ("1 to 12" if int(steps) > 0 else "1 or more") in said


def test_class_on_a_model_without_classes_is_refused(digits_run: Path, here: Path):
    assert "without classes" in refused(here, "sample", digits_run, "--out", "a.png", "--class", "3")


@pytest.mark.parametrize("name", ["roses", "2", "-1", "", "1.0"])
def test_class_that_there_is_not_is_answered_with_those_there_are(name: str, kinds_run: Path, here: Path):
    said = refused(here, "sample", kinds_run, "--out", "a.png", "--class", name)
    assert f"'{name}'" in said
    assert "china, flower" in said


@pytest.mark.parametrize("out", ["a.jpg", "a.txt", "a.npy", "a.png.gz", ""])
def test_output_of_no_kind_is_refused(out: str, digits_run: Path, here: Path):
    said = refused(here, "sample", digits_run, "--seeds", "0", "--out", out)
    assert ".png" in said
    assert ".npz" in said


@pytest.mark.parametrize("out", ["file", "file/a.png", "file/a.npz", "file/folder", "folder.png", "folder.npz"])
def test_output_that_cannot_be_written_is_named(out: str, digits_run: Path, here: Path):
    Path("file").write_text("mine")
    for name in ("folder.png", "folder.npz"):
        Path(name).mkdir()
    assert out.split("/")[0] in refused(here, "sample", digits_run, "--seeds", "0", "--out", out)


def test_progressive_wants_a_png(digits_run: Path, here: Path):
    for out in ("a.npz", "folder"):
        assert ".png" in refused(here, "sample", digits_run, "--seeds", "0", "--progressive", "--out", out)


# ---- evaluate -------------------------------------------------------------------------------------------------------


def evaluated(run: Path, data: str | Path, *words: str | Path) -> tuple[str | Path, ...]:
    return ("evaluate", run, "--data", data, "--metric", "neighbours", "--samples", "1", "--steps", "1", *words)


def test_metric_that_there_is_not_is_answered_with_those_there_are(digits_run: Path, here: Path):
    said = refused(here, "evaluate", digits_run, "--data", "digits:test", "--metric", "beauty")
    assert "'beauty'" in said
    assert all(metric in said for metric in METRICS)


def test_split_must_be_named_where_there_are_splits(digits_run: Path, here: Path):
    said = refused(here, *evaluated(digits_run, "digits"))
    assert "digits:train" in said
    assert "digits:test" in said


@pytest.mark.parametrize("what", ["--data", "--training-data"])
def test_images_of_another_size_are_refused_with_both_sizes(what: str, digits_run: Path, here: Path):
    noise("big/0.png", size=(16, 24), channels=1)
    words = ("big",) if what == "--data" else ("digits:test", what, "big")
    said = refused(here, *evaluated(digits_run, *words))
    assert "big" in said
    assert "16" in said
    assert "8" in said


def test_images_of_mixed_sizes_are_refused_without_advice_that_evaluate_cannot_take(digits_run: Path, here: Path):
    noise("mixed/0.png", size=(16, 24), channels=1)
    noise("mixed/1.png", size=(8, 8), channels=1)
    assert "mixed" in refused(here, *evaluated(digits_run, "mixed"))


def test_images_of_other_channels_are_refused(digits_run: Path, here: Path):
    noise("colour/0.png", size=(8, 8))
    assert "colour" in refused(here, *evaluated(digits_run, "colour"))


def test_missing_images_are_named(digits_run: Path, here: Path):
    assert "'nowhere'" in refused(here, *evaluated(digits_run, "nowhere"))
    assert "'nowhere'" in refused(here, *evaluated(digits_run, "digits:test", "--training-data", "nowhere"))


def test_folder_to_keep_pictures_in_cannot_be_a_file(digits_run: Path, here: Path):
    Path("file").write_text("mine")
    before = snapshot(here)
    end = type_in(*evaluated(digits_run, "digits:test", "--keep", "file"))
    assert end.code == 2
    assert "Traceback" not in end.err
    assert "file" in end.err.splitlines()[-1]
    assert snapshot(here) == before


# ---- words that the command line does not know ----------------------------------------------------------------------

USAGE = {
    "sample": "run",
    "smaple run --out a.png": "smaple",
    "sample run": "--out",
    "sample run --out a.png --stes 3": "--stes",
    "sample run --out a.png --steps three": "--steps",
    "sample run --out a.png --batch-size 0": "--batch-size",
    "sample run more --out a.png": "more",
    "sample --out": "--out",
    "train": "recipe",
    "train digits --set": "--set",
    "evaluate run --data digits:test": "--metric",
    "evaluate run --metric neighbours": "--data",
    "evaluate run --data digits:test --metric neighbours --samples 0": "--samples",
    "evaluate run --data digits:test --metric bits --calls many": "--calls",
    "evaluate run --data digits:test --metric bits --batch-size 0": "--batch-size",
    "tune": "run",
    "tune run --variance --calls many": "--calls",
    "tune run --variance --batch-size 0": "--batch-size",
    "tune run --steps 4 --trials 0": "--trials",
    "tune run --steps 4 --pictures 0": "--pictures",
    "data": "src",
    "show": "run",
    "convert src": "dst",
    "--verson": "--verson",
}


@pytest.mark.parametrize("words", USAGE)
def test_wrong_usage_is_exit_2_and_short(words: str, here: Path):
    end = type_in(*words.split())
    assert (end.code, end.out) == (2, "")
    assert "Traceback" not in end.err
    assert len(end.err.splitlines()) <= 6
    assert USAGE[words].lower() in end.err.lower()
    assert list(here.iterdir()) == []


def test_no_words_print_the_commands():
    end = type_in()
    assert "Traceback" not in end.err
    for command in ("train", "sample", "evaluate", "tune", "data", "show", "convert"):
        assert f"\n  {command} " in end.out + end.err


def test_version_is_printed():
    import ddpm

    assert done("--version").out == f"ddpm {ddpm.__version__}\n"
