"""diffusers: UNet2DModel and DDPMScheduler, trained as its unconditional example script trains by default.

The tutorial's network for images of 128 x 128 has two layers a level and attention at 8 x 8 alone; here it has three
levels of 28, 14 and 7, attention at 7 x 7, and 0.41 million parameters. One of widths 16, 16, 32 has 0.65 times the
arithmetic and trains at nearly the same speed (133 and 126 images a second in one test). The example's cosine schedule
counts steps to a total; here a clock ends the training, so after its warm-up the cosine falls with the share of the
time that has passed, to zero at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

NETWORK = {
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 2,
    "block_out_channels": (16, 32, 32),
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
}
BATCH, WARMUP_STEPS, CLIP_NORM = 16, 500, 1.0
OPTIMISER = {"lr": 1e-4, "betas": (0.95, 0.999), "weight_decay": 1e-6, "eps": 1e-8}
EMA = {"decay": 0.9999, "use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75}
SOLVERS = {  # what the page of DPMSolverMultistepScheduler recommends: unconditional, pixels; and its SDE form
    "DPM++ 3M": {"solver_order": 3, "thresholding": True},
    "DPM++ 2M SDE": {"algorithm_type": "sde-dpmsolver++", "thresholding": True},
}


class Diffusers:
    """A network in training by the example's rules, which `network` holds averaged once it is trained."""

    def __init__(self, side: int) -> None:
        self.batch = BATCH
        self.network = self.build(side)
        self.process = DDPMScheduler(num_train_timesteps=1000)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), **OPTIMISER)  # type: ignore[arg-type]
        self.ema = EMAModel(self.network.parameters(), **EMA)  # type: ignore[arg-type]
        self.steps, self.warm = 0, 0.0

    @staticmethod
    def build(side: int) -> nn.Module:
        """A fresh network for images of this side."""
        network: nn.Module = UNet2DModel(sample_size=side, **NETWORK)
        return network

    @property
    def settings(self) -> dict[str, Any]:
        """What is worth knowing, for JSON."""
        training = {"batch": BATCH, "clip_norm": CLIP_NORM, "warmup_steps": WARMUP_STEPS, "then": "cosine to zero"}
        return {"network": NETWORK, "optimiser": OPTIMISER, "ema": EMA, **training, "prediction": "eps", "flip": False}

    @property
    def versions(self) -> dict[str, str]:
        """Of the packages that do the work."""
        return {name: version(name) for name in ("diffusers", "torch")}

    def call(self, network: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        """One network call."""
        out: Tensor = network(x, t).sample
        return out

    def step(self, images: Tensor, share: float) -> None:
        """One step of the example: images uint8 (B, 1, H, W); `share` of the time has passed."""
        x0 = images.float() / 127.5 - 1
        noise, t = torch.randn_like(x0), torch.randint(0, 1000, (len(x0),))
        xt = self.process.add_noise(x0, noise, t)  # type: ignore[arg-type]
        F.mse_loss(self.call(self.network, xt, t), noise).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
        for group in self.optimiser.param_groups:
            group["lr"] = OPTIMISER["lr"] * self._rate(share)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.ema.step(self.network.parameters())
        self.steps += 1

    def _rate(self, share: float) -> float:
        """The share of the learning rate: a warm-up by steps, then half a cosine by the clock."""
        if self.steps < WARMUP_STEPS:
            self.warm = share
            return self.steps / WARMUP_STEPS
        return 0.5 + 0.5 * math.cos(math.pi * (share - self.warm) / (1 - self.warm))

    def finish(self) -> None:
        """Put the averaged weights into the network."""
        self.ema.copy_to(self.network.parameters())

    def samplers(self) -> dict[tuple[str, int], Callable[[int], Tensor]]:
        """How to draw: by name and network calls, what draws so many images in [0, 1], (N, 1, H, W)."""
        config = self.process.config
        solvers = {name: DPMSolverMultistepScheduler.from_config(config, **how) for name, how in SOLVERS.items()}
        short = {(name, 20): self._sampler(solver, 20) for name, solver in solvers.items()}
        return short | {("DDPM", 1000): self._sampler(self.process, 1000)}

    def _sampler(self, scheduler: Any, calls: int) -> Callable[[int], Tensor]:
        pipeline = DDPMPipeline(unet=self.network.eval(), scheduler=scheduler)
        pipeline.set_progress_bar_config(disable=True)
        return lambda count: pipeline(batch_size=count, num_inference_steps=calls, output_type="pt").images
