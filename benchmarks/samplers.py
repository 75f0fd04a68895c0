"""Distance to the test set against network calls: our samplers, diffusers' schedulers, and the 1,000-step chain.

    ddpm tune timesteps models/fashion-mnist --data fashion-mnist:train --features pixels \
        --features fashion-mnist-features.pt2 --sampler SAMPLER --steps STEPS --trials TRIALS --samples SAMPLES
    python benchmarks/samplers.py --data fashion-mnist --features fashion-mnist-features.pt2 [--part long]

The first for dpm++sde with steps 4,5,6,8 (20 trials) and 10,15,20 (10), 1,024 samples; for unipc with steps 4,5,6,8,10
(18 trials, 1,024 samples) and 15,20 (10 trials, 512 samples).

All cells draw the same seeds, 0 to N - 1, from the same noise of level T, so that differences are paired. diffusers'
schedulers run on the same network, clipped to [-1, 1] like ours where they can (PNDM, Euler and LMS cannot); the best
three of CANDIDATES are chosen first, on fewer images of other seeds. Their noise after the start is their own.

The tuned rows are judged in the very features they were tuned in (on training images, other seeds). Two columns see
what the search did not: the hidden layer of a small perceptron trained here, and the rows that were not tuned.
Images are kept in runs/samplers, by label, and only missing ones are drawn; with all of them there
results/samplers.json and .png are written.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from judges import Judge, estimate
from record import RESULTS, write_result

import ddpm
from ddpm.base.files import whole_file
from ddpm.base.noise import normals, stream_keys
from ddpm.base.units import x_to_images
from ddpm.generation.draw import plan_for, protocol
from ddpm.generation.resumable import Drawing
from ddpm.metrics.frechet import frechet_difference, frechet_estimate
from ddpm.model.model import Model
from ddpm.samplers.plan import Sampling

MODEL = "models/fashion-mnist"
CELLS = Path("runs/samplers")
SAMPLES, CHOSEN_ON = 2048, 512
FIRST_CHOICE_SEED = 500_000  # of the images that diffusers' best are chosen on
CALLS = (4, 5, 6, 8, 10, 15, 20)
BATCH = 64

OURS: dict[str, Callable[[int], Sampling]] = {
    "dpm++sde, tuned": lambda calls: Sampling("dpm++sde", calls, "tuned"),
    "unipc, tuned": lambda calls: Sampling("unipc", calls, "tuned"),
    "dpm++sde, uniform": lambda calls: Sampling("dpm++sde", calls, "uniform"),
    "dpm++, karras": lambda calls: Sampling("dpm++", calls, "karras"),
    "heun, karras": lambda calls: Sampling("heun", (calls + 1) // 2, "karras"),
}
LONG: dict[str, Sampling] = {
    "ancestral (large), all": Sampling(),
    "ancestral (small), 100": Sampling("ancestral", 100, variance="small"),
    "ancestral (small), 50": Sampling("ancestral", 50, variance="small"),
    "ddim, 100": Sampling("ddim", 100, "uniform"),
    "ddim, 50": Sampling("ddim", 50, "uniform"),
}
REFERENCE = "ancestral (large), all"
CHOICE_CALLS = (5, 8, 20)
CHOSEN = 3
CLIPPED = {"thresholding": True, "sample_max_value": 1.0}  # the same as clipping to [-1, 1]
LEADING = {"timestep_spacing": "leading"}  # starts at 830 of 999 for five steps; the default, linspace, at 999
CANDIDATES: dict[str, tuple[str, dict[str, Any]]] = {
    "DPM++ 2M, leading": ("DPMSolverMultistepScheduler", CLIPPED | LEADING),
    "DPM++ 2M SDE, leading": ("DPMSolverMultistepScheduler", CLIPPED | LEADING | {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ 2M SDE heun, leading": (
        "DPMSolverMultistepScheduler",
        CLIPPED | LEADING | {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    ),
    "UniPC, leading": ("UniPCMultistepScheduler", CLIPPED | LEADING),
    "SA-Solver, leading": ("SASolverScheduler", CLIPPED | LEADING),
    "DDIM, trailing": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", CLIPPED),
    "DPM++ 2M, karras": ("DPMSolverMultistepScheduler", CLIPPED | {"use_karras_sigmas": True}),
    "DPM++ 2M heun, karras": (
        "DPMSolverMultistepScheduler",
        CLIPPED | {"use_karras_sigmas": True, "solver_type": "heun"},
    ),
    "DPM++ 3M, karras": ("DPMSolverMultistepScheduler", CLIPPED | {"use_karras_sigmas": True, "solver_order": 3}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", CLIPPED | {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ 2M SDE, karras": (
        "DPMSolverMultistepScheduler",
        CLIPPED | {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    "DPM++ 2M SDE heun": (
        "DPMSolverMultistepScheduler",
        CLIPPED | {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    ),
    "DEIS": ("DEISMultistepScheduler", CLIPPED),
    "UniPC": ("UniPCMultistepScheduler", CLIPPED),
    "UniPC, karras": ("UniPCMultistepScheduler", CLIPPED | {"use_karras_sigmas": True}),
    "UniPC-3": ("UniPCMultistepScheduler", CLIPPED | {"solver_order": 3}),
    "SA-Solver": ("SASolverScheduler", CLIPPED),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "LMS, karras": ("LMSDiscreteScheduler", {"use_karras_sigmas": True}),
}


def scheduler_of(name: str) -> Any:
    """One of diffusers' schedulers, on the paper's betas."""
    kind, options = CANDIDATES[name]
    betas = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    return getattr(diffusers, kind)(**betas, **options)


@torch.no_grad()
def theirs(model: Model, name: str, calls: int, seeds: Sequence[int]) -> tuple[torch.Tensor, int]:
    """uint8 images by one of diffusers' schedulers, from our noise of level T; and the network calls it made."""
    images, made = [], 0
    for start in range(0, len(seeds), BATCH):
        part = seeds[start : start + BATCH]
        scheduler, made = scheduler_of(name), 0
        scheduler.set_timesteps(calls - 1 if name == "PNDM" else calls)  # its first step takes two calls
        generator = torch.Generator().manual_seed(part[0])
        keys = stream_keys("sample", 0, torch.tensor(part), 1000)
        x = normals(keys, model.geometry.shape) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            eps = model.network(scheduler.scale_model_input(x, t), t.expand(len(part)))
            options = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
            x = scheduler.step(eps, t, x, **options).prev_sample
            made += 1
        images.append(x_to_images(x))
    return torch.cat(images), made


def cell(model: Model, label: str, calls: int, seeds: Sequence[int], sampling: Sampling | None) -> torch.Tensor:
    """The images of one cell (N, C, H, W), drawn if they are not there; diffusers' without a sampling of ours."""
    path = CELLS / f"{label.replace(', ', '-').replace(' ', '-')}-{calls}-{seeds[0]}-{len(seeds)}.npz"
    start = time.monotonic()
    if sampling is not None:
        Drawing(model, plan_for(model, sampling), seeds, path).draw(batch_size=BATCH)
    elif not path.is_file():
        images, made = theirs(model, label, calls, seeds)
        with whole_file(path) as temporary:
            np.savez(temporary, arr_0=images.permute(0, 2, 3, 1).numpy(), calls=made)
    print(f"{label}, {calls} calls: {time.monotonic() - start:.0f} s", flush=True)
    with np.load(path) as found:
        assert sampling is not None or int(found["calls"]) == calls, (label, int(found["calls"]))
        return torch.from_numpy(found["arr_0"]).permute(0, 3, 1, 2)


def choose(model: Model, judge: Judge) -> tuple[list[str], dict[str, dict[int, float]]]:
    """diffusers' best: at each of CHOICE_CALLS in turn the best not yet chosen; and all distances."""
    seeds = range(FIRST_CHOICE_SEED, FIRST_CHOICE_SEED + CHOSEN_ON)
    table: dict[str, dict[int, float]] = {name: {} for name in CANDIDATES}
    for calls in CHOICE_CALLS:
        for name in CANDIDATES:
            found = judge.features(cell(model, name, calls, seeds, None))
            table[name][calls] = round(frechet_estimate(found, judge.reference).value, 4)
    chosen: list[str] = []
    for calls in CHOICE_CALLS:
        chosen.append(min((n for n in CANDIDATES if n not in chosen), key=lambda name: table[name][calls]))
    return chosen, table


def rows(chosen: Sequence[str]) -> list[tuple[str, int, Sampling | None]]:
    """Every cell of the table: label, network calls, how ours are drawn."""
    found: list[tuple[str, int, Sampling | None]] = []
    for calls in CALLS:
        for label, sampling in OURS.items():
            if calls % 2 or not label.startswith("heun"):
                found.append((label, calls, sampling(calls)))
        found += [(label, calls, None) for label in chosen]
    return found + [(label, how.steps or 1000, how) for label, how in LONG.items()]


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", required=True, help="Fashion-MNIST, an IDX folder")
    parser.add_argument("--features", required=True, help="a torch.export program")
    parser.add_argument("--part", choices=["all", "long", "ours", "diffusers"], default="all", help="draw only these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = ddpm.load(MODEL, device="cpu")
    if options.part in ("long", "ours"):
        for label, calls, how in rows([]):
            if (label in LONG) == (options.part == "long"):
                cell(model, label, calls, range(SAMPLES), how)
        return
    judge = Judge(model.geometry, options.data, options.features)
    chosen, choice = choose(model, judge)
    print("diffusers' best:", chosen, json.dumps(choice), flush=True)
    if options.part == "diffusers":
        for calls in CALLS:
            for label in chosen:
                cell(model, label, calls, range(SAMPLES), None)
        return
    write(model, judge, chosen, choice)


def write(model: Model, judge: Judge, chosen: Sequence[str], choice: dict[str, dict[int, float]]) -> None:
    """The table and the plot."""
    seeds = range(SAMPLES)
    thousand = judge.features(cell(model, REFERENCE, 1000, seeds, LONG[REFERENCE]))
    features: dict[tuple[str, int], np.ndarray] = {}
    table: list[dict[str, Any]] = []
    for label, calls, sampling in rows(chosen):
        images = cell(model, label, calls, seeds, sampling)
        features[label, calls] = judge.features(images)
        found = judge.row(features[label, calls], thousand) | judge.elsewhere(images)
        how = {"diffusers": CANDIDATES[label]} if sampling is None else protocol(model, plan_for(model, sampling))
        table.append({"sampler": label, "calls": calls, **found, "protocol": how})
        fid, pixels, other = found["fid"], found["fid_in_pixels"], found["fid_in_perceptron"]["value"]
        print(f"{label:28} {calls:5} {fid['value']:7.3f} +- {fid['error']:.3f} {pixels:7.3f} {other:7.3f}", flush=True)
    values = {(row["sampler"], row["calls"]): row["fid"]["value"] for row in table}
    best = []
    groups = {"best": list(OURS), "best_not_tuned": [label for label in OURS if "tuned" not in label]}
    for calls in CALLS:
        for kind, group in groups.items():
            ours, other = (
                min((label for label in some if (label, calls) in values), key=lambda name: values[name, calls])
                for some in (group, chosen)
            )
            difference = frechet_difference(features[ours, calls], features[other, calls], judge.reference)
            pair = {"ours": ours, "diffusers": other, "ours_minus_theirs": estimate(difference)}
            best.append({"calls": calls, "of_ours": kind, **pair})
    some = judge.some_training_images(SAMPLES)
    real = torch.from_numpy(judge.images.array(some.tolist()))
    result = {
        "samples": SAMPLES,
        "seeds": f"0-{SAMPLES - 1}",
        "features": {"file": Path(judge.extractor.name).name, "sha256": judge.extractor.sha256},
        "reference": "the 10,000 test images",
        "floor": {
            f"{SAMPLES:,} training images": judge.row(judge.train[some]) | judge.elsewhere(real),
            "60,000 training images": {"fid": estimate(frechet_estimate(judge.train, judge.reference))},
        },
        "rows": table,
        "best": best,
        "diffusers": diffusers.__version__,
        "diffusers_choice": {"samples": CHOSEN_ON, "chosen": list(chosen), "fid": choice},
    }
    write_result("samplers", result, seed=0)
    plot(table, chosen, result["floor"], RESULTS / "samplers.png")


def plot(table: Sequence[dict[str, Any]], chosen: Sequence[str], floor: dict[str, Any], path: Path) -> None:
    """Distance against network calls, both logarithmic; whiskers are two standard errors."""
    from matplotlib.figure import Figure

    figure = Figure((8, 5), layout="constrained")
    axes = figure.subplots()
    for label in (*OURS, *chosen):
        line = [row for row in table if row["sampler"] == label]
        axes.errorbar(
            [row["calls"] for row in line],
            [row["fid"]["value"] for row in line],
            [2 * row["fid"]["error"] for row in line],
            marker="o" if label in OURS else "x",
            linestyle="-" if label in OURS else "--",
            label=label if label in OURS else f"diffusers: {label}",
            markersize=4,
        )
    for label in LONG:
        row = next(row for row in table if row["sampler"] == label)
        axes.plot(row["calls"], row["fid"]["value"], "k*")
        axes.annotate(label, (row["calls"], row["fid"]["value"]), fontsize=7, xytext=(4, 4), textcoords="offset points")
    thousand = next(row for row in table if row["sampler"] == REFERENCE)["fid"]["value"]
    axes.axhline(thousand, color="black", linewidth=0.6)
    real = floor[f"{SAMPLES:,} training images"]["fid"]["value"]
    axes.axhline(real, color="grey", linewidth=0.6, linestyle=":")
    axes.annotate("as many training images", (4, real), fontsize=7, xytext=(0, 3), textcoords="offset points")
    axes.set(xscale="log", yscale="log", xlabel="network calls an image", ylabel="Fréchet distance to the test images")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
