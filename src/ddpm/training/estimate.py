"""What a recipe will cost before it is run: parameters, arithmetic, memory, time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ddpm.geometry import Geometry
from ddpm.model import build_network, resolve_device
from ddpm.networks import UNet
from ddpm.recipe import Recipe

PROBE_MACS = 1e9
PROBE_SECONDS = 1.0


@dataclass(frozen=True)
class Estimate:
    """The cost of a run.

    parameters         of the network
    macs               multiply-adds of one network call on one image
    memory             bytes: weights, their average, gradients, optimiser, and the activations of a batch
    images_per_second  while training on this machine, measured on a few images (smaller ones if they are large)
    seconds            for the whole run at that speed
    """

    parameters: int
    macs: int
    memory: int
    images_per_second: float
    seconds: float


def estimate(recipe: Recipe) -> Estimate:
    """Estimate the cost of a resolved recipe; no data is needed."""
    network = build_network(recipe)
    parameters = sum(p.numel() for p in network.parameters())
    speed = _images_per_second(network, recipe)
    macs, activations = _count(network.to("meta"), recipe.geometry)
    memory = 4 * (5 * parameters) + activations * recipe.batch_size
    return Estimate(parameters, macs, memory, speed, recipe.train_images / speed)


def _count(network: UNet, geometry: Geometry) -> tuple[int, int]:
    """Multiply-adds of one call on one image, and the bytes its backward pass keeps, without computing anything."""
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage.nbytes()
        return tensor

    weights = sum(p.untyped_storage().nbytes() for p in network.parameters())
    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        _call(network, 1, geometry, torch.device("meta"))
    return counter.get_total_flops() // 2, max(sum(saved.values()) - weights, 0)


def _images_per_second(network: UNet, recipe: Recipe) -> float:
    """Time training steps of about PROBE_SECONDS, on smaller images where one step would take too long."""
    device = resolve_device(recipe.device)
    network = network.to(device)
    probe, share = recipe.geometry, 1.0
    factor = recipe.network.space_to_depth * 2 ** len(recipe.network.multipliers)
    macs, _ = _count(_meta(recipe), probe)
    while macs * share > PROBE_MACS and probe.height % factor == 0 and probe.width % factor == 0:
        probe, share = Geometry(probe.channels, probe.height // 2, probe.width // 2), share / 4
    batch = max(1, min(recipe.batch_size, int(PROBE_MACS / (macs * share))))
    _train_step(network, batch, probe, device)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < PROBE_SECONDS:
        _train_step(network, batch, probe, device)
        steps += 1
    return steps * batch * share / (time.perf_counter() - start)


def _meta(recipe: Recipe) -> UNet:
    with torch.device("meta"):
        return build_network(recipe)


def _train_step(network: UNet, batch: int, geometry: Geometry, device: torch.device) -> None:
    network.zero_grad()
    _call(network, batch, geometry, device).square().mean().backward()  # type: ignore[no-untyped-call]
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _call(network: UNet, batch: int, geometry: Geometry, device: torch.device) -> torch.Tensor:
    labels = None if network.label is None else torch.zeros(batch, dtype=torch.long, device=device)
    time = torch.zeros(batch, dtype=torch.long, device=device)
    out: torch.Tensor = network(torch.zeros(batch, *geometry.shape, device=device), time, labels)
    return out
