"""What the codec needs beyond a checkpoint, made once and stored beside it: `codec-averaged.json`, plain numbers.

The levels of the chain, the error measured at each, the index bits of each step, and the causal pixel model in
integers. The fingerprint of the codec is the file's own SHA-256, and since the file names the SHA-256 of the weights,
that stands for weights and codec data together.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpm.base.geometry import Geometry
from ddpm.codec.pixel_model import CausalModel, Layers
from ddpm.codec.progressive import Chain
from ddpm.errors import InputError
from ddpm.model.model import Model
from ddpm.model.scoring import scored_denoiser
from ddpm.model.sidecar import Sidecar, Weights

SIDECAR = Sidecar("codec", "ddpm codec", "codec")


@dataclass(frozen=True, eq=False)
class CodecData:
    """A side file's content.

    levels, errors, bits  see chain.Chain
    causal            the pixel model
    data, data_fingerprint, image_hashes  what it was measured and fitted on
    seed              of that
    own_sha256        of the file's content, "" before it is written
    """

    levels: tuple[int, ...]
    errors: tuple[float, ...]
    bits: tuple[int, ...]
    causal: CausalModel
    data: str
    data_fingerprint: str
    image_hashes: tuple[str, ...]
    seed: int
    own_sha256: str = ""


@dataclass(frozen=True, eq=False)
class Codec:
    """A model ready to compress: in float64, with its codec data.

    no_class  the label of no class, for models that also learned without; None for others
    classes   how many classes there are to choose from, 0 for models without
    """

    chain: Chain
    causal: CausalModel
    geometry: Geometry
    fingerprint: str
    name: str
    classes: int = 0
    no_class: int | None = None


def write_codec_data(of: Weights, data: CodecData) -> Path:
    """Store codec data beside their checkpoint; returns the file."""
    table = {
        "data": data.data,
        "data_fingerprint": data.data_fingerprint,
        "seed": data.seed,
        "levels": list(data.levels),
        "errors": list(data.errors),
        "bits": list(data.bits),
        "causal": [_plain(layers) for layers in data.causal.layers],
        "image_hashes": list(data.image_hashes),
    }
    return SIDECAR.write(of, table)


def read_codec_data(of: Weights) -> CodecData | None:
    """Read what was made for these weights, None if nothing was.

    Errors: of other weights (WrongModel), damaged (DamagedFile), of a newer format (InputError).
    """
    table = SIDECAR.read(of)
    if table is None:
        return None
    return CodecData(
        tuple(table["levels"]),
        tuple(table["errors"]),
        tuple(table["bits"]),
        CausalModel(tuple(_layers(entry) for entry in table["causal"])),
        table["data"],
        table["data_fingerprint"],
        tuple(table["image_hashes"]),
        table["seed"],
        table["own_sha256"],
    )


def required_codec_data(model: Model) -> CodecData:
    """What was made for a model; InputError if nothing was, or if no codec can hold its images."""
    check_codes(model)
    made = read_codec_data(model)
    if made is None:
        raise InputError(f"the codec data of '{model.source}' were not made yet: run {SIDECAR.made_by(model)}.")
    return made


def check_codes(model: Model) -> None:
    """Raise InputError for a model whose images no codec can hold."""
    if model.geometry.channels not in (1, 3):
        raise InputError(
            f"the model in '{model.source}' has {model.geometry.channels} channels; the codec holds grey (1) and RGB "
            "(3)."
        )


def make_chain(model: Model, levels: tuple[int, ...], errors: tuple[float, ...], bits: tuple[int, ...]) -> Chain:
    """A chain over some levels of a model, its network in float64."""
    device = torch.device("cpu") if model.device.type == "mps" else model.device  # Apple's GPUs have no float64
    network = copy.deepcopy(model.network).to(device).double()
    denoiser = replace(scored_denoiser(model), network=network, dtype=torch.float64, threshold="static")
    return Chain(denoiser, levels, errors, bits)


def make_codec(model: Model, data: CodecData) -> Codec:
    """Put a model and its codec data together."""
    check_codes(model)
    classes = model.recipe.network.classes or 0
    no_class = classes if classes and model.recipe.training.label_dropout else None
    chain = make_chain(model, data.levels, data.errors, data.bits)
    return Codec(chain, data.causal, model.geometry, data.own_sha256, model.source, classes, no_class)


def _plain(layers: Layers) -> dict[str, Any]:
    return {field.name: getattr(layers, field.name).astype(np.int64).tolist() for field in fields(Layers)}


def _layers(entry: Mapping[str, Any]) -> Layers:
    return Layers(**{name: np.array(values, np.float64) for name, values in entry.items()})
