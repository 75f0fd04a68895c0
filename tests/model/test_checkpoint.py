"""A checkpoint is read back as it was written, or refused with the file's name; never half, never wrong, never run."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import ddpm
from ddpm import cli
from ddpm.base.tables import signed
from ddpm.errors import DamagedFile, DdpmError, InputError
from ddpm.model.checkpoint import (
    CONFIG_FILE,
    FORMAT_VERSION,
    MODEL_FILE,
    PACKAGED,
    TRAINING_FILE,
    Config,
    checkpoints,
    find_checkpoint,
    is_run,
    read_config,
    read_training,
    read_weights,
    resolved,
    results_folder,
    write_checkpoint,
)
from ddpm.model.description import describe
from ddpm.model.model import build_network
from ddpm.model.recipe import changed, make_recipe
from ddpm.model.sidecar import EMA, RAW

WEIGHTS = (EMA, RAW)
FILES = (MODEL_FILE, TRAINING_FILE, CONFIG_FILE)
CLASSES = ("zero", "one", "Ångström", "three: ∞")
RECIPE = make_recipe(
    {
        "data": "digits",
        "train_images": 1000,
        "image": {"channels": 1, "height": 8, "width": 8},
        "network": {
            "channels": 4,
            "groups": 2,
            "multipliers": [1],
            "blocks": 1,
            "attention_levels": [0],
            "classes": len(CLASSES),
        },
        "process": {"steps": 2},
    }
)
TRAINING = {
    "images_seen": 640,
    "loss_sum": 0.1 + 0.2,
    "optimiser": {"state": {0: {"step": torch.tensor(3.0)}}, "k": [1]},
}


def weights() -> dict[str, dict[str, torch.Tensor]]:
    """Two sets of weights that differ in every tensor that the network draws."""
    networks = (build_network(RECIPE), build_network(RECIPE.model_copy(update={"seed": 1})))
    return {kind: network.state_dict() for kind, network in zip(WEIGHTS, networks, strict=True)}


def write(folder: Path, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "recipe": RECIPE,
        "weights": weights(),
        "class_names": CLASSES,
        "images_seen": 640,
        "data_fingerprint": "f" * 64,
        "training": TRAINING,
    }
    write_checkpoint(folder, **arguments | changes)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write(tmp_path / "checkpoint")


def read_all(folder: Path) -> Config:
    """Everything that can be asked of a checkpoint."""
    config = read_config(folder)
    for kind in WEIGHTS:
        build_network(config.recipe).load_state_dict(read_weights(folder, config, kind))
    read_training(folder, config)
    return config


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change the table of config.json as another program might, in a file that is whole."""
    path = folder / CONFIG_FILE
    table = json.loads(path.read_text(encoding="utf-8"))
    edit(table)
    path.write_text(json.dumps(table), encoding="utf-8")


def flipped(content: bytes, place: int, mask: int = 1) -> bytes:
    changed = bytearray(content)
    changed[place] ^= mask
    return bytes(changed)


def command_line(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The exit code of `ddpm ARGUMENTS` in this process; other exceptions come through."""
    monkeypatch.setattr(sys, "argv", ["ddpm", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


# ---- written and read back ------------------------------------------------------------------------------------------


def test_a_checkpoint_is_read_back_bit_for_bit(checkpoint: Path):
    config = read_config(checkpoint)
    assert config.recipe == RECIPE
    assert config.class_names == CLASSES
    assert (config.images_seen, config.data_fingerprint) == (640, "f" * 64)
    for kind, state in weights().items():
        held = read_weights(checkpoint, config, kind)
        assert held.keys() == state.keys()
        assert all(held[name].dtype == state[name].dtype for name in state)
        assert all(held[name].numpy().tobytes() == state[name].contiguous().numpy().tobytes() for name in state)
    training = read_training(checkpoint, config)
    assert training["loss_sum"] == TRAINING["loss_sum"]  # a Python float: no digit is lost
    assert training["optimiser"]["state"][0]["step"].equal(torch.tensor(3.0))
    assert training["optimiser"]["k"] == [1]


def test_its_files_carry_the_hashes_that_any_tool_computes(checkpoint: Path):
    told = json.loads((checkpoint / CONFIG_FILE).read_text(encoding="utf-8"))["sha256"]
    for name in (MODEL_FILE, TRAINING_FILE):
        assert told[name] == hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", WEIGHTS)
def test_load_gives_the_weights_that_were_asked_for(kind: str, checkpoint: Path):
    model, expected = ddpm.load(checkpoint, weights=kind), weights()[kind]
    assert model.weights == kind
    assert all(tensor.equal(expected[name]) for name, tensor in model.network.state_dict().items())
    assert not any(p.requires_grad for p in model.network.parameters())
    assert (model.class_names, model.images_seen) == (CLASSES, 640)


def test_load_takes_the_ema_by_default(checkpoint: Path):
    assert ddpm.load(checkpoint).weights == "ema"


def test_on_disk_the_ema_is_called_averaged(checkpoint: Path):
    names = {name.split("/")[0] for name in safetensors.torch.load_file(checkpoint / MODEL_FILE)}
    assert names == {"averaged", "raw"}


def test_unknown_and_absent_weights_are_named(tmp_path: Path):
    folder = write(tmp_path / "ema", weights={"ema": weights()["ema"]})
    for wrong in ("best", "averaged"):
        with pytest.raises(InputError, match=rf"{MODEL_FILE}' holds no {wrong} weights: choose ema or raw\."):
            ddpm.load(write(tmp_path / wrong), weights=wrong)
    for absent in ("raw", "ema-0.05"):
        with pytest.raises(InputError, match=rf"{MODEL_FILE}' holds no {absent} weights: choose ema\."):
            ddpm.load(folder, weights=absent)


def test_a_checkpoint_without_training_state_is_loaded_but_not_continued(tmp_path: Path):
    folder = write(tmp_path / "published", training=None)
    assert {file.name for file in folder.iterdir()} == {MODEL_FILE, CONFIG_FILE}
    assert ddpm.load(folder).images_seen == 640
    with pytest.raises(InputError, match="no training state"):
        read_training(folder, read_config(folder))


def test_an_interrupted_write_is_no_checkpoint_and_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = tmp_path / "run"
    folder = run / "checkpoints" / "0000000640"

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            write(folder)
    assert checkpoints(run) == []
    with pytest.raises(InputError, match="holds no checkpoint"):
        find_checkpoint(run)
    write(folder)
    assert read_all(folder).images_seen == 640
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_checkpoint_that_is_there_is_not_written_over(checkpoint: Path):
    before = {name: (checkpoint / name).read_bytes() for name in FILES}
    with pytest.raises((OSError, DdpmError)):
        write(checkpoint, images_seen=1)
    assert {name: (checkpoint / name).read_bytes() for name in FILES} == before


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
@pytest.mark.parametrize("umask", [0o022, 0o002])
def test_every_file_can_be_read_by_whom_the_umask_allows(umask: int, tmp_path: Path):
    old = os.umask(umask)
    try:
        folder = write(tmp_path / "shared")
    finally:
        os.umask(old)
    modes = {file.name: oct(stat.S_IMODE(file.stat().st_mode)) for file in folder.iterdir()}
    assert modes == dict.fromkeys(FILES, oct(0o666 & ~umask))


# ---- several of them ------------------------------------------------------------------------------------------------


def test_the_newest_checkpoint_of_a_run_is_found_by_its_number(tmp_path: Path):
    for images in (9, 10, 100):
        write(tmp_path / "checkpoints" / str(images), images_seen=images)
    assert [int(path.name) for path in checkpoints(tmp_path)] == [9, 10, 100]
    assert ddpm.load(tmp_path).images_seen == 100


def test_a_file_among_the_checkpoints_is_not_one(tmp_path: Path):
    write(tmp_path / "checkpoints" / "0000000640")
    (tmp_path / "checkpoints" / "0000009999").write_text("a note", encoding="utf-8")
    assert ddpm.load(tmp_path).images_seen == 640


def test_a_description_says_what_is_there_without_reading_the_weights(tmp_path: Path):
    for images in (9, 10):
        folder = write(tmp_path / "checkpoints" / str(images), images_seen=images)
    (folder / MODEL_FILE).write_bytes(b"")
    for name in ("variance-averaged.json", "levels-raw.json", "codec-averaged.json", "another-averaged.json"):
        (folder / name).touch()
    found, config = describe(tmp_path), read_config(folder)
    whole_run = {key: found[key] for key in ("checkpoints", "by_checkpoint")}
    assert found == describe(tmp_path / "checkpoints" / "10") | whole_run
    assert [row["checkpoint"] for row in found["by_checkpoint"]] == found["checkpoints"]
    assert [list(row["side_files"]) for row in found["by_checkpoint"]] == [[], found["side_files"]]
    assert found["checkpoint"] == str(folder)
    assert found["checkpoints"] == [str(tmp_path / "checkpoints" / name) for name in ("9", "10")]
    assert (found["images_seen"], found["class_names"], found["data_fingerprint"]) == (10, list(CLASSES), "f" * 64)
    assert found["parameters"] == sum(p.numel() for p in build_network(RECIPE).parameters())
    assert found["sha256"] == dict(config.sha256)
    assert {Path(file).name for file in found["side_files"]} == {
        "variance-averaged.json",
        "levels-raw.json",
        "codec-averaged.json",
    }
    schedule = RECIPE.process.make_schedule()
    assert found["schedule"] == {"steps": 2, "alpha_bar_end": schedule.alpha_bar[-1]}
    assert make_recipe(found["recipe"]) == RECIPE
    assert json.loads(json.dumps(found)) == found


# ---- damaged --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.3, 0.5, 0.7, 0.99, 1.0])
@pytest.mark.parametrize("name", [MODEL_FILE, TRAINING_FILE])
def test_one_flipped_bit_in_any_region_is_refused_by_name(name: str, share: float, checkpoint: Path):
    path = checkpoint / name
    content = path.read_bytes()
    path.write_bytes(flipped(content, int(share * (len(content) - 1)), 0x10))
    with pytest.raises(DamagedFile, match=name):
        read_all(checkpoint)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 0.1, 0.5, -1])
@pytest.mark.parametrize("name", [MODEL_FILE, TRAINING_FILE])
def test_a_file_cut_short_is_refused_by_name(name: str, keep: float, checkpoint: Path):
    path = checkpoint / name
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(DamagedFile, match=name):
        read_all(checkpoint)


@pytest.mark.parametrize("name", [MODEL_FILE, TRAINING_FILE])
def test_a_longer_file_and_a_missing_one_are_refused_by_name(name: str, checkpoint: Path):
    path = checkpoint / name
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DamagedFile, match=name):
        read_all(checkpoint)
    path.unlink()
    with pytest.raises(DamagedFile, match=rf"{name}' is missing"):
        read_all(checkpoint)


def config_or_refusal(folder: Path) -> Config | str:
    """What config.json says, or the sentence that refuses it; anything else that is raised is a failure."""
    try:
        return read_config(folder)
    except (DamagedFile, InputError) as error:
        return str(error)


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_any_flipped_bit_of_the_configuration_is_refused_or_means_the_same(every: int, checkpoint: Path):
    """A digit of beta_end or of the class count that reads as another one would sample wrong images in silence."""
    path, whole = checkpoint / CONFIG_FILE, read_all(checkpoint)
    content = path.read_bytes()
    lines = content.decode().splitlines()
    silent = set()
    for place in range(0, len(content), every):
        path.write_bytes(flipped(content, place))
        found = config_or_refusal(checkpoint)
        # A hash that is not the file's is told when that file is read.
        if isinstance(found, Config) and found != whole and found.sha256 == whole.sha256:
            silent.add(lines[content[:place].count(b"\n")].strip())
        assert isinstance(found, Config) or CONFIG_FILE in found
    assert silent == set()


def test_a_configuration_cut_short_anywhere_is_refused_by_name(checkpoint: Path):
    path = checkpoint / CONFIG_FILE
    content = path.read_bytes()
    for keep in {*range(0, len(content) - 1, 29), len(content) - 2}:  # the last byte is only the line's end
        path.write_bytes(content[:keep])
        with pytest.raises(DamagedFile, match=CONFIG_FILE):
            read_config(checkpoint)


WRONG: dict[str, list[Any]] = {
    "recipe": [None, 3, "text", [1]],
    "class_names": [None, 3, "text", [1]],
    "images_seen": [None, "text", [1], 1.5],
    "data_fingerprint": [None, 3, [1]],
    "sha256": [None, 3, "text", [1]],
}


@pytest.mark.parametrize("key", WRONG)
def test_a_configuration_that_lacks_a_key_or_holds_a_wrong_kind_of_value_is_refused(key: str, checkpoint: Path):
    accepted = []
    for value in WRONG[key]:
        edit_config(checkpoint, lambda table, value=value: table.update({key: value}))
        found = config_or_refusal(checkpoint)
        accepted += [value] if isinstance(found, Config) else []
        assert isinstance(found, Config) or (CONFIG_FILE in found and "damaged" in found)
    assert accepted == []
    edit_config(checkpoint, lambda table: table.pop(key))
    with pytest.raises(DamagedFile, match=CONFIG_FILE):
        read_config(checkpoint)


def test_weights_of_another_network_under_the_right_hash_are_refused_by_name(tmp_path: Path):
    wider = changed(RECIPE, {"network": {"channels": 8}})
    with pytest.raises(DamagedFile, match=MODEL_FILE):
        ddpm.load(write(tmp_path / "wider", recipe=wider))


@pytest.mark.parametrize(("command", "name"), [("sample", MODEL_FILE), ("sample", CONFIG_FILE), ("show", CONFIG_FILE)])
def test_the_command_line_says_which_file_is_damaged_and_leaves_with_4(
    name: str, command: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    path = checkpoint / name
    path.write_bytes(path.read_bytes()[:-20])
    out = checkpoint.parent / "grid.png"
    arguments = ["--out", out, "--seeds", "0"] if command == "sample" else []
    assert command_line(monkeypatch, command, checkpoint, *arguments) == 4
    said = capfd.readouterr().err
    assert name in said
    assert said.startswith("ddpm: ")
    assert said.count("\n") == 1
    assert not out.exists()


# ---- not of ddpm -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99])
def test_a_newer_format_version_is_refused_with_both_numbers(version: int, checkpoint: Path):
    edit_config(checkpoint, lambda table: table.update(format_version=version))
    with pytest.raises(InputError, match=rf"format version {version}.*{FORMAT_VERSION}"):
        ddpm.load(checkpoint)


@pytest.mark.parametrize("version", [str(FORMAT_VERSION), None, FORMAT_VERSION + 0.5, 0, [1]], ids=str)
def test_a_format_version_that_never_was_is_refused(version: Any, checkpoint: Path):
    edit_config(checkpoint, lambda table: table.update(format_version=version))
    with pytest.raises((InputError, DamagedFile), match=CONFIG_FILE):
        ddpm.load(checkpoint)


@pytest.mark.parametrize("text", ["{}", "[]", "3", '"ddpm checkpoint"', '{"_class_name": "UNet2DModel"}'])
def test_somebody_elses_configuration_is_refused_and_convert_is_named(text: str, checkpoint: Path):
    (checkpoint / CONFIG_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"{CONFIG_FILE}.*ddpm convert"):
        ddpm.load(checkpoint)


def test_a_path_without_checkpoint_is_refused_by_name(tmp_path: Path):
    (tmp_path / "file").touch()
    for name in ("file", "nothing"):
        with pytest.raises(InputError, match=f"no folder '.*{name}'"):
            ddpm.load(tmp_path / name)
    with pytest.raises(InputError, match="holds no checkpoint"):
        ddpm.load(tmp_path)


class Malicious:
    """Unpickling this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["a bare pickle", "a torch file"])
def test_a_training_state_that_would_run_code_is_refused_and_does_not_run(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its hash is right: who writes such a file writes the hash as well."""
    marker = tmp_path / "it ran"
    if form == "a bare pickle":
        monkeypatch.setattr(torch, "save", lambda state, file: file.write(pickle.dumps(state)))
    folder = write(tmp_path / "theirs", training={"images_seen": Malicious(marker)})
    with pytest.raises(Exception) as refusal:  # noqa: PT011  that nothing runs comes before how it is said
        read_all(folder)
    assert not marker.exists()
    assert isinstance(refusal.value, DdpmError), f"not a sentence: {refusal.value!r:.200}"
    assert TRAINING_FILE in str(refusal.value)


def test_the_malicious_file_of_the_test_above_would_run(checkpoint: Path):
    marker = checkpoint.parent / "it ran"
    pickle.loads(pickle.dumps(Malicious(marker)))
    assert marker.exists()


# ---- checkpoints of earlier versions --------------------------------------------------------------------------------

PUBLISHED = Path(__file__).resolve().parents[2] / "models" / "fashion-mnist"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published model is not here")
def test_the_published_model_is_read():
    """Its recipe has the keys average_decay and average_ramp; its hashes are of the file with them."""
    text = (PUBLISHED / CONFIG_FILE).read_text(encoding="utf-8")
    assert '"average_decay"' in text
    training = json.loads(text)["recipe"]["training"]
    found = read_config(PUBLISHED).recipe.training
    assert (found.ema_decay, found.ema_ramp) == (training["average_decay"], training["average_ramp"])
    assert ddpm.load(PUBLISHED, device="cpu").weights == "ema"


def with_old_keys(path: Path) -> None:
    """As an earlier version wrote it."""
    table = json.loads(path.read_text(encoding="utf-8"))
    del table["own_sha256"]
    training = table["recipe"]["training"]
    training |= {"average_decay": training.pop("ema_decay"), "average_ramp": training.pop("ema_ramp")}
    path.write_text(json.dumps(signed(table)), encoding="utf-8")


def test_a_run_of_an_earlier_version_goes_on_as_if_it_were_of_this_one(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    np.save(tmp_path / "images.npy", images)
    changes: dict[str, Any] = {
        "data": str(tmp_path / "images.npy"),
        "train_images": 32,
        "batch_size": 8,
        "network": {"classes": 0},
        "training": {"warmup_images": 0, "log_images": 8, "ema_decay": 0.5},
    }
    recipe = changed(RECIPE, changes)
    for name in ("old", "new"):
        ddpm.train(recipe, out=tmp_path / name, progress=False)
    with_old_keys(tmp_path / "old" / "recipe.json")
    with_old_keys(checkpoints(tmp_path / "old")[-1] / CONFIG_FILE)
    ends = [
        ddpm.train(changed(recipe, {"train_images": 64}), out=tmp_path / name, progress=False)
        for name in ("old", "new")
    ]
    one, other = (ddpm.load(end, device="cpu") for end in ends)
    assert one.images_seen == other.images_seen == 64
    assert one.recipe == other.recipe
    for mine, theirs in zip(one.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(InputError, match=r"training\.ema_decay"):
        ddpm.train(
            changed(recipe, {"train_images": 64, "training": {"ema_decay": 0.6}}), out=tmp_path / "old", progress=False
        )


# ---- the model that comes with the package --------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_linear_is_the_model_of_the_package_unless_a_folder_here_has_that_name(here: Path):
    assert is_run("linear")
    assert resolved("linear") == find_checkpoint("linear") == PACKAGED
    assert Path(ddpm.load("linear", device="cpu").source) == PACKAGED
    assert resolved("other") == Path("other")
    write(here / "linear")
    assert resolved("linear") == Path("linear")
    assert find_checkpoint("linear") == Path("linear")
    assert ddpm.load("linear", device="cpu").images_seen == 640
    assert ddpm.show("linear")["images_seen"] == 640


def test_an_empty_folder_named_linear_is_no_run(here: Path):
    (here / "linear").mkdir()
    assert not is_run("linear")
    with pytest.raises(InputError, match="'linear' holds no checkpoint"):
        find_checkpoint("linear")


@pytest.mark.parametrize("path", ["linear", PACKAGED])
def test_nothing_is_tuned_beside_the_model_of_the_package(path: str | Path, here: Path):
    before, model = contents(PACKAGED), ddpm.load(path, device="cpu")
    images = np.zeros((70, *model.geometry.shape), np.uint8)
    for tune in (
        lambda: ddpm.tune_variance(model, images, progress=False),
        lambda: ddpm.tune_timesteps(model, images, steps=[4], progress=False),
        lambda: ddpm.tune_codec(model, images, progress=False),
        lambda: ddpm.tune_codec(model, images, force=True, progress=False),
    ):
        with pytest.raises(InputError, match="'linear'"):
            tune()
    assert contents(PACKAGED) == before
    assert not list(here.iterdir())


def test_results_about_the_model_of_the_package_need_a_folder(here: Path):
    model = ddpm.load("linear", device="cpu")
    for name in (model.source, PACKAGED):
        with pytest.raises(InputError, match="--out"):
            results_folder(name, None)
        assert results_folder(name, "out") == Path("out")
    assert results_folder("run/checkpoints/0000000640", None) == Path("run/evaluation")
    assert results_folder("published", None) == Path("published/evaluation")
    assert not list(here.iterdir())


def test_a_folder_of_checkpoints_that_cannot_be_read_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path / "checkpoints" / "0000000640")
    listed = os.listdir

    def failing(path: str | Path = ".") -> list[str]:
        if Path(path).name == "checkpoints":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(os, "listdir", failing)
    for verb in (ddpm.load, ddpm.show, ddpm.prune):
        with pytest.raises(InputError, match=r"checkpoints' could not be read: Permission denied; change"):
            verb(tmp_path)


@pytest.mark.parametrize("link", [False, True])
def test_what_lies_in_place_of_a_temporary_checkpoint_is_replaced_and_no_link_followed(link: bool, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    place = tmp_path / "run" / ".unfinished-new"
    place.parent.mkdir()
    place.symlink_to(tmp_path / "mine") if link else place.touch()
    write(tmp_path / "run" / "new")
    assert os.listdir(tmp_path / "run") == ["new"]
    assert os.listdir(tmp_path / "mine") == ["file"]


def test_a_checkpoint_may_have_the_longest_name(tmp_path: Path):
    folder = tmp_path / ("n" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    write(folder)
    assert ddpm.load(folder).images_seen == read_config(folder).images_seen
