"""Record what the product computes, so that two commits can be compared on one machine.

    PYTHONPATH=src python tools/behaviour.py record before.json      in a checkout (a `git worktree`) of one commit
    PYTHONPATH=src python tools/behaviour.py record after.json       in a checkout of the other
    python tools/behaviour.py compare before.json after.json         prints the names that differ, exits 1 if any does

`--only SUBSTRING` takes only the records whose names hold it. Models and golden files are those of the checkout whose
ddpm is imported (printed first). A value is a number, a list of them, or the SHA-256 of arrays or bytes; a record that
fails is "error: Type: message", and `record` exits 1. Everything runs on the CPU, on one thread, in a temporary folder
that is also the working directory, so that no value holds a path.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", MPLBACKEND="Agg")

import argparse
import functools
import hashlib
import itertools
import json
import shutil
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import ddpm

# Below the front door, to be adapted after a move.
from ddpm.base.noise import kept, normals, stream_keys
from ddpm.base.seeding import generator
from ddpm.data.stream import batches
from ddpm.diffusion.schedule import BETAS, make_schedule
from ddpm.evaluation.full_sum import full_sum
from ddpm.evaluation.rate_plots import RATE_FILES, write_rate_distortion
from ddpm.evaluation.result_files import ResultFiles
from ddpm.generation.draw import draw_progressively, labels_for, plan_for
from ddpm.likelihood.ode_bound import ode_bound
from ddpm.likelihood.rate_distortion import estimate_rate_distortion
from ddpm.model.scoring import scoring_for
from ddpm.samplers.plan import SAMPLERS, Sampling
from ddpm.samplers.spacing import SPACINGS
from ddpm.samplers.trajectory import trajectory

ROOT = Path(ddpm.__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "codec" / "golden"
RECORDS: dict[str, Callable[[], Any]] = {"names": lambda: sha(list(SAMPLERS), list(SPACINGS), list(BETAS))}


def sha(*parts: Any) -> str:
    """Of arrays and tensors (with type and shape), bytes, and anything else as JSON."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray | torch.Tensor):
            part = f"{part.dtype}{tuple(part.shape)}".encode() + np.ascontiguousarray(part).tobytes()
        part = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()


def flat(name: str, value: Any) -> dict[str, Any]:
    """A record's values by name: dataclasses (without their prose) and dictionaries taken apart, the rest hashed."""
    if is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        value = {part: one for part, one in parts.items() if not isinstance(one, str)}
    if isinstance(value, dict):
        return {key: one for part in value for key, one in flat(f"{name}: {part}", value[part]).items()}
    value = value if isinstance(value, tuple | str | int | float | list) else (value,)
    return {name: sha(*value) if isinstance(value, tuple) else value}


def renamed(table: dict[str, Any]) -> Any:
    """A recipe with its keys as they were: the EMA's were called average_... before."""
    return json.loads(json.dumps(table).replace('"ema_', '"average_'))


# Training: settings as in `--set`, in JSON.
TINY = """data="digits:train[0:512]" device="cpu" batch_size=32 learning_rate=2e-3 network.channels=16 train_images=640
    training.warmup_images=64 training.log_images=64 training.sample_images=320 training.checkpoint_images=320"""
CLASSES = "hybrid, range, importance, classes, flips, dropout"
FLAVOURS = {
    "plain": "",
    CLASSES: """objective.loss="hybrid" process.variance="range" objective.levels="importance" network.classes=10
        training.flip=true training.label_dropout=0.1 network.dropout=0.1""",
    "mean, bound, learned": 'objective.prediction="mean" objective.loss="bound" process.variance="learned"',
    "v, cosine": 'objective.prediction="v" process.schedule="cosine"',
    "x0, quad, no ramp": 'objective.prediction="x0" process.schedule="quad" training.ema_ramp=false',
    "linear corrected, space to depth": 'network.linear="corrected" network.space_to_depth=2',
    "bfloat16": 'precision="bfloat16"',
    "validation": 'validation="digits:test[0:64]" training.validate_images=320 training.validation_calls=256',
}


def trained(out: str, flavour: str, changes: str) -> Path:
    table: dict[str, Any] = {}
    for key, value in (setting.split("=") for setting in f"{TINY} {FLAVOURS[flavour]} {changes}".split()):
        *where, last = key.split(".")
        (table.setdefault(where[0], {}) if where else table)[last] = json.loads(value)
    return Path(ddpm.train(ddpm.recipe("digits", **table), out=out))


def training(flavour: str, *lengths: int) -> dict[str, Any]:
    """The same folder is trained up to each length; weights as they lie in the file."""
    for length in lengths:
        run = trained(f"{flavour}, {len(lengths)}", flavour, f"train_images={length}")
    newest = max((run / "checkpoints").iterdir())
    weights = sorted(safetensors.numpy.load_file(newest / "model.safetensors").items())
    return {
        "averaged weights": tuple(part for pair in weights if pair[0].startswith("averaged/") for part in pair),
        "raw weights": tuple(part for pair in weights if pair[0].startswith("raw/") for part in pair),
        "losses": [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()],
        "validation": tuple(file.read_bytes() for file in run.glob("validation.jsonl")),
        "sample grids": tuple(np.asarray(Image.open(file)) for file in sorted((run / "samples").glob("*.png"))),
        "recipe.json, config.json": ((run / "recipe.json").read_bytes(), (newest / "config.json").read_bytes()),
    }


RECORDS |= {f"training/{flavour}": partial(training, flavour, 640) for flavour in FLAVOURS}
RECORDS |= {f"training/{key}, stopped, resumed": partial(training, key, 320, 640) for key in ("plain", CLASSES)}
for name in ("cifar10", "compress", "digits", "fashion-mnist", "lsun-bedroom-256", "small", "standard"):
    RECORDS[f"recipe/{name}"] = lambda name=name: sha(renamed(ddpm.recipe(name).model_dump(mode="json")))


@functools.cache
def model(name: str) -> Any:
    """models/fashion-mnist, "linear"; or trained here: "digits" (tuned), "digits, raw", "classes" (with a codec)."""
    if name in ("fashion-mnist", "linear"):
        return ddpm.load(ROOT / "models" / name if name == "fashion-mnist" else name, device="cpu")
    longer = "train_images=6400 batch_size=64 training.sample_images=6400"
    run = trained(f"run of {name.split(',')[0]}", CLASSES if name == "classes" else "plain", longer)
    found = ddpm.load(run, weights="raw" if name == "digits, raw" else "ema", device="cpu")
    if name == "digits":
        ddpm.tune_variance(found, calls=3000)
    if name == "classes":
        ddpm.tune_codec(found, ddpm.images("digits:train[0:64]"), fit_steps=20)
    return found


def drawn(name: str, count: int = 64, **how: Any) -> Any:
    return torch.from_numpy(ddpm.sample(model(name), seeds=range(count), **how))


def states(found: Any, seeds: range, **how: Any) -> tuple[Any, ...]:
    plan, labels = plan_for(found, Sampling(**how)), labels_for(found, seeds)
    chain = trajectory(found.denoiser, found.geometry, seeds, plan, labels=labels, device=found.device)
    return tuple(part for s in chain for part in (s.level, s.start, s.x, s.x0))


fashion = partial(drawn, "fashion-mnist")
for name in ("ancestral", "ddim", "heun", "dpm++", "dpm++sde", "unipc"):
    RECORDS[f"image/{name}, 8 steps"] = partial(fashion, sampler=name, steps=8)
    RECORDS[f"state/{name}, 8 steps"] = lambda s=name: states(model("fashion-mnist"), range(8), sampler=s, steps=8)
for name in ("uniform", "quadratic", "log-snr", "karras", "tuned"):
    RECORDS[f"image/spacing {name}"] = partial(fashion, spacing=name, steps=8 if name == "tuned" else 7)
RECORDS |= {f"image/threshold {t}": partial(fashion, threshold=t, steps=8) for t in ("static", "dynamic", "none")}
RECORDS |= {f"image/variance {v}": partial(fashion, variance=v, steps=10) for v in ("small", "large", "optimal")}
RECORDS["image/ddim, eta 0.5"] = partial(fashion, sampler="ddim", eta=0.5, steps=8)
RECORDS["image/all 1000 levels"] = partial(fashion, 2)
RECORDS["image/batches of 5"] = partial(fashion, 12, steps=4, batch_size=5)
RECORDS["image/progressive"] = lambda: draw_progressively(
    model("fashion-mnist"), range(8), plan_for(model("fashion-mnist"), Sampling("ancestral", 50))
)
RECORDS["image/raw weights"] = partial(drawn, "digits, raw", steps=8)
RECORDS["image/range variance, all 1000 levels"] = partial(drawn, "classes", 4)
RECORDS["image/classes of the seeds"] = partial(drawn, "classes", steps=8)
for weight in (0, 1, 2.5):
    RECORDS[f"image/class 3, guidance {weight}"] = partial(drawn, "classes", class_name="3", guidance=weight, steps=8)


def judged(name: str, count: int = 48) -> tuple[Any, Any]:
    """A model and images to score it on; for the model of clothes, digits will do."""
    return model(name), ddpm.images(f"digits:test[0:{count}]", size="28" if name == "fashion-mnist" else None)


def rate(name: str, **how: Any) -> dict[str, Any]:
    options = {key: value for key, value in how.items() if key != "calls"}
    found = estimate_rate_distortion(scoring_for(*judged(name), **options), how["calls"])
    files = ResultFiles(Path(f"rate of {name}"), RATE_FILES)
    write_rate_distortion(found, files, {})
    return {"curves": found, **{path.name: path.read_bytes() for path in files.written if path.suffix != ".png"}}


def full(name: str, **how: Any) -> dict[str, Any]:
    found, images = judged(name, 2)
    report = ddpm.evaluate_likelihood(found, images, full=True, rate=True, out="full", **how)
    again = full_sum(found, scoring_for(found, images, **how), Path("full"))
    return {"bound": report.bound, "nats": again.totals().tolist(), "curves": report.rate}


def bound(name: str, **how: Any) -> Any:
    return ddpm.evaluate_likelihood(*judged(name), calls=256, **how).bound


def ode(name: str) -> Any:
    """The ODE alone, for which the budget of a bound is too large."""
    return ode_bound(scoring_for(*judged(name)), calls=100, steps=3)


def distance(samples: Callable[[], Any], **how: Any) -> dict[str, Any]:
    found = ddpm.evaluate_fid(samples(), ddpm.images("digits:test"), features="pixels", **how)
    return {"fid": found.fid, "kid": found.kid}


def tuned(tune: Callable[..., Any], name: str, out: str, **how: Any) -> bytes:
    """The whole side file, made for a copy of a model."""
    shutil.copytree(model(name).source, out, ignore=shutil.ignore_patterns("variance-*", "codec-*", "levels-*"))
    return tune(ddpm.load(out, device="cpu"), ddpm.images("digits:train[0:256]"), **how).file.read_bytes()


bits = {f"variance {variance}": {"variance": variance} for variance in (None, "small", "large", "optimal")}
for name, how in (bits | {"best 20 levels": {"levels": 20}, "20 of 48 images": {"limit": 20, "seed": 1}}).items():
    RECORDS[f"bits/{name}"] = partial(bound, "fashion-mnist", **how)
RECORDS["bits/range variance, classes"] = partial(bound, "classes")
RECORDS["bits/rate and distortion"] = partial(rate, "digits", calls=2000, variance="optimal")
RECORDS["bits/rate and distortion, best 20 levels"] = partial(rate, "fashion-mnist", calls=200, levels=20)
RECORDS["bits/ode, exact trace"] = partial(ode, "digits")
RECORDS["bits/ode, Hutchinson"] = partial(ode, "fashion-mnist")
RECORDS["bits/full sum"] = partial(full, "digits")
RECORDS["bits/full sum, best 20 levels"] = partial(full, "fashion-mnist", levels=20)
RECORDS["distance/samples"] = partial(distance, lambda: model("digits"), seeds=range(128), steps=4, keep="kept")
RECORDS["distance/images"] = partial(distance, lambda: ddpm.images("digits:train[0:200]"))
RECORDS["distance/nearest neighbours"] = lambda: ddpm.nearest_neighbours(
    drawn("digits", 32, steps=8), ddpm.images("digits:train").array(), count=3
)
RECORDS["tuned/variance"] = partial(tuned, ddpm.tune_variance, "digits", "tuned 1", calls=2600)
RECORDS["tuned/variance, classes"] = partial(tuned, ddpm.tune_variance, "classes", "tuned 2", calls=2600)
RECORDS["tuned/levels"] = partial(tuned, ddpm.tune_timesteps, "digits", "tuned 3", steps=[3, 4], trials=7, samples=64)
RECORDS["tuned/codec"] = partial(tuned, ddpm.tune_codec, "digits", "tuned 4", fit_steps=50)


def ramps(height: int, width: int) -> Any:
    """Ramps and a box in colour, in integers."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([255 - abs((x * (5 + c) + y * (3 + 2 * c)) % 510 - 255) for c in range(3)]).astype(np.uint8)
    planes[:, height // 4 : height // 2, width // 3 : width // 2] = 40
    return planes


def photograph(height: int, width: int) -> Any:
    """A crop of one that comes with scikit-learn: ramps alone would be stored as PNG."""
    return load_sample_image("flower.jpg").transpose(2, 0, 1)[:, 150 : 150 + height, 300 : 300 + width]


def compressed(name: str, draw: Callable[[], Any], prefix: int | None = None, **how: Any) -> dict[str, Any]:
    """A file, and what a prefix of it shows."""
    data = ddpm.compress(model(name), draw(), **how)
    cut = partial(ddpm.decompress, model(name), data, most_bytes=prefix)
    shown = {f"prefix, {way}": cut(reconstruct=way) for way in ("mean", "flow")} if prefix else {}
    return {"length": len(data), "bytes": data, **shown}


for name, about in json.loads((GOLDEN / "golden.json").read_text()).items():
    RECORDS[f"file/golden {name}"] = lambda f=GOLDEN / name, m=about["model"]: ddpm.decompress(model(m), f.read_bytes())
RECORDS["file/linear, ramps"] = partial(compressed, "linear", lambda: ramps(32, 32))
RECORDS["file/linear, tile"] = partial(compressed, "linear", lambda: photograph(32, 32), 60)
RECORDS["file/linear, tiles"] = partial(compressed, "linear", lambda: photograph(40, 50), 300)
RECORDS["file/linear, 60 bytes"] = partial(compressed, "linear", lambda: photograph(32, 32), most_bytes=60)
RECORDS["file/fashion-mnist, ramps"] = partial(compressed, "fashion-mnist", lambda: ramps(40, 50)[:1])
RECORDS["file/fashion-mnist, clothes"] = partial(compressed, "fashion-mnist", lambda: fashion(4, steps=8)[3], 60)
RECORDS["file/fashion-mnist, half a bit"] = partial(compressed, "fashion-mnist", lambda: ramps(28, 28)[:1], rate=0.5)
RECORDS["file/classes"] = partial(compressed, "classes", lambda: ddpm.images("digits:test")[0], 40)


@functools.cache
def written() -> None:
    """The same 18 pictures as a folder, a zip and an npz; and a folder of odd sizes and modes."""
    drawn = [np.roll(ramps(16, 20), k, axis=2).transpose(1, 2, 0) for k in range(18)]
    files = {f"{'abc'[k // 6]}/{k:02d}.png": Image.fromarray(array) for k, array in enumerate(drawn)}
    modes = enumerate(("L", "RGB", "RGBA", "P", "LA"))
    odd = {f"{k}.png": Image.fromarray(drawn[k][k:, : 20 - 2 * k]).convert(mode) for k, mode in modes}
    for folder, images in (("pictures", files), ("odd", odd)):
        for name, image in images.items():
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            image.save(Path(folder, name))
    with zipfile.ZipFile("pictures.zip", "w") as archive:
        archive.writestr("dataset.json", json.dumps({"labels": [[name, k // 6] for k, name in enumerate(files)]}))
        for name in files:
            archive.write(f"pictures/{name}", name)
    np.savez("pictures.npz", images=np.stack(drawn), labels=np.arange(18) // 6)


def source(src: str, **how: Any) -> dict[str, Any]:
    written()
    found = ddpm.images(src, **how)
    return {"images": found.array(), "fingerprint": found.fingerprint, "classes": (found.labels, found.class_names)}


def order(src: str, **where: Any) -> tuple[Any, ...]:
    written()
    found = itertools.islice(batches(ddpm.images(src), **where), 6)
    return tuple(part for batch in found for part in (batch.indices, batch.images, batch.labels))


def tables(name: str) -> dict[str, Any]:
    full = make_schedule(name)
    short = full.at([1.5, 200, 700.25])
    kinds = ("levels", "alpha_bar", "beta", "log_snr", "posterior_x0", "posterior_xt", "posterior_variance")
    variances = {f"variance {kind}": full.log_variance(kind) for kind in ("large", "small")}
    return {kind: (getattr(full, kind), getattr(short, kind)) for kind in kinds} | variances


def first_draws(purpose: str) -> tuple[Any, ...]:
    draws = [generator(purpose, 0).standard_normal(16), generator(purpose, 7, 123).integers(0, 2**40, 16)]
    keys = stream_keys(purpose, 1, torch.tensor([0, 5]), 42)
    return (*draws, normals(keys, (3, 4)), kept(keys, (1, 2, 3), 0.5))


for name in ("digits:train", "digits:test", "digits:test[10:-20]", "pictures", "pictures[2:-1]"):
    RECORDS[f"source/{name}"] = partial(source, name)
RECORDS |= {f"source/pictures.{kind}": partial(source, f"pictures.{kind}") for kind in ("zip", "npz")}
RECORDS |= {f"source/odd, {fit}": partial(source, "odd", size="12x10", fit=fit) for fit in ("crop", "resize")}
RECORDS["source/batches of digits"] = partial(order, "digits:test[0:50]", seed=3, position=40, batch_size=16, flip=True)
RECORDS["source/batches of a folder"] = partial(order, "pictures", seed=0, position=0, batch_size=5, flip=False)
for name in ("linear", "quad", "const", "warmup10", "warmup50", "cosine"):
    RECORDS[f"schedule/{name}"] = partial(tables, name)
PURPOSES = "order, flip, level, noise, dropout, label dropout, sample, class, limit, measure, probe, causal, ode"
PURPOSES += ", ode noise, pilot, pilot noise, estimate, estimate noise, profile, profile noise, full noise"
RECORDS |= {f"seed/{purpose}": partial(first_draws, purpose) for purpose in PURPOSES.split(", ")}


def record(out: Path, only: str) -> int:
    print(f"ddpm of {ROOT}", file=sys.stderr)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    out, found, failed = out.resolve(), {}, 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in (name for name in RECORDS if only in name):
            start = time.monotonic()
            try:
                found |= flat(name, RECORDS[name]())
            except Exception as error:
                found[name] = f"error: {type(error).__name__}: {error}".replace(str(ROOT), "").replace(folder, "")
                failed += 1
            print(f"{time.monotonic() - start:6.1f} s  {name}  {found.get(name, '')}", file=sys.stderr)
        os.chdir(out.parent)
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found)} values, {failed} records failed", file=sys.stderr)
    return int(failed > 0)


def compare(before: Path, after: Path, only: str) -> int:
    sides = [json.loads(path.read_text()) for path in (before, after)]
    names = [name for name in dict.fromkeys([*sides[0], *sides[1]]) if only in name]
    pairs = {name: [json.dumps(side.get(name, "not there")) for side in sides] for name in names}
    different = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    for name, (old, new) in different.items():
        print(f"{name}\n    {old}\n    {new}")
    failed = sum(old == new and old.startswith('"error: ') for old, new in pairs.values())
    print(f"{len(different)} of {len(names)} values differ; {failed} failed on both sides")
    return int(bool(different))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("record", "compare"))
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--only", default="", metavar="SUBSTRING")
    given = parser.parse_args()
    if len(given.files) != (1 if given.command == "record" else 2):
        parser.error("record takes one file, compare two")
    sys.exit((record if given.command == "record" else compare)(*given.files, given.only))
