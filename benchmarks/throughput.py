"""Images per second of our U-Net against diffusers' UNet2DModel of the same architecture, in turn in one process.

Both nets have the same shapes and parameter count; each round times one training step and one forward pass of both,
so that a machine whose speed drifts slows both. The figure is the ratio (ours / theirs) per round, by median.

    python benchmarks/throughput.py [--seconds 60] [--write]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import UNet2DModel
from record import write_result

from ddpm.model.model import build_network
from ddpm.model.recipe import load_recipe, resolve

BATCH = 32


def networks() -> tuple[torch.nn.Module, torch.nn.Module, tuple[int, int, int]]:
    """Ours and theirs: 64 channels, multipliers 1, 2, 2, attention at 16 x 16, 32 x 32 RGB."""
    table = {"channels": 64, "multipliers": [1, 2, 2], "blocks": 1, "groups": 32, "attention_levels": [1], "classes": 0}
    recipe = load_recipe("cifar10", {"network": {**table, "dropout": 0.0}})
    theirs = UNet2DModel(
        sample_size=32,
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        freq_shift=1,
        flip_sin_to_cos=False,
        norm_eps=1e-6,
        downsample_padding=0,
        attention_head_dim=None,
    )
    return build_network(resolve(recipe, recipe.geometry, 0)), theirs, recipe.geometry.shape


def training_step(network: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> None:
    """Forward, backward, Adam's step."""
    optimiser = optimisers[network]
    optimiser.zero_grad()
    output(network(x, t)).square().mean().backward()
    optimiser.step()


@torch.no_grad()
def forward(network: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> None:
    """One network call."""
    network(x, t)


def output(result: object) -> torch.Tensor:
    """diffusers wraps its tensor."""
    return result if isinstance(result, torch.Tensor) else result.sample  # type: ignore[attr-defined]


optimisers: dict[torch.nn.Module, torch.optim.Optimizer] = {}


def compare(work: Callable[..., None], nets: list[torch.nn.Module], shape: tuple[int, ...], seconds: float) -> dict:
    """Time both in turn for about so many seconds."""
    x, t = torch.randn(BATCH, *shape), torch.randint(0, 1000, (BATCH,))
    speeds: list[list[float]] = [[], []]
    for network in nets:
        work(network, x, t)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(speeds[0]) < 5:
        for network, speed in zip(nets, speeds, strict=True):
            start = time.perf_counter()
            work(network, x, t)
            speed.append(BATCH / (time.perf_counter() - start))
    ratios = [ours / theirs for ours, theirs in zip(*speeds, strict=True)]
    return {
        "ours_images_per_second": round(statistics.median(speeds[0]), 1),
        "diffusers_images_per_second": round(statistics.median(speeds[1]), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)[::2]],
        "rounds": len(ratios),
    }


def main() -> None:
    """Print the table; with --write also results/throughput.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60, help="for the whole comparison")
    parser.add_argument("--write", action="store_true", help="write results/throughput.json")
    options = parser.parse_args()
    ours, theirs, shape = networks()
    nets = [ours, theirs]
    optimisers.update({network: torch.optim.Adam(network.parameters()) for network in nets})
    counts = [sum(p.numel() for p in network.parameters()) for network in nets]
    assert counts[0] == counts[1], counts
    table = {"parameters": counts[0], "batch": BATCH}
    for name, work in (("training", training_step), ("forward", forward)):
        table[name] = compare(work, nets, shape, options.seconds / 2)  # type: ignore[assignment]
        print(name, table[name])
    if options.write:
        write_result("throughput", table, seed=0)


if __name__ == "__main__":
    main()
