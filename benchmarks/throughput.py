"""Images per second of our U-Net against diffusers' UNet2DModel of the same architecture, in turn in one process.

Both nets have the same shapes and parameter count; each round times one training step and one forward pass of both,
so that a machine whose speed drifts slows both. The figure is the ratio (ours / theirs) per round, by median. Two
networks: a narrow one for CIFAR-10, and the `fashion-mnist` recipe's, whose time goes into calls more than arithmetic.

    python benchmarks/throughput.py [--seconds 60] [--write]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from on_device import forward, training_step
from record import write_result
from twins import Twin

from ddpm.model.model import build_network
from ddpm.model.recipe import Recipe, load_recipe, resolve

BATCH = 32
NARROW = {"channels": 64, "multipliers": [1, 2, 2], "blocks": 1, "groups": 32, "attention_levels": [1], "dropout": 0.0}


def compare(works: list[Callable[[], object]], seconds: float) -> dict[str, Any]:
    """Time both, ours first, in turn for about so many seconds."""
    speeds: list[list[float]] = [[], []]
    for work in works:
        work()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(speeds[0]) < 5:
        for work, speed in zip(works, speeds, strict=True):
            start = time.perf_counter()
            work()
            speed.append(BATCH / (time.perf_counter() - start))
    ratios = [ours / theirs for ours, theirs in zip(*speeds, strict=True)]
    return {
        "ours_images_per_second": round(statistics.median(speeds[0]), 1),
        "diffusers_images_per_second": round(statistics.median(speeds[1]), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)[::2]],
        "rounds": len(ratios),
    }


def measure(recipe: Recipe, seconds: float) -> dict[str, Any]:
    """A training step and a forward pass of a recipe's network and its twin."""
    nets = [build_network(recipe), Twin(recipe)]
    x, t = torch.randn(BATCH, *recipe.geometry.shape), torch.randint(0, 1000, (BATCH,))
    steps = [training_step(network, torch.optim.Adam(network.parameters()), x, t) for network in nets]
    table: dict[str, Any] = {"parameters": sum(weight.numel() for weight in nets[0].parameters()), "batch": BATCH}
    for name, works in (("training", steps), ("forward", [forward(network, x, t) for network in nets])):
        table[name] = compare(works, seconds / 2)
        print(name, table[name], flush=True)
    return table


def main() -> None:
    """Print the table; with --write also results/throughput.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60, help="for the whole comparison")
    parser.add_argument("--write", action="store_true", help="write results/throughput.json")
    options = parser.parse_args()
    recipes = [load_recipe("cifar10", {"network": NARROW}), load_recipe("fashion-mnist")]
    narrow, small = (measure(resolve(recipe, recipe.geometry, 0), options.seconds / 2) for recipe in recipes)
    if options.write:
        write_result("throughput", {**narrow, "small_network": small}, seed=0)


if __name__ == "__main__":
    main()
