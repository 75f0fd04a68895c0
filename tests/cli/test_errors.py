"""What a user can fix is one sentence and exit 2, wrong weights exit 3, a damaged file exit 4; nothing is left behind.

One case for each kind of refusal and command: what the sentences name is the option, the file or the value. All that
can be refused is tested with the function that refuses it.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commandline import TINY, Done, done, sentence, snapshot, type_in
from PIL import Image

from ddpm.codec.to_files import UNLIKE
from ddpm.model.recipe import recipe_names

LIKELIHOOD = "evaluate likelihood RUN --data digits:test"
FID = "evaluate fid RUN --data digits:test --features pixels"
MEMORISATION = "evaluate memorisation RUN --data digits:test --seeds 0"
CODEC = "evaluate codec RUN --data digits:test"
TIMESTEPS = "tune timesteps RUN --steps 4"
TRAIN = f"train digits --out new {' '.join(TINY)}"
SAMPLE = "sample RUN --out a.png"

OF_A_RUN = {
    "sample": SAMPLE,
    "show": "show RUN",
    "likelihood": LIKELIHOOD,
    "memorisation": MEMORISATION,
    "codec": CODEC,
    "tune ema": "tune ema RUN",
    "tune variance": "tune variance RUN",
    "tune timesteps": TIMESTEPS,
    "tune codec": "tune codec RUN",
    "compress": "compress RUN grey.png --out files",
    "decompress": "decompress RUN some.dpc --out back",
}


def refused(words: str, *named: str, run: Path | str = "run", code: int = 2) -> str:
    """The sentence of a command that must fail, must name something, and must leave the current folder as it was."""
    here = Path.cwd()
    before = snapshot(here)
    end = type_in(*(str(run) if word == "RUN" else word for word in words.replace("RUN ", "RUN ").split()))
    left = snapshot(here)
    said = sentence(end, code)
    for name in named:
        assert name in said
    assert left == before, f"left behind by {end.words}"
    return said


@pytest.fixture
def inputs(here: Path) -> None:
    """Files and folders of all kinds, and things that are none."""
    levels = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), np.uint8)
    np.save("colour.npy", levels)
    np.save("big.npy", levels[..., 0])
    np.save("float.npy", levels / 255)
    np.save("grey.npy", levels[:, :8, :8, 0])
    np.savez("statistics.npz", mu=np.zeros(3), sigma=np.eye(3))
    for folder in ("empty", "mixed", "broken", "images", "full"):
        Path(folder).mkdir()
    Path("file").write_text("mine")
    Path("full/thesis.txt").write_text("mine")
    Path("broken/zero.png").touch()
    Path("short.zip").write_bytes(b"PK\x03\x04 and no more")
    Path("some.dpc").write_bytes(b"GIF89a")
    Path("there.npz").write_bytes(b"mine")
    for size in (8, 16):
        Image.new("L", (size, size)).save(f"mixed/{size}.png")
    Image.new("L", (8, 8)).save("images/000001.png")
    Image.new("L", (8, 8)).save("grey.png")
    Image.new("RGB", (8, 8), (1, 2, 3)).save("colour.png")
    Image.new("RGBA", (8, 8)).save("alpha.png")


# ---- values of options ----------------------------------------------------------------------------------------------

VALUES = {
    **{f"{SAMPLE} {words}": named for words, named in {
        "--sampler dpm+": ["dpm+", "dpm++", "unipc"],
        "--spacing karas --steps 4": ["karas", "log-snr"],
        "--threshold dinamic": ["dinamic", "dynamic"],
        "--variance smal": ["smal", "optimal"],
        "--variance small --sampler heun": ["heun", "--sampler"],
        "--eta 0.5 --sampler heun": ["heun", "eta"],
        "--eta 3 --steps 4": ["3", "0 to 2"],
        "--steps 0": ["0"],
        "--steps 13": ["13", "12"],
        "--class 3": ["class"],
        "--guidance 2": ["guidance"],
        "--seeds some": ["some"],
        "--weights best": ["best", "ema", "raw"],
        "--weights averaged": ["averaged", "ema"],
        "--device abacus": ["abacus"],
        "--progressive --out a.npz": ["progressive"],
        "--out a.jpg": ["a.jpg"],
        "--out=": [],
    }.items()},
    **{f"{LIKELIHOOD} {words}": named for words, named in {
        "--calls 0": ["calls"],
        "--calls 100": ["100", "256"],
        "--calls 300 --full": ["calls", "full"],
        "--shard 1/2": ["shard", "full"],
        "--full --shard 3/2": ["3/2"],
        "--variance medium": ["medium"],
        "--levels 3 --variance small": ["small"],
        "--ode --calls 403": ["403"],
        "--ode --solver-steps 0": ["0"],
        "--device abacus": ["abacus"],
    }.items()},
    **{f"{FID} {words}": named for words, named in {
        "--features pixel": ["pixel", "pixels"],
        "--features file": ["file"],
        "--seeds 0-62": ["63", "64"],
        "--seeds 0-69,3": ["seed"],
        "--sampler dim": ["dim", "ddim"],
        "--save-to a.json": ["a.json"],
        "--keep kept.npz": ["kept.npz"],
    }.items()},
    f"{MEMORISATION} --steps 13": ["13", "12"],
    f"{MEMORISATION} --seeds none": ["none"],
    f"{TIMESTEPS} --sampler unpic": ["unpic", "unipc"],
    f"{TIMESTEPS} --features pixel": ["pixel", "pixels"],
    f"{TIMESTEPS} --trials 4": ["4", "5"],
    f"{TIMESTEPS} --samples 63": ["63", "64"],
    "tune timesteps RUN --steps 4,13": ["13", "12"],
    "tune ema RUN --steps 13": ["13", "12"],
    "tune ema RUN --samples 63 --steps 3": ["63", "64"],
    "tune variance RUN --calls 95": ["95", "96"],
    "compress RUN grey.png --out files --rate 0": ["rate"],
    "compress RUN grey.png --out files --rate 1 --bytes 30": ["rate", "bytes"],
    "decompress RUN some.dpc --out back --reconstruct median": ["median"],
    f"{TRAIN} --set network.chanels=3": ["network.channels"],
    f"{TRAIN} --set train_images=many": ["train_images"],
    f"{TRAIN} --set network.channels": ["--set", "network.channels"],
    f"{TRAIN} --set =3": ["--set", "=3"],
    f"{TRAIN} --set network.=3": ["--set", "network.=3"],
    f"{TRAIN} --set seed=3 --set seed.x=3": ["--set", "seed"],
    f"{TRAIN} --set validation=digits:val": ["val"],
    f"{TRAIN} --size 17 --set network.multipliers=[1,1]": ["17", "--size"],
    f"{TRAIN} --size 16x": ["16x"],
    f"{TRAIN} --fit stretch": ["fit"],
    "train nowhere.toml": ["nowhere.toml"],
    "train cifar10": ["--data"],
}  # fmt: skip


@pytest.mark.usefixtures("inputs", "no_calls")
@pytest.mark.parametrize("words", VALUES)
def test_value_of_an_option_that_cannot_be_is_named(words: str, digits_run: Path):
    refused(words, *VALUES[words], run=digits_run)


@pytest.mark.parametrize("name", recipe_names())
def test_unknown_recipe_offers_the_nearest_name(name: str):
    refused(f"train {name}x --dry-run", f"'{name}'")


# ---- files that are not there, or something else --------------------------------------------------------------------


@pytest.mark.usefixtures("inputs", "no_calls")
@pytest.mark.parametrize("command", OF_A_RUN)
def test_path_that_is_no_run_is_named(command: str, digits_run: Path):
    Path("young").mkdir()
    shutil.copy(digits_run / "recipe.json", "young")
    for path in ("nowhere", "empty", "file", "images", "young"):
        refused(OF_A_RUN[command], path, run=path)


SOURCES = {
    "nowhere": "train likelihood fid memorisation timesteps variance data",
    "empty": "train likelihood fid data",
    "file": "train likelihood fid data",
    "mixed": "train likelihood fid",
    "broken": "train likelihood fid",
    "short.zip": "train likelihood fid data",
    "float.npy": "train likelihood fid data",
    "big.npy": "likelihood fid memorisation timesteps variance",
    "colour.npy": "likelihood memorisation timesteps variance",
    "digits": "likelihood fid memorisation",
    "digits:val": "train likelihood fid memorisation timesteps variance data",
    "digits:test[5:5]": "train likelihood fid memorisation timesteps variance data",
    "digits:test[0:63]": "fid timesteps",
}
USE = {
    "train": TRAIN,
    "likelihood": "evaluate likelihood RUN",
    "fid": "evaluate fid RUN --features pixels",
    "memorisation": "evaluate memorisation RUN --seeds 0",
    "timesteps": "tune timesteps RUN --steps 4",
    "variance": "tune variance RUN",
}


@pytest.mark.usefixtures("inputs", "no_calls")
@pytest.mark.parametrize("source", SOURCES)
def test_images_that_cannot_be_used_are_named(source: str, digits_run: Path):
    for command in SOURCES[source].split():
        named = "63" if "63" in source else source.removeprefix("digits:")
        words = f"data {source}" if command == "data" else f"{USE[command]} --data {source}"
        refused(words, named, run=digits_run)
    if source in ("mixed", "nowhere"):
        refused(f"{MEMORISATION} --training-data {source}", source, run=digits_run)
        refused(f"evaluate fid {source} --data digits:test --features pixels", source)
        refused(f"{TRAIN} --dry-run --data {source}", source)


@pytest.mark.usefixtures("inputs", "no_calls")
def test_sizes_that_are_suggested_can_be_given():
    words = "train small --out new --set network.multipliers=[1,1,1,1,1] --data"
    for data in ("mixed", "big.npy"):
        size = refused(f"{words} {data}", "--size").split("--size ")[1].split()[0].rstrip(",.;:")
        assert size.replace("x", "").isdecimal()
        refused(f"{words} {data} --size {size} --set batch_size=0", "batch_size")  # and nothing of the size


@pytest.mark.usefixtures("inputs", "no_calls")
def test_images_to_compress_that_no_file_can_hold_are_named(coded: Path):
    words = "compress RUN {} --out files"
    for name in ("colour.png", "alpha.png", "file", "nowhere.png", "empty"):
        refused(words.format(name), name, run=coded)
    refused(words.format("grey.png --bytes 3"), "grey.png", run=coded)


# ---- options that go together with others only ----------------------------------------------------------------------


@pytest.mark.usefixtures("inputs", "no_calls")
@pytest.mark.parametrize("option", ["--seeds 0-69", "--keep kept", "--steps 3", "--sampler ddim", "--class 3",
                                    "--guidance 2", "--threshold none", "--eta 0.5 --sampler ddim"])  # fmt: skip
def test_samples_that_are_there_are_not_drawn(option: str):
    refused(f"evaluate fid digits:train --data digits:test --features pixels {option}", "samples")


@pytest.mark.usefixtures("inputs", "no_calls")
def test_statistics_are_of_the_same_features_and_are_not_saved_again(digits_run: Path):
    refused(FID.replace("digits:test", "statistics.npz"), "64", run=digits_run)
    refused(f"{FID} --save-to there.npz", "there.npz", run=digits_run)
    refused(f"{FID.replace('digits:test', 'statistics.npz')} --save-to new.npz", "statistics", run=digits_run)


# ---- outputs that are there -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("inputs", "no_calls")
@pytest.mark.parametrize("out", ["full", "file", "file/below"])
def test_output_that_is_something_else_is_kept(out: str, digits_run: Path):
    named = out.split("/")[0]
    if out != "full":
        refused(f"{LIKELIHOOD} --rate --out {out}", named, run=digits_run)
        refused(f"{LIKELIHOOD} --full --out {out}", named, run=digits_run)
        refused(f"{FID} --keep {out}", named, run=digits_run)
        refused(f"{MEMORISATION} --out {out}", named, run=digits_run)
        refused(f"{SAMPLE} --out {out}", named, run=digits_run)
        refused(f"compress RUN grey.png --out {out}", named, run=digits_run)
        refused(f"decompress RUN some.dpc --out {out}", named, run=digits_run)
    refused(f"train digits --out {out} {' '.join(TINY)}", named)
    refused(f"convert images {out}", named)


@pytest.mark.usefixtures("inputs")
def test_outputs_that_are_there_need_force(coded: Path):
    Path("files").mkdir()
    Path("back").mkdir()
    shutil.copy("some.dpc", "files/grey.dpc")
    shutil.copy("mixed/16.png", "back/grey.png")
    refused("compress RUN grey.png --out files", "files/grey.dpc", "--force", run=coded)
    done("compress", coded, "grey.png", "--out", "files", "--force")
    before = snapshot(Path.cwd())
    end = type_in("decompress", coded, "files/grey.dpc", "--out", "back")
    assert (end.code, end.out, snapshot(Path.cwd())) == (2, "", before)
    assert re.search(r"^ddpm: 'files/grey\.dpc': .*'back/grey\.png'.*--force.*\.$", end.err, re.MULTILINE)
    done("decompress", coded, "files/grey.dpc", "--out", "back", "--force")
    before = snapshot(coded)
    refused("tune codec RUN", "codec-averaged.json", "--force", run=coded)
    assert snapshot(coded) == before


@pytest.mark.usefixtures("inputs")
def test_images_drawn_another_way_are_not_mixed(run: Path):
    done("sample", run, "--seeds", "0-1", "--steps", "3", "--out", "drawn")
    for words in ("", "--steps 4", "--steps 3 --weights raw", "--steps 3 --eta 0.5"):
        end = type_in("sample", run, "--seeds", "0-3", *words.split(), "--out", "drawn")
        assert (end.code, "'drawn'" in end.err) == (2, True)
    refused(f"{SAMPLE} --out images --seeds 1", "images")
    refused(f"{FID} --keep images", "images")
    refused(f"{FID} --keep run", "run")


def test_run_of_another_recipe_or_other_data_is_kept_and_the_key_named(run: Path):
    words = f"train digits --out run {' '.join(TINY)}"
    for more in ("--set seed=3", "--set network.channels=12", "--set train_images=16", "--data digits:test"):
        refused(f"{words} {more}", "run", "data" if "--data" in more else more.split()[1].split("=")[0])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_folder_that_cannot_be_written_is_refused_before_anything_is_computed(digits_run: Path, no_calls: None):
    Path("locked").mkdir(mode=0o555)
    refused(f"{LIKELIHOOD} --rate --out locked/below", "locked", run=digits_run)


# ---- damaged files --------------------------------------------------------------------------------------------------


def use(command: str) -> Done:
    """Run any command that reads the checkpoints of a run of digits."""
    words = f"{TRAIN} --out run --set train_images=80" if command == "train" else OF_A_RUN[command]
    return type_in(*("run" if word == "RUN" else word for word in words.split()))


READS = [
    *((command, "config.json") for command in (*OF_A_RUN, "train")),
    *((command, "model.safetensors") for command in (*OF_A_RUN, "train") if command != "show"),
    ("train", "training.pt"),
]


@pytest.mark.usefixtures("inputs", "no_calls")
@pytest.mark.parametrize(("command", "file"), READS)
def test_damaged_checkpoint_is_exit_4_and_names_the_file(command: str, file: str, run: Path):
    path = run / "checkpoints" / "0000000064" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = snapshot(Path())
    assert f"'{path}'" in sentence(use(command), 4)
    assert snapshot(Path()) == before


@pytest.mark.usefixtures("inputs", "no_calls")
@pytest.mark.parametrize("command", [*OF_A_RUN, "train"])
def test_configuration_of_another_program_or_a_newer_version_is_exit_2(command: str, run: Path):
    config = run / "checkpoints" / "0000000064" / "config.json"
    for text in (config.read_text().replace('"format_version": 1', '"format_version": 2'), '{"_class_name": "U"}'):
        config.write_text(text)
        assert f"'{config}'" in sentence(use(command))


def test_damaged_shard_is_exit_4_and_without_it_the_sum_goes_on(digits_run: Path):
    words = (*LIKELIHOOD.replace("RUN", str(digits_run)).split(), "--limit", "5", "--full", "--out", "kept")
    first = done(*words)
    (shard,) = Path().glob("kept/full-*/shard-*.npz")
    shard.write_bytes(shard.read_bytes()[:300])
    end = type_in(*words)
    assert (end.code, end.out) == (4, "")
    assert f"'{shard}'" in end.err.splitlines()[-1]
    shard.unlink()
    assert done(*words).out == first.out


# ---- faults of ours -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("inputs")
def test_file_that_does_not_come_back_is_one_sentence_and_exit_1(coded: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ddpm.codec.to_files.compress_all", lambda codec, images, *_, **__: [None] * len(images))
    end = type_in("compress", coded, "grey.png", "--out", "files")
    assert (end.code, end.out, end.err.splitlines()[-1]) == (1, "", f"ddpm: 'grey.png': {UNLIKE}")
    assert "Traceback" not in end.err


def test_bug_keeps_its_traceback_and_is_exit_1(digits_run: Path, no_calls: None):
    end = type_in("sample", digits_run, "--out", "a.png")
    assert (end.code, end.out) == (1, "")
    assert "AssertionError: the network was asked" in end.err
    assert not Path("a.png").exists()


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
    "evaluate likelihood run": "--data",
    "evaluate likelihood run --data digits:test --steps 4": "--steps",
    "evaluate likelihood run --data digits:test --calls many": "--calls",
    "evaluate likelihood run --data digits:test --limit 0": "--limit",
    "evaluate likelihood run --data digits:test --metric bits": "--metric",
    "evaluate fid run --data digits:test": "--features",
    "evaluate fid run --data digits:test --features pixels --calls 3": "--calls",
    "evaluate codec run --data digits:test --limit 0": "--limit",
    "evaluate memorisation run --data digits:test --features pixels": "--features",
    "evaluate beauty run": "beauty",
    "tune run --variance": "run",
    "tune timesteps run": "--steps",
    "tune timesteps run --steps 4 --trials 0": "--trials",
    "tune timesteps run --steps 4 --calls 3": "--calls",
    "tune ema run --weights raw": "--weights",
    "tune variance run --steps 4": "--steps",
    "tune variance run --force": "--force",
    "tune codec run --fit-steps 0": "--fit-steps",
    "compress run --out files": "images",
    "compress run a.png --out files --bytes 0": "--bytes",
    "decompress run a.dpc": "--out",
    "data": "src",
    "show": "path",
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
