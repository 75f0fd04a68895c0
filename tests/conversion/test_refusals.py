"""What `ddpm convert` cannot turn into the same function it refuses in one sentence, and leaves nothing behind."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler, UNet2DModel
from diffusers_nets import PAPER, TINY, redrawn, saved
from safetensors.torch import load_file, save_file

from ddpm.conversion import convert, scheduler, unet2d
from ddpm.errors import DamagedFile, DdpmError, InputError

CONFIG, WEIGHTS = "unet/config.json", "unet/diffusion_pytorch_model.safetensors"
SCHEDULER, INDEX = "scheduler/scheduler_config.json", "model_index.json"
ABSENT = object()
NOTHING: list[str] = []

NETWORKS: list[tuple[str, Any]] = [
    ("freq_shift", 0),
    ("freq_shift", ABSENT),
    ("flip_sin_to_cos", True),
    ("flip_sin_to_cos", ABSENT),
    ("norm_eps", 1e-5),
    ("norm_eps", ABSENT),
    ("downsample_padding", 1),
    ("downsample_padding", ABSENT),
    ("attention_head_dim", 8),
    ("attention_head_dim", 20),
    ("attention_head_dim", 64),
    ("attention_head_dim", ABSENT),
    ("attn_norm_num_groups", 4),
    ("norm_num_groups", None),
    ("norm_num_groups", 0),
    ("center_input_sample", True),
    ("time_embedding_type", "fourier"),
    ("time_embedding_type", "learned"),
    ("time_embedding_dim", 128),
    ("mid_block_type", None),
    ("mid_block_scale_factor", 1.4142135),
    ("add_attention", False),
    ("downsample_type", "resnet"),
    ("upsample_type", "resnet"),
    ("act_fn", "gelu"),
    ("resnet_time_scale_shift", "scale_shift"),
    ("class_embed_type", "timestep"),
    ("class_embed_type", "identity"),
    ("num_class_embeds", 0),
    ("in_channels", 5),
    ("out_channels", 6),
    ("layers_per_block", 0),
    ("layers_per_block", [2, 2]),
    ("block_out_channels", [32, 48]),
    ("block_out_channels", []),
    ("block_out_channels", "16"),
    ("down_block_types", ["DownBlock2D", "SkipDownBlock2D"]),
    ("down_block_types", ["DownBlock2D"]),
    ("down_block_types", ABSENT),
    ("up_block_types", ["UpBlock2D", "UpBlock2D"]),
    ("up_block_types", ["UpBlock2D", "AttnUpBlock2D"]),
    ("up_block_types", ["AttnUpBlock2D"]),
    ("up_block_types", ["AttnUpBlock2D", "ResnetUpsampleBlock2D"]),
    ("sample_size", None),
    ("sample_size", [8]),
    ("sample_size", "8"),
    ("dropout", 1.5),
    ("_class_name", "UNet2DConditionModel"),
    ("_class_name", ABSENT),
    ("cross_attention_dim", 768),
]
SCHEDULERS: list[tuple[str, Any]] = [
    ("beta_schedule", "sigmoid"),
    ("beta_schedule", "laplace"),
    ("trained_betas", [0.1, 0.2]),
    ("prediction_type", "flow_prediction"),
    ("variance_type", "learned"),
    ("variance_type", "learned_range"),
    ("clip_sample", False),
    ("clip_sample_range", 2.0),
    ("thresholding", True),
    ("rescale_betas_zero_snr", True),
    ("num_train_timesteps", 0),
    ("beta_start", 0.5),
    ("_class_name", "EulerDiscreteScheduler"),
    ("_class_name", ABSENT),
    ("algorithm_type", "dpmsolver++"),
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(redrawn(TINY), tmp_path_factory.mktemp("published") / "model")


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(published, tmp_path / "theirs")


def change(path: Path, name: str, value: Any) -> None:
    table = json.loads(path.read_text())
    table.pop(name, None)
    path.write_text(json.dumps(table if value is ABSENT else table | {name: value}))


def refused(folder: Path, kind: type[DdpmError] = InputError, **options: Any) -> str:
    """The one sentence; nothing is written."""
    dst = folder.parent / "ours"
    with pytest.raises(kind) as caught:
        convert(folder, dst, **options)
    text = str(caught.value)
    assert [entry.name for entry in folder.parent.iterdir() if entry != folder] == NOTHING
    assert text.endswith(".")
    assert "\n" not in text
    return text


def test_the_folder_as_it_is_converts(folder: Path):
    assert convert(folder, folder.parent / "ours") == folder.parent / "ours"


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), NETWORKS)
def test_another_network_is_refused_by_option_and_value(name: str, value: Any, folder: Path):
    change(folder / CONFIG, name, value)
    sentence = refused(folder)
    shown = unet2d.DEFAULTS.get(name) if value is ABSENT else value
    assert name in sentence
    assert json.dumps(shown) in sentence or str(shown) in sentence


@pytest.mark.parametrize(("name", "value"), SCHEDULERS)
def test_another_process_is_refused_by_option_and_value(name: str, value: Any, folder: Path):
    change(folder / SCHEDULER, name, value)
    sentence = refused(folder)
    assert name in sentence
    assert (json.dumps(None) if value is ABSENT else json.dumps(value)) in sentence or name == "beta_start"


def test_every_required_option_has_a_refusal_here():
    assert set(unet2d.REQUIRED) <= {name for name, _ in NETWORKS}
    assert set(scheduler.REQUIRED) <= {name for name, _ in SCHEDULERS}


def test_null_options_that_nobody_knows_and_notes_are_passed_over(folder: Path):
    change(folder / CONFIG, "something_new", None)
    change(folder / CONFIG, "_name_or_path", "anywhere")
    convert(folder, folder.parent / "ours")


def of(kind: type) -> dict[str, Any]:
    """The options of a class of diffusers with their defaults."""
    return {name: p.default for name, p in inspect.signature(kind).parameters.items()}


def test_defaults_of_the_network_are_those_of_diffusers():
    known = unet2d.DEFAULTS | dict.fromkeys(unet2d.IGNORED - unet2d.AVERAGE)
    assert known == of(UNet2DModel)
    assert set(PAPER) <= set(known)


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler, PNDMScheduler])
def test_defaults_of_the_schedulers_are_those_of_diffusers(kind: type):
    options = of(kind)
    assert set(options) <= set(scheduler.DEFAULTS) | scheduler.IGNORED
    assert all(options.get(name, value) == value for name, value in scheduler.DEFAULTS.items())


# ---- folders and files ----------------------------------------------------------------------------------------------


def cut(file: str, keep: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(len(content) * keep)])

    return spoil


def as_bin(folder: Path) -> Path:
    path = (folder / WEIGHTS).with_suffix(".bin")
    torch.save(load_file(folder / WEIGHTS), path)
    (folder / WEIGHTS).unlink()
    return path


def cut_bin(keep: float) -> Callable[[Path], None]:
    return lambda folder: cut(str(as_bin(folder).relative_to(folder)), keep)(folder)


def with_code(folder: Path) -> None:
    torch.save({"conv_in.weight": print}, as_bin(folder))


def with_list(file: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / file).write_text("[1]")

    return spoil


BIN = "diffusion_pytorch_model.bin"
DAMAGED: dict[str, tuple[Callable[[Path], None], str]] = {
    **{f"weights cut to {keep}": (cut(WEIGHTS, keep), Path(WEIGHTS).name) for keep in (0, 0.0001, 0.01, 0.5, 0.999)},
    **{f"pickle cut to {keep}": (cut_bin(keep), BIN) for keep in (0, 0.0001, 0.01, 0.5, 0.999)},
    "pickle with code": (with_code, BIN),
    "network's options cut": (cut(CONFIG, 0.5), "unet/config.json"),
    "network's options empty": (cut(CONFIG, 0), "unet/config.json"),
    "network's options a list": (with_list(CONFIG), "unet/config.json"),
    "scheduler's options cut": (cut(SCHEDULER, 0.5), "scheduler_config.json"),
    "index cut": (cut(INDEX, 0.5), "model_index.json"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_named(damage: str, folder: Path):
    spoil, name = DAMAGED[damage]
    spoil(folder)
    assert name in refused(folder, DamagedFile)


def missing(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    del state["mid_block.attentions.0.to_q.weight"], state["conv_out.bias"]
    save_file(state, folder / WEIGHTS)


def left_over(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS) | {"adapter.weight": torch.ones(3)}, folder / WEIGHTS)


def twice(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    old = {"mid_block.attentions.0.query.bias": state["mid_block.attentions.0.to_q.bias"] + 1}
    save_file(state | old, folder / WEIGHTS)


def reshaped(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS) | {"conv_in.weight": torch.ones(16, 4, 3, 3)}, folder / WEIGHTS)


def whole_numbers(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS) | {"conv_out.bias": torch.ones(3, dtype=torch.int8)}, folder / WEIGHTS)


def labels_unsaid(folder: Path) -> None:
    change(folder / CONFIG, "num_class_embeds", 4)


WRONG: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "a missing tensor": (missing, ["mid_block.attentions.0.to_q.weight", "1 more"]),
    "a tensor left over": (left_over, ["adapter.weight"]),
    "a tensor under both names": (twice, ["mid_block.attentions.0.query.bias"]),
    "a tensor of another shape": (reshaped, ["conv_in.weight", "(16, 4, 3, 3)", "(16, 3, 3, 3)"]),
    "whole numbers for weights": (whole_numbers, ["conv_out.bias", "torch.int8"]),
    "class labels without weights": (labels_unsaid, ["class_embedding.weight"]),
    "a pickle of something else": (lambda folder: torch.save([1, 2], as_bin(folder)), [BIN]),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), ["unet", BIN]),
    "no network": (lambda folder: shutil.rmtree(folder / "unet"), ["theirs", "config.json"]),
    "another pipeline": (lambda folder: change(folder / INDEX, "_class_name", "LDMPipeline"), ["LDMPipeline"]),
    "a size that does not divide": (lambda folder: change(folder / CONFIG, "sample_size", 9), ["9x9", "8x8"]),
    "groups that do not divide": (lambda folder: change(folder / CONFIG, "norm_num_groups", 5), ["5", "16"]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_folders_that_do_not_fit_are_refused_by_name(wrong: str, folder: Path):
    spoil, names = WRONG[wrong]
    spoil(folder)
    sentence = refused(folder)
    assert [name for name in names if name not in sentence] == NOTHING


def test_part_of_another_pipeline_is_refused(folder: Path):
    change(folder / INDEX, "_class_name", "LDMPipeline")
    with pytest.raises(InputError, match="LDMPipeline"):
        convert(folder / "unet", folder.parent / "ours")


@pytest.mark.parametrize(("said", "size", "name"), [(None, None, "--size"), (8, "16", "8x8"), (None, "x", "size 'x'")])
def test_size_is_asked_for_when_and_only_when_the_network_leaves_it_open(
    said: int | None, size: str | None, name: str, folder: Path
):
    change(folder / CONFIG, "sample_size", said)
    assert name in refused(folder, size=size)


def test_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere"):
        convert(tmp_path / "nowhere", tmp_path / "ours")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_existing_destination_is_left_alone(make: Callable[[Path], None], folder: Path, tmp_path: Path):
    make(tmp_path / "taken")
    with pytest.raises(InputError, match="taken"):
        convert(folder, tmp_path / "taken")
    assert (tmp_path / "taken").is_file() or list((tmp_path / "taken").iterdir()) == NOTHING


def test_destination_below_a_file_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"):
        convert(folder, tmp_path / "file" / "ours")


# ---- numbers that are none, and numbers beyond all ------------------------------------------------------------------


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_no_numbers_are_refused_with_the_first_tensor_and_how_many(
    dtype: torch.dtype, number: float, folder: Path
):
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    tensors["conv_in.weight"].view(-1)[:5] = number
    save_file(tensors, folder / WEIGHTS)
    text = refused(folder, InputError)
    assert "5 of the 432 values of conv_in.weight are NaN or infinite" in text


def test_weights_that_are_infinite_in_single_precision_are_refused(folder: Path):
    tensors = {name: tensor.double() for name, tensor in load_file(folder / WEIGHTS).items()}
    tensors["conv_in.weight"].view(-1)[0] = 1e300
    save_file(tensors, folder / WEIGHTS)
    assert "1 of the 432 values of conv_in.weight" in refused(folder, InputError)


BEYOND: list[tuple[str, str, Any]] = [
    (SCHEDULER, "num_train_timesteps", 10**8),
    (SCHEDULER, "num_train_timesteps", 10**4000),
    (CONFIG, "layers_per_block", 10**9),
    (CONFIG, "block_out_channels", [60_000, 60_000]),
    (CONFIG, "block_out_channels", [16] * 10**4),
    (CONFIG, "norm_num_groups", 10**9),
    (CONFIG, "num_class_embeds", 10**12),
    (CONFIG, "sample_size", 10**9),
    (CONFIG, "sample_size", [10**4000, 1]),
]


@pytest.mark.parametrize(
    ("file", "name", "value"), BEYOND, ids=[f"{name}-{k}" for k, (_, name, _) in enumerate(BEYOND)]
)
def test_numbers_that_no_machine_holds_are_refused_before_anything_is_built(
    file: str, name: str, value: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ddpm.conversion.build_network", lambda _: pytest.fail("built"))
    change(folder / file, name, value)
    assert len(refused(folder, DdpmError)) < 800
