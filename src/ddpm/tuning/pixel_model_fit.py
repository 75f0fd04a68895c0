"""Fit the causal pixel model on training images and turn it into integers.

It is trained in floats on the very inputs and the very mixture that the integer model will see, pixel by pixel at
random, by the code length; rounding to integers afterwards costs about a thousandth of a bit.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.base.progress import Advance, unheard
from ddpm.base.seeding import generator
from ddpm.base.tensors import Integers, Pixels
from ddpm.base.units import LEVELS
from ddpm.codec.mixture import LARGEST, SCALE_UNIT, SIXTEENTHS, SMALLEST
from ddpm.codec.pixel_model import (
    HIDDEN_BITS,
    INPUT_BITS,
    LARGEST_BIAS,
    LARGEST_WEIGHT,
    OUTPUT_BITS,
    WEIGHT_BITS,
    Canvas,
    CausalModel,
    Layers,
    width,
)
from ddpm.codec.range_coder import TOTAL_BITS

HIDDEN, COMPONENTS = 96, 4
BATCH = 2048  # pixels of each channel a step
LEARNING_RATE = 2e-3
OFFSET = 8.0  # grey levels that an output of 1 moves a mean
FLOOR = LEVELS / 2**TOTAL_BITS  # of all probabilities together


class FloatLayers(nn.Module):
    """Layers in floats: inputs in grey levels / 8 and so on, see pixel_model.py for the units."""

    def __init__(self, inputs: int, seed: int) -> None:
        super().__init__()
        sizes = {"first": (HIDDEN, inputs), "second": (HIDDEN, HIDDEN), "last": (3 * COMPONENTS, HIDDEN)}
        draw = torch.Generator().manual_seed(seed)
        self.weights = nn.ParameterDict()
        for name, (out, into) in sizes.items():
            gain = 0.1 if name == "last" else 1.0
            self.weights[name] = nn.Parameter(gain * torch.randn(out, into, generator=draw) * (1 / into) ** 0.5)
            self.weights[f"{name}_bias"] = nn.Parameter(torch.zeros(out))
        self.weights["skip"] = nn.Parameter(torch.zeros(3 * COMPONENTS, inputs))
        with torch.no_grad():  # components begin side by side, some narrow and some wide
            bias = self.weights["last_bias"]
            bias[COMPONENTS : 2 * COMPONENTS] = torch.linspace(-0.5, 0.5, COMPONENTS)
            bias[2 * COMPONENTS :] = torch.linspace(0.5, 3.0, COMPONENTS)

    def forward(self, inputs: Tensor) -> Tensor:
        """(P, F) of integers as floats -> (P, 3 K)."""
        scaled, weights = inputs / 2.0**INPUT_BITS, self.weights
        hidden = F.relu(F.linear(scaled, weights["first"], weights["first_bias"]))
        hidden = F.relu(F.linear(hidden, weights["second"], weights["second_bias"]))
        return F.linear(hidden, weights["last"], weights["last_bias"]) + F.linear(scaled, weights["skip"])

    def integers(self) -> Layers:
        """The same in integers."""

        bits = {
            "first_bias": INPUT_BITS + WEIGHT_BITS,
            "second_bias": HIDDEN_BITS + WEIGHT_BITS,
            "last_bias": OUTPUT_BITS,
        }
        found = {}
        for name, weight in self.weights.items():
            limit = LARGEST_BIAS if name in bits else LARGEST_WEIGHT
            value = torch.round(weight.detach().double() * 2.0 ** bits.get(name, WEIGHT_BITS))
            found[name] = value.clamp(-limit, limit).numpy()
        return Layers(**found)


def code_length(said: Tensor, guess: Tensor, level: Tensor) -> Tensor:
    """Bits of grey levels (P,) by mixtures (P, 3 K) around guesses in grey levels (P,)."""
    logits, offsets, scales = said.chunk(3, dim=1)
    scales = scales.clamp(SMALLEST / SCALE_UNIT, LARGEST / SCALE_UNIT)
    apart = level[:, None] - guess[:, None] - OFFSET * offsets
    upper, lower = (apart + 0.5) * torch.exp(-scales), (apart - 0.5) * torch.exp(-scales)
    inside = torch.sigmoid(upper) - torch.sigmoid(lower)
    edge = torch.where(
        level[:, None] == 0, torch.sigmoid(upper), torch.where(level[:, None] == 255, torch.sigmoid(-lower), inside)
    )
    mass = (torch.softmax(logits, dim=1) * edge).sum(1)
    return -torch.log2(mass * (1 - FLOOR) + FLOOR / LEVELS)


def fit_causal(
    guess: Integers, pixels: Pixels, *, steps: int, seed: int = 0, advance: Advance = unheard
) -> CausalModel:
    """Train on images (N, C, H, W) with their guesses, in sixteenths of a grey level; `steps` of the optimiser."""
    count, channels, *size = guess.shape
    canvas = Canvas.of(guess, pixels)
    models = [FloatLayers(width(channels, channel), seed + channel) for channel in range(channels)]
    optimiser = torch.optim.Adam([p for model in models for p in model.parameters()], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps + 1, pct_start=0.1)
    draw = generator("causal", seed)
    for _ in range(steps):
        place = np.unravel_index(draw.integers(count * size[0] * size[1], size=BATCH), (count, *size))
        loss = torch.zeros(())
        for channel, model in enumerate(models):
            inputs = torch.from_numpy(canvas.inputs(channel, *place)).float()
            centre = torch.from_numpy(canvas.centre(channel, *place) / SIXTEENTHS).float()
            level = torch.from_numpy(pixels[place[0], channel, place[1], place[2]]).float()
            loss = loss + code_length(model(inputs), centre, level).mean() / channels
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for model in models for p in model.parameters()], 1.0)
        optimiser.step()
        schedule.step()
        advance(1)
    return CausalModel(tuple(model.integers() for model in models))
