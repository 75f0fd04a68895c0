"""What the codec needs beyond a checkpoint, made once and stored beside it: `codec-averaged.json`, plain numbers.

The levels of the chain, the error measured at each, the index bits of each step, and the causal pixel model in
integers. The fingerprint of the codec is the file's own SHA-256, and since the file names the SHA-256 of the weights,
that stands for weights and codec data together.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ddpm.base.fields import Amount, Fields, Word
from ddpm.base.geometry import Geometry
from ddpm.codec.pixel_model import LARGEST_BIAS, LARGEST_WEIGHT, CausalModel, Layers, width
from ddpm.codec.progressive import Chain
from ddpm.codec.trellis import fewest_bits
from ddpm.errors import InputError
from ddpm.model.limits import MOST_STEPS
from ddpm.model.model import Model
from ddpm.model.scoring import scored_denoiser
from ddpm.model.sidecar import CODEC, Sidecar, SideFields, Weights

CHANNELS = (1, 3)
MOST_BITS = 2**16
"""Of a step: the trellis takes 4,096 numbers for each."""
CPU_TILES = 16
"""In a network call on the CPU."""
GPU_PIXELS = 2**17
"""In a network call on a GPU: 128 tiles of 32 x 32, whose activations take some GB in float64."""
Weight = Annotated[int, Field(ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)]
Bias = Annotated[int, Field(ge=-LARGEST_BIAS, le=LARGEST_BIAS)]


class _LayerFields(Fields):
    first: list[list[Weight]]
    first_bias: list[Bias]
    second: list[list[Weight]]
    second_bias: list[Bias]
    last: list[list[Weight]]
    last_bias: list[Bias]
    skip: list[list[Weight]]


class _CodecFields(SideFields):
    data: str
    data_fingerprint: str
    seed: Word
    levels: Annotated[list[Annotated[int, Field(ge=1, le=MOST_STEPS)]], Field(min_length=2)]
    errors: list[Amount]
    bits: list[Annotated[int, Field(ge=1, le=MOST_BITS)]]
    causal: list[_LayerFields]
    image_hashes: list[str]


SIDECAR = Sidecar(CODEC, "ddpm codec", "codec", fields=_CodecFields)


@dataclass(frozen=True, eq=False)
class CodecData:
    """A side file's content, in its order.

    data, data_fingerprint, seed, image_hashes  what it was measured and fitted on
    levels, errors, bits                        see progressive.Chain
    causal      the pixel model
    own_sha256  of the file's content, "" before it is written
    """

    data: str
    data_fingerprint: str
    seed: int
    levels: tuple[int, ...]
    errors: tuple[float, ...]
    bits: tuple[int, ...]
    causal: CausalModel
    image_hashes: tuple[str, ...]
    own_sha256: str = ""


@dataclass(frozen=True, eq=False)
class Codec:
    """A model ready to compress: in float64, with its codec data.

    name      the folder of the model
    classes   how many classes there are to choose from, 0 for models without
    no_class  the label of no class, for models that also learned without; None for others
    """

    chain: Chain
    causal: CausalModel
    geometry: Geometry
    fingerprint: str
    name: str
    classes: int = 0
    no_class: int | None = None

    def at_once(self, asked: int | None = None) -> int:
        """Tiles in a network call: as many as were asked for, or what suits the device."""
        if asked or self.chain.device.type == "cpu":
            return asked or CPU_TILES
        return max(1, GPU_PIXELS // math.prod(self.geometry.size))

    def labels(self, chosen: Sequence[int | None]) -> Tensor | None:
        """Classes as the network takes them, those of images without one too; None for a model without classes."""
        if not self.classes:
            return None
        return torch.tensor([self.no_class if one is None else one for one in chosen], device=self.chain.device)


def write_codec_data(of: Weights, data: CodecData) -> Path:
    """Store codec data beside their checkpoint; returns the file."""
    causal = [
        {name: value.astype(np.int64).tolist() for name, value in vars(one).items()} for one in data.causal.layers
    ]
    table = {**vars(data), "causal": causal}
    del table["own_sha256"]
    return SIDECAR.write(of, table)


def read_codec_data(of: Weights) -> CodecData | None:
    """Read what was made for these weights, None if nothing was.

    Errors: of other weights (WrongModel), damaged (DamagedFile), of a newer format (InputError).
    """
    table = SIDECAR.read(of)
    if table is None:
        return None
    channels = len(table["causal"])
    layers = [_layers(one, width(channels, channel)) for channel, one in enumerate(table["causal"])]
    sound = tuple(one for one in layers if one is not None)
    levels, steps = table["levels"], len(table["levels"]) - 1
    if channels not in CHANNELS or len(sound) != channels:
        raise SIDECAR.damaged(of, "its model of pixels is none of grey or RGB images")
    if (len(table["errors"]), len(table["bits"])) != (steps + 1, steps):
        raise SIDECAR.damaged(of, "its levels do not have an error and index bits each")
    if any(one <= other for one, other in itertools.pairwise(levels)):
        raise SIDECAR.damaged(of, "its levels do not fall")
    found: dict[str, Any] = {one.name: table[one.name] for one in fields(CodecData)}
    found |= {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    return CodecData(**found | {"causal": CausalModel(sound)})


def _layers(table: dict[str, Any], inputs: int) -> Layers | None:
    """The network of one channel, None if its shapes do not go together."""
    try:
        found = Layers(**{field.name: np.array(table[field.name], np.float64) for field in fields(Layers)})
    except ValueError:  # rows of several lengths
        return None
    hidden, out = len(found.first_bias), len(found.last_bias)
    middle = len(found.second_bias)
    wanted = {"first": (hidden, inputs), "second": (middle, hidden), "last": (out, middle), "skip": (out, inputs)}
    fits = all(getattr(found, name).shape == shape for name, shape in wanted.items())
    return found if fits and hidden and middle and out and out % 3 == 0 else None


def check_codes(model: Model) -> None:
    """Raise InputError for a model whose images no codec can hold."""
    if model.geometry.channels not in CHANNELS:
        found = f"{model.geometry.channels} channels; the codec holds grey (1) and RGB (3)"
        raise InputError(f"the model in '{model.source}' has {found}.")


def make_codec(model: Model, data: CodecData) -> Codec:
    """Put a model and its codec data together; the network is copied, in float64.

    Errors: codec data that are not of such a model (DamagedFile).
    """
    fewest = fewest_bits(math.prod(model.geometry.shape))
    if (len(data.causal.layers), data.levels[0]) != (model.geometry.channels, model.recipe.process.steps):
        raise SIDECAR.damaged(model, "it has other channels than the model, or another first level")
    if min(data.bits) < fewest:
        raise SIDECAR.damaged(model, f"a step has {min(data.bits)} index bits, and the fewest are {fewest}")
    device = torch.device("cpu") if model.device.type == "mps" else model.device  # Apple's GPUs have no float64
    network = copy.deepcopy(model.network).to(device).double()
    denoiser = replace(scored_denoiser(model), network=network, dtype=torch.float64, threshold="static")
    chain = Chain(denoiser, data.levels, data.errors, data.bits)
    classes = model.recipe.network.classes or 0
    return Codec(chain, data.causal, model.geometry, data.own_sha256, model.source, classes, model.no_class)
