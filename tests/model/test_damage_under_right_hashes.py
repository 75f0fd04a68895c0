"""Files whose hashes were made again after a change: what is in them is checked field by field, and named."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import ddpm
from ddpm.base.tables import signed
from ddpm.base.tensor_files import read_pickled
from ddpm.cli import app
from ddpm.codec.codec_data import SIDECAR as CODEC
from ddpm.codec.codec_data import make_codec, read_codec_data
from ddpm.diffusion.optimal_variance import Measured
from ddpm.errors import DamagedFile, DdpmError
from ddpm.model.checkpoint import CONFIG_FILE, MODEL_FILE, PACKAGED
from ddpm.model.timesteps import SIDECAR as TIMESTEPS
from ddpm.model.timesteps import TunedTimesteps, add_timesteps, tuned_for
from ddpm.model.variances import SIDECAR as VARIANCES
from ddpm.model.variances import Variances, denoiser_for, write_variances
from scorings import edited, stored_model

Change = Callable[[dict[str, Any]], Any]
NUMBERS = (math.nan, math.inf, -math.inf)


def rehashed(folder: Path, change: Change = lambda table: None) -> Path:
    """A checkpoint whose config.json was changed and signed again, for the files that are there."""
    path = folder / CONFIG_FILE
    table = json.loads(path.read_text(encoding="utf-8"))
    del table["own_sha256"]
    table["sha256"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in table["sha256"]}
    change(table)
    path.write_text(json.dumps(signed(table)), encoding="utf-8")
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    stored_model(tmp_path / "model")
    return tmp_path / "model"


def with_tensor(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """A checkpoint with one tensor of its EMA changed."""
    tensors = safetensors.torch.load_file(folder / MODEL_FILE)
    tensors[f"averaged/{name}"] = change(tensors[f"averaged/{name}"])
    (folder / MODEL_FILE).write_bytes(safetensors.torch.save(tensors))
    return rehashed(folder)


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("command", ["load", "sample", "evaluate", "tune", "compress"])
def test_weights_that_are_no_numbers_are_refused_with_the_first_tensor_and_how_many(
    command: str, number: float, checkpoint: Path, tmp_path: Path
):
    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[1:4] = number
        return tensor

    with_tensor(checkpoint, "conv_in.weight", spoil)
    with_tensor(checkpoint, "time1.bias", spoil)
    with pytest.raises(
        DamagedFile, match=r"model\.safetensors'.* 3 of the 36 values of conv_in\.weight.*1 more tensor"
    ):
        ddpm.load(checkpoint)
    assert ddpm.load(checkpoint, weights="raw").weights == "raw"  # these are sound
    if command != "load":
        words = {
            "sample": ["sample", checkpoint, "--out", tmp_path / "grid.png"],
            "evaluate": ["evaluate", "memorisation", checkpoint, "--data", "digits:test"],
            "tune": ["tune", "variance", checkpoint],
            "compress": ["compress", checkpoint, tmp_path / "x.png", "--out", tmp_path / "out"],
        }[command]
        assert code(*words) == 4
        assert not (tmp_path / "grid.png").exists()


def code(*words: object) -> int:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(result.exception, DdpmError), result.exception
    return result.exception.exit_code


def test_finite_weights_whose_network_gives_nan_draw_no_black_images(checkpoint: Path):
    with_tensor(checkpoint, "conv_in.weight", lambda tensor: torch.full_like(tensor, 3e38))
    with pytest.raises(DdpmError, match="gives NaN"):
        ddpm.sample(ddpm.load(checkpoint), seeds=[0, 1], progress=False)


TENSORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "whole numbers": lambda tensor: tensor.to(torch.int32),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "another shape": lambda tensor: tensor[:1],
    "one value": lambda tensor: tensor.flatten()[0],
}


@pytest.mark.parametrize("kind", TENSORS)
def test_weights_of_other_types_and_shapes_are_refused(kind: str, checkpoint: Path):
    with pytest.raises(DamagedFile, match=r"model\.safetensors.* not of the network"):
        ddpm.load(with_tensor(checkpoint, "conv_in.weight", TENSORS[kind]))


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"]
)
def test_weights_that_are_no_safetensors_are_refused(content: bytes, checkpoint: Path):
    (checkpoint / MODEL_FILE).write_bytes(content)
    with pytest.raises(DdpmError, match=r"model\.safetensors"):
        ddpm.load(rehashed(checkpoint))


# ---- config.json -----------------------------------------------------------------------------------------------------


CONFIGS: dict[str, Change] = {
    "format_version": lambda table: table.update(format_version=True),
    "format_version ": lambda table: table.update(format_version=0),
    "images_seen": lambda table: table.update(images_seen=-1),
    "images_seen ": lambda table: table.update(images_seen=1.0),
    "images_seen  ": lambda table: table.update(images_seen=10**30),
    "class_names": lambda table: table.update(class_names="cat"),
    "class_names.0": lambda table: table.update(class_names=[1]),
    "class_names ": lambda table: table.pop("class_names"),
    "classes": lambda table: table.update(class_names=["one too many"]),
    "data_fingerprint": lambda table: table.update(data_fingerprint=None),
    "sha256": lambda table: table.update(sha256=[]),
    "sha256.": lambda table: table["sha256"].update({MODEL_FILE: 3}),
    "SHA-256": lambda table: table["sha256"].pop(MODEL_FILE),
    "recipe": lambda table: table.update(recipe=None),
    "recipe ": lambda table: table["recipe"]["image"].pop("height"),
    "recipe  ": lambda table: table["recipe"]["network"].pop("attention_levels"),
    "network.classes": lambda table: table["recipe"]["network"].update(classes=3),
    "network.channels": lambda table: table["recipe"]["network"].update(channels=60_000),
    "process.steps": lambda table: table["recipe"]["process"].update(steps=10**9),
}


@pytest.mark.parametrize("field", CONFIGS)
def test_each_field_of_a_configuration_is_checked_under_a_right_hash(field: str, checkpoint: Path):
    rehashed(checkpoint, CONFIGS[field])
    with pytest.raises(DdpmError, match=rf"config\.json'.*{field.strip()}"):
        ddpm.load(checkpoint)
    with pytest.raises(DdpmError, match=r"config\.json"):
        ddpm.show(checkpoint)


def test_a_wider_network_than_the_file_holds_is_refused_before_it_is_built(checkpoint: Path, monkeypatch):
    """10^9 parameters: 4 GB."""
    rehashed(checkpoint, lambda table: table["recipe"]["network"].update(channels=4096, multipliers=[1], blocks=1))
    monkeypatch.setattr(
        torch.nn.init, "xavier_uniform_", lambda weight, *_, **__: weight.is_meta or pytest.fail("built")
    )
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        ddpm.load(checkpoint)


@pytest.mark.parametrize("place", [CONFIG_FILE, MODEL_FILE])
def test_a_folder_in_a_files_place_is_named(place: str, checkpoint: Path):
    (checkpoint / place).unlink()
    (checkpoint / place).mkdir()
    with pytest.raises(DdpmError, match="model"):
        ddpm.load(checkpoint)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", '{"a":' * 5000 + "1" + "}" * 5000, "\xff"]
)
def test_no_depth_and_no_number_in_a_configuration_is_a_traceback(text: str, checkpoint: Path):
    (checkpoint / CONFIG_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(DdpmError, match=r"config\.json"):
        ddpm.load(checkpoint)


# ---- timesteps -------------------------------------------------------------------------------------------------------


FOUND = TunedTimesteps((1.0, 4.5, 12.0), 1.0, "FID", 1.0, 2.0, "uniform", 64, 640, 0, "digits", 10)
ENTRIES: dict[str, Change] = {
    "levels": lambda entry: entry.update(levels=[]),
    "levels.0": lambda entry: entry.update(levels=["1", 4.5, 12.0]),
    "levels.1": lambda entry: entry.update(levels=[1, math.nan, 12.0]),
    "levels.2": lambda entry: entry.update(levels=[1, 2, 10**9]),
    "levels.0 ": lambda entry: entry.update(levels=[-1, 2, 3]),
    "are 2": lambda entry: entry.update(levels=[1, 2]),
    "do not rise": lambda entry: entry.update(levels=[3, 2, 1]),
    "eta": lambda entry: entry.update(eta=-1.0),
    "eta ": lambda entry: entry.update(eta=math.inf),
    "criterion": lambda entry: entry.update(criterion=3),
    "value": lambda entry: entry.update(value="1"),
    "pictures": lambda entry: entry.update(pictures=-1),
    "seed": lambda entry: entry.update(seed=2**64),
    "trials": lambda entry: entry.pop("trials"),
}


@pytest.mark.parametrize("field", ENTRIES)
def test_each_field_of_tuned_timesteps_is_checked(field: str, tmp_path: Path):
    model = stored_model(tmp_path / "model")
    add_timesteps(model, "ddim", FOUND)
    assert tuned_for(model, "ddim", 3) is not None
    edited(TIMESTEPS.path(model), lambda table: ENTRIES[field](table["samplers"]["ddim"]["3"]))
    with pytest.raises(DamagedFile, match=rf"levels-averaged\.json'.*{field.strip()}.*`ddpm tune timesteps"):
        tuned_for(model, "ddim", 3)


@pytest.mark.parametrize("samplers", [None, [], {"ddim": []}, {"ddim": {"x": {}}}, {"ddim": {"3": 4}}])
def test_another_layout_of_timesteps_is_damage(samplers: object, tmp_path: Path):
    model = stored_model(tmp_path / "model")
    add_timesteps(model, "ddim", FOUND)
    edited(TIMESTEPS.path(model), lambda table: table.update(samplers=samplers))
    with pytest.raises(DamagedFile, match=r"levels-averaged\.json"):
        tuned_for(model, "ddim", 3)


# ---- variances -------------------------------------------------------------------------------------------------------


TABLES: dict[str, Change] = {
    "squared_error": lambda table: table.update(squared_error=[0.0]),
    "squared_error.1": lambda table: table["squared_error"].__setitem__(1, -1.0),
    "squared_error.1 ": lambda table: table["squared_error"].__setitem__(1, None),
    "squared_error.2": lambda table: table["squared_error"].__setitem__(2, math.nan),
    "a value for each level": lambda table: table["squared_error"].append(0.5),
    "a value for each level ": lambda table: [table[name].append(0.5) for name in LENGTHS],
    "decoder_log_variance.1": lambda table: table["decoder_log_variance"].__setitem__(1, 1e300),
    "decoder_nats.1": lambda table: table["decoder_nats"].__setitem__(1, "0"),
    "second_moment": lambda table: table.update(second_moment=math.inf),
    "image_hashes.0": lambda table: table.update(image_hashes=[1]),
    "seed": lambda table: table.update(seed=0.5),
    "calls": lambda table: table.update(calls=-5),
    "data": lambda table: table.pop("data"),
}
LENGTHS = ("squared_error", "decoder_log_variance", "decoder_nats")


@pytest.mark.parametrize("field", TABLES)
def test_each_field_of_measured_variances_is_checked(field: str, tmp_path: Path):
    model = stored_model(tmp_path / "model")
    measured = Measured(*(np.full(13, value) for value in (0.1, -1.0, 1.0)), second_moment=1.0)
    write_variances(model, Variances(measured, "digits", "f" * 64, ("0" * 16,), 0, 10))
    assert denoiser_for(model, "optimal").measured is not None
    edited(VARIANCES.path(model), TABLES[field])
    with pytest.raises(DamagedFile, match=rf"variance-averaged\.json'.*{field.strip()}.*`ddpm tune variance"):
        denoiser_for(model, "optimal")


# ---- codec data ------------------------------------------------------------------------------------------------------


CODECS: dict[str, Change] = {
    "levels": lambda table: table.update(levels=[1000]),
    "levels.0": lambda table: table["levels"].__setitem__(0, 10**9),
    "levels.1": lambda table: table["levels"].__setitem__(1, 883.0),
    "do not fall": lambda table: table["levels"].__setitem__(1, 1000),
    "first level": lambda table: table["levels"].__setitem__(0, 999),
    "an error and index bits": lambda table: table["errors"].pop(),
    "errors.0": lambda table: table["errors"].__setitem__(0, -1.0),
    "errors.1": lambda table: table["errors"].__setitem__(1, math.nan),
    "bits.0": lambda table: table["bits"].__setitem__(0, 10**9),
    "index bits": lambda table: table["bits"].__setitem__(0, 1),
    "bits.1": lambda table: table["bits"].__setitem__(1, 0),
    "model of pixels": lambda table: table["causal"].pop(),
    "model of pixels ": lambda table: table["causal"][0]["first"].pop(),
    "model of pixels  ": lambda table: table["causal"][1]["second"][0].pop(),
    "model of pixels   ": lambda table: table["causal"][2].update(last=[], last_bias=[], skip=[]),
    "causal.0.first.0.0": lambda table: table["causal"][0]["first"][0].__setitem__(0, 2**15),
    "causal.0.last_bias.0": lambda table: table["causal"][0]["last_bias"].__setitem__(0, 2**53),
    "causal.0.skip": lambda table: table["causal"][0].update(skip=3),
    "causal.2.second_bias": lambda table: table["causal"][2].pop("second_bias"),
    "image_hashes": lambda table: table.update(image_hashes={}),
}


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("linear") / "linear"
    shutil.copytree(PACKAGED, folder)
    return folder, json.loads((folder / "codec-averaged.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("field", CODECS)
def test_each_field_of_codec_data_is_checked(field: str, packaged: tuple[Path, dict[str, Any]]):
    folder, table = packaged
    model = ddpm.load(folder)
    CODEC.path(model).write_text(json.dumps(table), encoding="utf-8")
    edited(CODEC.path(model), CODECS[field])
    with pytest.raises(DamagedFile, match=rf"codec-averaged\.json'.*{field.strip()}.*`ddpm tune codec"):
        make_codec(model, read_codec_data(model))
    with pytest.raises(DamagedFile, match=r"codec-averaged\.json"):
        ddpm.compress(model, np.zeros((3, 32, 32), np.uint8))


# ---- tensors in files ------------------------------------------------------------------------------------------------


def test_a_pickled_file_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path):
    """PyTorch itself inflates such records: 100 MB here become 100 kB on disk."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(10**6)}, buffer)
    (tmp_path / "plain.bin").write_bytes(buffer.getvalue())
    assert read_pickled(tmp_path / "plain.bin")["a"].shape == (10**6,)
    with (
        zipfile.ZipFile(buffer) as source,
        zipfile.ZipFile(tmp_path / "packed.bin", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    with pytest.raises(DamagedFile, match=r"packed\.bin"):
        read_pickled(tmp_path / "packed.bin")
