"""Ours and two other libraries on the same clock: so many minutes of one thread for the same images and judges.

    python -m venv peers && peers/bin/pip install -c constraints.txt -e '.[dev]' einops ema-pytorch accelerate
    peers/bin/pip install --no-deps denoising-diffusion-pytorch
    peers/bin/python benchmarks/peers.py --data fashion-mnist --features fashion-mnist-features.pt2 [--part ours]

Time is the process's own (time.process_time), so that other work on the machine does not count, and that of training
alone: for the others without imports or reading images, for ours all of `ddpm.train` with its previews and checkpoints,
and the run of half a minute at most, thrown away, that measures how many images go into the time. Both peers are
trained and drawn as their documentation does by default (peer_lucidrains.py, peer_diffusers.py say what that is) but
never flip images, which would give them shoes that no test image has; ours by the recipe `fashion-mnist` as it is.

All is kept in runs/peers and no part is done twice; a training that was broken off begins again. The part `judge` takes
what is there and writes results/peers.json: distances to the 10,000 test images with their jackknife errors. Chains of
1,000 calls have fewer images (--long), and distances fall with the number of images: such rows compare only with what
others have under `of_the_first`, the distances of as many of their images.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judges import Judge
from record import RESULTS, origin, write_result
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import ddpm
from ddpm.base.files import whole_file
from ddpm.base.progress import Advance, Console, Progress
from ddpm.base.units import x_to_images
from ddpm.generation.draw import plan_for
from ddpm.generation.resumable import Drawing
from ddpm.model.model import Model
from ddpm.model.recipe import Recipe, changed
from ddpm.samplers.plan import Sampling
from ddpm.training.cost import multiply_adds

PEERS = {  # part: module, class, what must be installed
    "lucidrains": ("peer_lucidrains", "Lucidrains", "denoising_diffusion_pytorch"),
    "diffusers": ("peer_diffusers", "Diffusers", "diffusers"),
}
OURS, JUDGE = "ours", "judge"
MINUTES, SEED, BATCH = 20.0, 0, 64
LONG_CALLS = 1000
PROBE_SECONDS = 30.0  # of our time, at most, to find out how many images go into it
SPARE = 0.03  # of our time, so that it ends early rather than late
SAMPLERS: dict[tuple[str, int], Sampling] = {
    ("dpm++sde, uniform", 20): Sampling("dpm++sde", 20, "uniform"),
    ("dpm++sde, tuned", 20): Sampling("dpm++sde", 20, "tuned"),
    ("ancestral, all", LONG_CALLS): Sampling(),
}


@dataclass(frozen=True)
class Contest:
    """What is asked for: the images' folder, the judge's program, the time, how many images, and where all goes."""

    data: str
    features: str
    minutes: float
    samples: int
    long: int
    trials: int
    runs: Path

    @property
    def seconds(self) -> float:
        """Of process time."""
        return 60 * self.minutes

    def count(self, calls: int) -> int:
        """Images of a sampler with so many calls."""
        return self.long if calls >= LONG_CALLS else self.samples


# ---- training by the clock ------------------------------------------------------------------------------------------


def shuffled(images: Tensor, size: int) -> Iterator[Tensor]:
    """Batches without end, each epoch in an order of its own."""
    generator = torch.Generator().manual_seed(SEED)
    while True:
        yield from images[torch.randperm(len(images), generator=generator)].split(size)


def train_peer(peer: Any, images: Tensor, seconds: float) -> dict[str, Any]:
    """Step until so many seconds of process time have passed; what that came to."""
    batches, steps, seen, start = shuffled(images, peer.batch), 0, 0, time.process_time()
    while (passed := time.process_time() - start) < seconds:
        batch = next(batches)
        peer.step(batch, passed / seconds)
        steps, seen = steps + 1, seen + len(batch)
        if steps % 1000 == 0:
            print(f"{seen:,} images in {passed:.0f} of {seconds:.0f} s", flush=True)
    peer.finish()
    return {"process_seconds": round(time.process_time() - start, 1), "images": seen, "steps": steps}


def network_cost(peer: Any, side: int) -> dict[str, Any]:
    """Arithmetic of one call on one image, and parameters; counted on tensors without memory, as ours are."""
    with torch.device("meta"):
        network = peer.build(side)
        x, t = torch.empty(1, 1, side, side), torch.zeros(1)
    with FlopCounterMode(display=False) as counter:
        peer.call(network, x, t)
    return _cost(counter.get_total_flops(), network)


def _cost(flop: int, network: torch.nn.Module) -> dict[str, Any]:
    return {"gflop_a_call": round(flop / 1e9, 4), "parameters": sum(p.numel() for p in network.parameters())}


class Enough(Exception):
    """The probe has seen enough."""


class Probe(Progress):
    """Listens to a training, and ends it after so many seconds of process time.

    marks  (process time, images) after each step
    """

    def __init__(self, seconds: float) -> None:
        self.end, self.marks = time.process_time() + seconds, list[tuple[float, int]]()

    @contextmanager
    def stage(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Work whose units are images if it is the training."""

        def advance(more: int, note: str = "") -> None:
            if title == "Training":
                now, before = time.process_time(), self.marks[-1][1] if self.marks else 0
                self.marks.append((now, before + more))
                if now >= self.end and len(self.marks) > 2:
                    raise Enough

        yield advance

    @property
    def speed(self) -> float:
        """Images a second, without the first step, which sets things up."""
        (start, first), (end, last) = self.marks[0], self.marks[-1]
        return (last - first) / (end - start)


def train_ours(recipe: Recipe, folder: Path, seconds: float) -> dict[str, Any]:
    """`ddpm train` for about so many seconds of process time, the probe among them; what that came to."""
    start = time.process_time()
    probe, run, scratch = Probe(min(PROBE_SECONDS, seconds / 10)), folder / "run", folder / "probe"
    for unfinished in (run, scratch):
        shutil.rmtree(unfinished, ignore_errors=True)
    try:
        ddpm.train(recipe, out=scratch, progress=probe)
    except Enough:
        shutil.rmtree(scratch)
    left = seconds - (time.process_time() - start)
    images = max(recipe.batch_size, int(probe.speed * left * (1 - SPARE)))
    print(f"{probe.speed:.0f} images a second: {images:,} images in the {left:.0f} s that are left", flush=True)
    ddpm.train(changed(recipe, {"train_images": images}), out=run, progress=Console(lines=True))
    taken, seen = round(time.process_time() - start, 1), ddpm.load(run, device="cpu").images_seen
    if taken > 1.01 * seconds:
        print(
            f"ours took {taken:.0f} s, more than its time: remove '{folder}' and train it again on a quieter machine."
        )
    return {"process_seconds": taken, "images": seen, "steps": -(-seen // recipe.batch_size)}


# ---- parts ----------------------------------------------------------------------------------------------------------


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file says, which is made and written, whole, if it is not there."""
    if not path.is_file():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def trained(contest: Contest, part: str, train: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """A part's facts, after its training if that was not done; one of other minutes is refused."""
    folder = contest.runs / part
    facts = once(folder / "facts.json", lambda: {"minutes": contest.minutes, **train(folder), "origin": origin(SEED)})
    if facts["minutes"] != contest.minutes:
        sys.exit(f"'{folder}' was trained for {facts['minutes']:g} minutes: remove it, or name another --runs.")
    return facts


def cell(contest: Contest, part: str, name: str, calls: int, draw: Callable[[int, Path], None]) -> None:
    """The images of one sampler, with a grid and what they are, drawn if they are not there."""
    count = contest.count(calls)
    if not count:
        return
    path = contest.runs / part / "cells" / f"{name.replace(', ', '-').replace(' ', '-')}-{calls}-{count}.npz"

    def make() -> dict[str, Any]:
        path.parent.mkdir(exist_ok=True)
        start = time.process_time()
        draw(count, path)
        seconds = round(time.process_time() - start, 1)
        ddpm.save_grid(read(path)[:64].numpy(), path.with_suffix(".png"))
        print(f"{part}, {name}: {count:,} images in {seconds:.0f} s", flush=True)
        return {"part": part, "sampler": name, "calls": calls, "samples": count, "drawing_seconds": seconds}

    once(path.with_suffix(".json"), make)


def read(path: Path) -> Tensor:
    """The images of a cell, uint8 (N, C, H, W)."""
    with np.load(path) as found:
        return torch.from_numpy(found["arr_0"]).permute(0, 3, 1, 2)


def run_peer(contest: Contest, part: str) -> None:
    """Train and draw one of the others."""
    module, name, package = PEERS[part]
    if find_spec(package) is None:
        sys.exit(f"the package {package} is not installed: the top of benchmarks/peers.py says how.")
    images = torch.from_numpy(ddpm.images(f"{contest.data}:train").array())
    torch.manual_seed(SEED)
    peer = getattr(importlib.import_module(module), name)(images.shape[-1])
    weights = contest.runs / part / "weights.pt"

    def train(folder: Path) -> dict[str, Any]:
        found = train_peer(peer, images, contest.seconds)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(peer.network.state_dict(), weights)
        said = {"settings": peer.settings, "versions": peer.versions}
        return {**found, **network_cost(peer, images.shape[-1]), **said}

    print(part, trained(contest, part, train), flush=True)
    peer.network.load_state_dict(torch.load(weights, weights_only=True))
    for (sampler, calls), draw_batch in peer.samplers().items():
        cell(contest, part, sampler, calls, lambda count, path, draw=draw_batch: draw_peer(draw, count, path))


def draw_peer(draw_batch: Callable[[int], Tensor], count: int, path: Path) -> None:
    """Images of a sampler in batches, each from a seed of its own."""
    parts = []
    for start in range(0, count, BATCH):
        torch.manual_seed(start)
        parts.append(x_to_images(2 * draw_batch(min(BATCH, count - start)) - 1))
    with whole_file(path) as temporary:
        np.savez(temporary, arr_0=torch.cat(parts).permute(0, 2, 3, 1).numpy())


def run_ours(contest: Contest) -> None:
    """Train, tune and draw ours."""
    recipe = ddpm.recipe("fashion-mnist", data=f"{contest.data}:train", device="cpu", seed=SEED)

    def train(folder: Path) -> dict[str, Any]:
        found, model = train_ours(recipe, folder, contest.seconds), ddpm.load(folder / "run", device="cpu")
        said = {"settings": model.recipe.model_dump(mode="json"), "versions": {"torch": torch.__version__}}
        return {**found, **_cost(2 * multiply_adds(model.recipe), model.network), **said}

    print(OURS, trained(contest, OURS, train), flush=True)
    folder = contest.runs / OURS
    once(folder / "tuning.json", lambda: tuned(contest, folder / "run"))
    model = ddpm.load(folder / "run", device="cpu")
    for (name, calls), how in SAMPLERS.items():
        cell(contest, OURS, name, calls, lambda count, path, how=how: draw_ours(model, how, count, path))


def tuned(contest: Contest, run: Path) -> dict[str, Any]:
    """`ddpm tune timesteps`, on training images in pixels and in the classifier's features; its time is its own."""
    start, model, features = time.process_time(), ddpm.load(run, device="cpu"), ["pixels", contest.features]
    samples = min(1024, contest.samples)
    report = ddpm.tune_timesteps(model, steps=[20], features=features, trials=contest.trials, samples=samples)
    return {"process_seconds": round(time.process_time() - start, 1), **report.table()}


def draw_ours(model: Model, how: Sampling, count: int, path: Path) -> None:
    """Images of the seeds from 0."""
    Drawing(model, plan_for(model, how), range(count), path).draw(batch_size=BATCH)


# ---- the judges -----------------------------------------------------------------------------------------------------


def judge_all(contest: Contest, results: Path) -> None:
    """Judge every cell that is there and write the table."""
    cells = sorted(contest.runs.glob("*/cells/*.json"))
    if not cells:
        sys.exit(f"there are no images in '{contest.runs}': run the other parts first.")
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in cells]
    images = [read(path.with_suffix(".npz")) for path in cells]
    judge = Judge(ddpm.images(f"{contest.data}:test").geometry, contest.data, contest.features)
    least = min(map(len, images))
    for row, drawn in zip(rows, images, strict=True):
        row["distances"] = judge.by_all(drawn)
        if len(drawn) > least:
            row["of_the_first"] = {"samples": least, "distances": judge.by_all(drawn[:least])}
        shown = "  ".join(f"{name} {one['value']:.2f} ± {one['error']:.2f}" for name, one in row["distances"].items())
        print(f"{row['part']:10} {row['sampler']:36} {row['calls']:5} {row['samples']:6}  {shown}", flush=True)
    there = {row["part"] for row in rows}
    for missing in {*PEERS, OURS} - there:
        print(f"{missing} is not among them: run --part {missing}.")
    some = judge.some_training_images(min(contest.samples, len(judge.train)))
    table = {
        "minutes": contest.minutes,
        "judges": {"classifier": {"file": Path(contest.features).name, "sha256": judge.extractor.sha256}},
        "reference": "the 10,000 test images",
        "floor": {
            "training_images": len(some),
            "distances": judge.by_all(torch.from_numpy(judge.images.array(some.tolist()))),
        },
        "parts": {part: json.loads((contest.runs / part / "facts.json").read_text()) for part in sorted(there)},
        "rows": rows,
        "ours_over_theirs": ratios(rows),
    }
    if OURS in there:
        table["tuning"] = json.loads((contest.runs / OURS / "tuning.json").read_text())
    write_result("peers", table, seed=SEED, folder=results)


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our distances over those of each peer's best short chain, by the classifier; as many samples on both sides."""
    short = [row for row in rows if row["calls"] < LONG_CALLS]
    found = []
    for peer in sorted({row["part"] for row in short} - {OURS}):
        theirs = [row for row in short if row["part"] == peer]
        best = min(theirs, key=lambda row: row["distances"]["classifier"]["value"])
        for ours in (row for row in short if row["part"] == OURS):
            both = ((name, ours["distances"][name]["value"], one["value"]) for name, one in best["distances"].items())
            over = {name: round(mine / other, 3) for name, mine, other in both}
            found.append({"ours": ours["sampler"], "peer": peer, "sampler": best["sampler"], **over})
    return found


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", required=True, help="Fashion-MNIST, an IDX folder")
    parser.add_argument("--features", required=True, help="a torch.export program")
    parser.add_argument("--part", choices=["all", *PEERS, OURS, JUDGE], default="all")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of one thread for each")
    parser.add_argument("--samples", type=int, default=2048, help="images of each short chain")
    parser.add_argument("--long", type=int, default=512, help="images of each chain of 1,000 calls; 0 leaves them out")
    parser.add_argument("--trials", type=int, default=10, help="of tuning our timesteps")
    parser.add_argument("--runs", type=Path, default=Path("runs/peers"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = vars(parser.parse_args())
    part, results = options.pop("part"), options.pop("results")
    contest = Contest(**options)
    if contest.minutes != MINUTES and results == RESULTS:
        parser.error(f"results/ is for {MINUTES:g} minutes: name another folder with --results.")
    torch.set_num_threads(1)
    for peer in PEERS:
        if part in ("all", peer):
            run_peer(contest, peer)
    if part in ("all", OURS):
        run_ours(contest)
    if part in ("all", JUDGE):
        judge_all(contest, results)


if __name__ == "__main__":
    main()
