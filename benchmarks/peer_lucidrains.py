"""lucidrains' denoising-diffusion-pytorch: its Unet and GaussianDiffusion, trained with the defaults of its Trainer.

The README's network has widths of 64, 128, 256, 512 for images of 128 x 128, and four heads of 32 = twice the first
width in all. Here it is 16, 32, 64 (28 is divisible by 4, not by 8) with as many heads of 8. A width of 12 has 0.56
times the arithmetic and trains at nearly the same speed (82 and 79 images a second in one test).
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

NETWORK = {"dim": 16, "dim_mults": (1, 2, 4), "channels": 1, "attn_dim_head": 8, "flash_attn": True}
KEYS = ("train_batch_size", "gradient_accumulate_every", "train_lr", "adam_betas", "max_grad_norm", "amp")
EMA_KEYS = ("ema_decay", "ema_update_every")
SAMPLERS = (("ddim", 20), ("ddim", 250), ("ancestral", 1000))  # 250 is the README's, 1,000 what it does unless told


def package() -> Any:
    """The package. For its Trainer's folder of files it imports two names from torchvision, which does not import
    beside a CPU build of torch here; nothing that is measured uses them, so empty modules stand in for them meanwhile.
    """
    stub = ModuleType("torchvision")
    stub.transforms, stub.utils = ModuleType("transforms"), ModuleType("utils")  # type: ignore[attr-defined]
    sys.modules["torchvision"] = stub
    try:
        library = importlib.import_module("denoising_diffusion_pytorch")
    finally:
        del sys.modules["torchvision"]  # diffusers asks whether it is there
    library.denoising_diffusion_pytorch.tqdm = lambda steps, **_: steps  # a bar for each batch
    return library


class Lucidrains:
    """A network in training by its rules, which `network` holds averaged once it is trained."""

    def __init__(self, side: int) -> None:
        self.library, self.side = package(), side
        values = {key: value.default for key, value in inspect.signature(self.library.Trainer).parameters.items()}
        self.trainer = {key: values[key] for key in (*KEYS, *EMA_KEYS)}
        assert (self.trainer["gradient_accumulate_every"], self.trainer["amp"]) == (1, False), self.trainer
        self.batch = self.trainer["train_batch_size"]
        self.network = self.build(side)
        self.diffusion = self.library.GaussianDiffusion(self.network, image_size=side)
        rate, betas = self.trainer["train_lr"], self.trainer["adam_betas"]
        self.optimiser = torch.optim.Adam(self.diffusion.parameters(), lr=rate, betas=betas)
        averages = importlib.import_module("ema_pytorch")
        decay, every = (self.trainer[key] for key in EMA_KEYS)
        self.ema = averages.EMA(self.diffusion, beta=decay, update_every=every)

    @staticmethod
    def build(side: int) -> nn.Module:
        """A fresh network, for images of any side that is divisible by 4."""
        network: nn.Module = package().Unet(**NETWORK)
        return network

    @property
    def settings(self) -> dict[str, Any]:
        """What is worth knowing, for JSON."""
        process = {"prediction": self.diffusion.objective, "schedule": "sigmoid, its default", "flip": False}
        return {"network": NETWORK, "trainer": self.trainer, **process}

    @property
    def versions(self) -> dict[str, str]:
        """Of the packages that do the work."""
        return {name: version(name) for name in ("denoising-diffusion-pytorch", "ema-pytorch", "einops", "torch")}

    def call(self, network: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        """One network call."""
        out: Tensor = network(x, t)
        return out

    def step(self, images: Tensor, share: float) -> None:
        """One step of its Trainer: images uint8 (B, 1, H, W); its learning rate does not depend on the time."""
        self.diffusion(images.float() / 255).backward()
        nn.utils.clip_grad_norm_(self.diffusion.parameters(), self.trainer["max_grad_norm"])
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.ema.update()

    def finish(self) -> None:
        """Put the averaged weights into the network."""
        self.network.load_state_dict(self.ema.ema_model.model.state_dict())

    def samplers(self) -> dict[tuple[str, int], Callable[[int], Tensor]]:
        """How to draw: by name and network calls, what draws so many images in [0, 1], (N, 1, H, W)."""
        return {(name, calls): self._sampler(calls) for name, calls in SAMPLERS}

    def _sampler(self, calls: int) -> Callable[[int], Tensor]:
        drawn_by = self.library.GaussianDiffusion(self.network, image_size=self.side, sampling_timesteps=calls).eval()
        return lambda count: drawn_by.sample(batch_size=count)
