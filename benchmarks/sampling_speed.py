"""Images per second of our samplers against diffusers' pipelines, on the same network with the same calls.

    python benchmarks/sampling_speed.py [--model models/fashion-mnist] [--seconds 60] [--device cpu]

Both draw 64 images a round, in turn in one process, on one thread; the figure is the ratio (ours / theirs) per round,
by median. `outside` is the share of our time that is not spent in the network. Writes results/sampling-speed.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from record import write_result

import ddpm
from ddpm.generation.draw import draw, plan_for
from ddpm.model.model import Model
from ddpm.samplers.plan import Sampling

BATCH = 64
BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
PAIRS: dict[str, tuple[Sampling, str, str]] = {
    "ddim, 10 calls": (Sampling("ddim", 10, "uniform"), "DDIMPipeline", "DDIMScheduler"),
    "ancestral, 50 calls": (Sampling("ancestral", 50, "uniform"), "DDPMPipeline", "DDPMScheduler"),
}
OWN = ("heun", "dpm++", "dpm++sde", "unipc")


class Theirs(ModelMixin, ConfigMixin):
    """Our network, as diffusers' pipelines want one."""

    config_name = "config.json"

    @register_to_config
    def __init__(self, in_channels: int, sample_size: tuple[int, int]) -> None:
        super().__init__()

    def wrap(self, network: torch.nn.Module) -> Theirs:
        """Call this network."""
        self.network = network
        return self

    def forward(self, sample: torch.Tensor, timestep: Any, return_dict: bool = True) -> UNet2DOutput:
        """The network's answer at one time for all."""
        time_of_all = torch.as_tensor(timestep, device="cpu").reshape(-1).expand(len(sample))
        return UNet2DOutput(sample=self.network(sample, time_of_all))


class Timed(torch.nn.Module):
    """A network that adds up how long it is at work."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.seconds = network, 0.0

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """The network's answer."""
        synchronise(x.device)
        start = time.perf_counter()
        out: torch.Tensor = self.network(x, t, labels)
        synchronise(x.device)
        self.seconds += time.perf_counter() - start
        return out


def synchronise(device: torch.device) -> None:
    """Wait for an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pipeline(model: Model, kind: str, scheduler: str) -> Any:
    """One of diffusers' pipelines on our network."""
    geometry = model.geometry
    unet = Theirs(geometry.channels, (geometry.height, geometry.width)).wrap(model.network).eval()
    found = getattr(diffusers, kind)(unet=unet, scheduler=getattr(diffusers, scheduler)(**BETAS))
    found.set_progress_bar_config(disable=True)
    return found


def compare(model: Model, ours: Sampling, theirs: Any, seconds: float) -> dict[str, Any]:
    """Both in turn for about so many seconds, after one round that does not count."""
    steps, seeds = ours.steps or 1000, range(BATCH)
    speeds: list[list[float]] = [[], []]
    end, rounds = 0.0, -1
    while rounds < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        draw(model, seeds, plan_for(model, ours), batch_size=BATCH)
        middle = time.perf_counter()
        theirs(batch_size=BATCH, num_inference_steps=steps, output_type="np")
        last = time.perf_counter()
        rounds += 1
        if rounds == 0:
            end = last + seconds
            continue
        speeds[0].append(BATCH / (middle - start))
        speeds[1].append(BATCH / (last - middle))
    ratios = [one / other for one, other in zip(*speeds, strict=True)]
    return {
        "ours_images_per_second": round(statistics.median(speeds[0]), 2),
        "diffusers_images_per_second": round(statistics.median(speeds[1]), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)[::2]],
        "rounds": rounds,
    }


def outside(model: Model, how: Sampling) -> float:
    """The share of our time that is not the network's: the median of five rounds."""
    timed = Timed(model.network)
    watched = replace(model, network=timed)  # type: ignore[arg-type]
    shares = []
    for _ in range(6):
        timed.seconds = 0.0
        start = time.perf_counter()
        draw(watched, range(BATCH), plan_for(watched, how), batch_size=BATCH)
        shares.append(1 - timed.seconds / (time.perf_counter() - start))
    return round(statistics.median(shares[1:]), 4)


def main() -> None:
    """Print the table and write results/sampling-speed.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="models/fashion-mnist")
    parser.add_argument("--seconds", type=float, default=60, help="for each pair")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = ddpm.load(options.model, device=options.device)
    table: dict[str, Any] = {"model": options.model, "device": options.device, "batch": BATCH, "pairs": {}}
    for name, (ours, kind, scheduler) in PAIRS.items():
        found = compare(model, ours, pipeline(model, kind, scheduler), options.seconds)
        table["pairs"][name] = found | {"outside": outside(model, ours)}
        print(name, table["pairs"][name], flush=True)
    table["outside"] = {name: outside(model, Sampling(name, 10, "uniform")) for name in OWN}
    print(table["outside"])
    write_result("sampling-speed", table, seed=0)


if __name__ == "__main__":
    main()
