"""Small sound files of every kind that ddpm reads, and what reads them."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

import ddpm
from damage import Target
from ddpm.codec.codec_data import make_codec, read_codec_data
from ddpm.conversion.weights import _their_name as their_name
from ddpm.diffusion.optimal_variance import Measured
from ddpm.metrics.statistics import load_statistics, save_statistics, statistics_of
from ddpm.model.checkpoint import PACKAGED, checkpoints, read_config, read_training, read_weights
from ddpm.model.model import Model, build_network
from ddpm.model.recipe import make_recipe
from ddpm.model.timesteps import TunedTimesteps, add_timesteps, tuned_for
from ddpm.model.variances import Variances, denoiser_for, write_variances
from ddpm.training.learner import Learner
from ddpm.training.loop import train
from ddpm.training.run_folder import RunFolder
from ddpm.training.training_state import check_state
from scorings import RECIPE, image_set, merged, pixels, stored_model

IMAGES = pixels(4, (3, 8, 8))
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "tif": "TIFF", "ppm": "PPM"}
STEPS = {"sampler": "ddim", "steps": 2}


def targets(folder: Path) -> list[Target]:
    """Write all sound files below a folder, and say what is in it."""
    return [*_sources(folder), *_models(folder), *_runs(folder), *_results(folder), *_foreign(folder)]


def _looked_at(source: str) -> object:
    ddpm.inspect(source)
    return ddpm.images(source, size=8).array().tobytes()


def _sources(folder: Path) -> list[Target]:
    found = []

    def add(name: str, file: str, write: Callable[[Path], object], source: str = "", **options: Any) -> None:
        (folder / name).mkdir(parents=True)
        write(folder / name)
        found.append(Target(name, file, lambda work: _looked_at(f"{work}{source}"), **options))

    for suffix, format in FORMATS.items():
        add(suffix, f"0.{suffix}", lambda at, s=suffix, f=format: [_image(k).save(at / f"{k}.{s}", f) for k in (0, 1)])
    add("npy", "x.npy", lambda at: np.save(at / "x.npy", IMAGES), "/x.npy")
    for name, inside in (("npz", ""), ("npz-inside", "images.npy"), ("npz-labels", "labels.npy")):
        add(name, "x.npz", _write_npz, "/x.npz", inside=inside)
    for name, inside in (("zip", ""), ("zip-labels", "dataset.json"), ("zip-image", "0.png")):
        add(name, "x.zip", _write_zip, "/x.zip", inside=inside, values=name == "zip-labels")
    for name, file in (("idx", "images-idx3"), ("idx-labels", "labels-idx1")):
        for end, inside in (("", ""), ("-inside", "gzip")):
            add(name + end, f"train-{file}-ubyte.gz", _write_idx, ":train", inside=inside)
    record = np.random.default_rng(0).integers(0, 10, 2 * 3073, np.uint8).tobytes()
    add("cifar", "data_batch_1.bin", lambda at: (at / "data_batch_1.bin").write_bytes(record), ":train")
    add("folder-labels", "dataset.json", _write_labelled, values=True)
    return found


def _write_npz(folder: Path) -> None:
    np.savez(folder / "x.npz", images=IMAGES, labels=np.arange(4) % 2)


def _image(number: int) -> Image.Image:
    return Image.fromarray(IMAGES[number].transpose(1, 2, 0))


def _png(number: int) -> bytes:
    stream = io.BytesIO()
    _image(number).save(stream, "PNG")
    return stream.getvalue()


def _labels() -> str:
    return json.dumps({"labels": [[f"{k}.png", k % 2] for k in range(4)]})


def _write_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        for k in range(4):
            archive.writestr(f"{k}.png", _png(k))
        archive.writestr("dataset.json", _labels())


def _write_labelled(folder: Path) -> None:
    for k in range(4):
        (folder / f"{k}.png").write_bytes(_png(k))
    (folder / "dataset.json").write_text(_labels())


def _write_idx(folder: Path) -> None:
    images, labels = IMAGES[:, 0], np.arange(4, dtype=np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        (folder / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))


def _models(folder: Path) -> list[Target]:
    model = stored_model(folder / "config")
    measured = Measured(*(np.full(13, value) for value in (0.1, -1.0, 1.0)), second_moment=1.0)
    write_variances(model, Variances(measured, "digits", "f" * 64, ("0" * 16,), 0, 10))
    add_timesteps(model, "ddim", TunedTimesteps((1.0, 12.0), 1.0, "FID", 1.0, 2.0, "uniform", 64, 640, 0, "digits", 10))
    linear = ddpm.load(PACKAGED, device="cpu")
    for name in ("config-values", "weights", "weights-hashed", "variances", "timesteps", "variances-bytes"):
        shutil.copytree(folder / "config", folder / name)
    for name in ("codec", "codec-bytes"):
        shutil.copytree(PACKAGED, folder / name)

    def loaded(work: Path) -> object:
        ddpm.show(work)
        return [tensor.numpy().tobytes() for tensor in ddpm.load(work, device="cpu").network.state_dict().values()]

    def at(work: Path, of: Model = model) -> Model:
        return replace(of, source=str(work))

    def variances(work: Path) -> object:
        return denoiser_for(at(work), "optimal").measured.squared_error.tolist()

    def timesteps(work: Path) -> object:
        return ddpm.sample(at(work), seeds=[0], sampler="ddim", steps=2, progress=False), tuned_for(at(work), "ddim", 2)

    def codec(work: Path) -> object:
        made = read_codec_data(at(work, linear))
        return None if made is None else make_codec(at(work, linear), made).fingerprint

    return [
        Target("config", "config.json", loaded, right=loaded(folder / "config")),
        Target("config-values", "config.json", loaded, values=True),
        Target("weights", "model.safetensors", loaded, right=loaded(folder / "config")),
        Target("weights-hashed", "model.safetensors", loaded, rehash=True),
        Target("variances", "variance-averaged.json", variances, values=True),
        Target("variances-bytes", "variance-averaged.json", variances, right=variances(folder / "config")),
        Target("timesteps", "levels-averaged.json", timesteps, values=True),
        Target("codec", "codec-averaged.json", codec, values=True, cheap=False),
        Target("codec-bytes", "codec-averaged.json", codec, right=codec(folder / "codec"), cheap=False),
    ]


def _runs(folder: Path) -> list[Target]:
    recipe = make_recipe(merged(RECIPE, {"train_images": 16, "training": {"log_images": 8}}))
    images = image_set(pixels(16, (1, 4, 4)))
    train(recipe, images, folder / "training")
    for name in ("run-recipe", "metrics"):
        shutil.copytree(folder / "training", folder / name)
    state = checkpoints(folder / "training")[-1].relative_to(folder / "training")

    def restored(work: Path) -> object:
        config = read_config(work / state)
        learner = Learner(recipe, torch.device("cpu"))
        found = read_training(work / state, config)
        check_state(found, config, learner, work / state / "training.pt")
        learner.restore({kind: read_weights(work / state, config, kind) for kind in learner.weights()}, found)
        return learner.images_seen

    def checked(work: Path) -> object:
        run = RunFolder(work)
        run.check(recipe, images)
        run.forget_after(8)
        run.plot_loss(run.metrics.lines())
        return None

    return [
        Target("training", f"{state}/training.pt", restored, rehash=True, cheap=False),
        Target("run-recipe", "recipe.json", checked, values=True, cheap=False),
        Target("metrics", "metrics.jsonl", checked, cheap=False),
    ]


def _results(folder: Path) -> list[Target]:
    model = stored_model(folder / "samples-model")
    linear = ddpm.load(PACKAGED, device="cpu")
    statistics = statistics_of(np.random.default_rng(0).standard_normal((40, 5)), source="digits")
    for name in ("statistics", "statistics-inside", "statistics-count", "statistics-format"):
        save_statistics(folder / name / "x.npz", statistics)
    for name, out in (
        ("samples", "x.npz"),
        ("samples-inside", "x.npz"),
        ("samples-folder", "x"),
        ("samples-image", "x"),
    ):
        ddpm.save_samples(model, folder / name / out, seeds=range(2), progress=False, **STEPS)
    for name in ("dpc", "dpc-shown"):
        (folder / name).mkdir()
        (folder / name / "x.dpc").write_bytes(ddpm.compress(linear, IMAGES[0], progress=False))

    def read(work: Path) -> object:
        found = load_statistics(work / "x.npz")
        found.check_features(5)
        return found.mean.tobytes(), found.covariance.tobytes()

    def resumed(out: str) -> Callable[[Path], object]:
        seeds = range(2 if out.endswith(".npz") else 4)
        return lambda work: ddpm.save_samples(model, work / out, seeds=seeds, progress=False, **STEPS) and None

    def decompressed(work: Path) -> object:
        return ddpm.decompress(linear, (work / "x.dpc").read_bytes()).shape

    drawn = next((folder / "samples-folder" / "x").glob("*.json")).name
    return [
        Target("statistics", "x.npz", read, right=read(folder / "statistics")),
        Target("statistics-inside", "x.npz", read, inside="sigma.npy"),
        Target("statistics-count", "x.npz", read, inside="count.npy"),
        Target("statistics-format", "x.npz", read, inside="source.npy"),
        Target("samples", "x.npz", resumed("x.npz"), cheap=False),
        Target("samples-inside", "x.npz", resumed("x.npz"), inside="arr_0.npy"),
        Target("samples-folder", f"x/{drawn}", resumed("x"), values=True),
        Target("samples-image", "x/000000.png", resumed("x"), cheap=False),
        Target("dpc-shown", "x.dpc", lambda work: ddpm.show(work / "x.dpc"), cheap=False),
        Target("dpc", "x.dpc", decompressed, cheap=False),
    ]


def _foreign(folder: Path) -> list[Target]:
    network = {"channels": 8, "groups": 4, "multipliers": [1], "blocks": 1, "attention_levels": [], "classes": 0}
    recipe = make_recipe({"image": {"channels": 3, "height": 8, "width": 8}, "network": network})
    state = {their_name(name): tensor for name, tensor in build_network(recipe).state_dict().items()}
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    safe, pickled = (f"diffusion_pytorch_model{end}" for end in (".safetensors", ".bin"))
    targets = [
        Target("unet", "unet/config.json", _converted, values=True),
        Target("unet-bytes", "unet/config.json", _converted),
        Target("scheduler", "scheduler/scheduler_config.json", _converted, values=True),
        Target("index", "model_index.json", _converted, values=True),
        Target("safetensors", f"unet/{safe}", _converted, cheap=False),
        Target("bin", f"unet/{pickled}", _converted, cheap=False),
    ]
    for target in targets:
        root = folder / target.name
        (root / "unet").mkdir(parents=True)
        (root / "scheduler").mkdir()
        (root / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
        (root / "unet" / "config.json").write_text(json.dumps(UNET))
        (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
        if target.name == "bin":
            torch.save(state, root / "unet" / pickled)
        else:
            (root / "unet" / safe).write_bytes(safetensors.torch.save(state))
    (folder / "recipe").mkdir()
    shutil.copy(Path(ddpm.__file__).parent / "recipes" / "digits.toml", folder / "recipe" / "x.toml")
    return [*targets, Target("recipe", "x.toml", lambda work: ddpm.recipe(work / "x.toml"))]


UNET = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "block_out_channels": [8],
    "layers_per_block": 1,
    "downsample_padding": 0,
    "attention_head_dim": None,
    "norm_num_groups": 4,
    "norm_eps": 1e-6,
}
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 100,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "variance_type": "fixed_large",
    "clip_sample": True,
}


def _converted(work: Path) -> object:
    return ddpm.load(ddpm.convert(work, work / "ours", progress=False)).recipe
