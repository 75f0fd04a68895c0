"""A model: a recipe, weights that fit it, and what they were trained on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddpm.base.geometry import Geometry
from ddpm.diffusion.denoiser import LEARNED, Denoiser
from ddpm.diffusion.process import Process
from ddpm.errors import InputError
from ddpm.model.recipe import Recipe
from ddpm.networks.linear import LinearDenoiser
from ddpm.networks.unet import UNet


@dataclass(frozen=True)
class Model:
    """What `ddpm.load` returns: everything needed to sample, score or compress.

    recipe       fully resolved
    network      in evaluation mode, on its device
    class_names  one per class, () if the model takes no classes
    images_seen  in training
    weights      which weights the network holds, "ema" or "raw"
    source       the folder it was read from
    data_fingerprint  of the training images, "" if unknown
    weights_sha256    of the file the weights came from, "" if they came from none
    """

    recipe: Recipe
    network: nn.Module
    class_names: tuple[str, ...]
    images_seen: int
    weights: str
    source: str
    data_fingerprint: str = ""
    weights_sha256: str = ""

    @property
    def geometry(self) -> Geometry:
        """The shape of its images."""
        return self.recipe.geometry

    @property
    def no_class(self) -> int | None:
        """The label of no class, where the model was also trained without its classes; None for others."""
        return self.recipe.network.classes or None if self.recipe.training.label_dropout else None

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return some_weight(self.network).device

    @property
    def denoiser(self) -> Denoiser:
        """The network with its output's meaning."""
        return build_denoiser(self.recipe, self.network)


def some_weight(network: nn.Module) -> Tensor:
    """A tensor with the network's dtype and device; a linear denoiser alone has buffers and no parameters."""
    return next(itertools.chain(network.parameters(), network.buffers()))


def build_network(recipe: Recipe) -> nn.Module:
    """A resolved recipe's network, with initial weights drawn from its seed, laid out for the fastest convolutions."""
    if recipe.network.linear == "none":
        return _build_unet(recipe)
    linear, correction = recipe.network.linear, None if recipe.network.linear == "alone" else _build_unet(recipe)
    log_snr = recipe.process.make_schedule().log_snr[1:]
    return LinearDenoiser(recipe.geometry.shape, log_snr, correction, scalar=linear == "scalar")


def _build_unet(recipe: Recipe) -> UNet:
    network, channels = recipe.network, recipe.geometry.channels
    with torch.random.fork_rng(devices=[]):  # PyTorch's layers draw weights of their own first
        unet: UNet = UNet(
            channels,
            channels * (2 if recipe.process.variance in LEARNED else 1),
            channels=network.channels,
            multipliers=network.multipliers,
            blocks=network.blocks,
            attention_levels=network.attention_levels or (),
            dropout=network.dropout,
            classes=network.classes + bool(recipe.training.label_dropout) if network.classes else None,
            groups=network.groups,
            space_to_depth=network.space_to_depth,
            checkpointing=recipe.checkpointing,
            seed=recipe.seed,
        )
    return unet.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


def build_denoiser(recipe: Recipe, network: nn.Module) -> Denoiser:
    """Give a network's output its meaning."""
    process = Process(recipe.process.make_schedule())
    dtype = some_weight(network).dtype
    return Denoiser(network, process, recipe.objective.prediction, recipe.process.variance, dtype=dtype)


def resolve_device(name: str) -> torch.device:
    """The device a recipe names; "auto" is the accelerator PyTorch sees, else the CPU."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(f"there is no device '{name}' here; choose auto or cpu.") from None
    return device
