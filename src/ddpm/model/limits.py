"""What the numbers of a recipe may be: bounds that no sensible run meets, checked before anything is allocated."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field

from ddpm.base.fields import MOST_COUNT
from ddpm.errors import InputError
from ddpm.networks.blocks import MOST_TIMES
from ddpm.networks.size import NetworkSize

MOST_PARAMETERS = 10**10
MOST_ACTIVATIONS = 10**11
"""Values that one image becomes inside the network, all layers together: 400 GB."""
MOST_IN_BATCH = 2 * 10**11
"""The same of a batch, which a device holds while it learns: 400 GB in bfloat16."""
LONGEST_LINEAR = 8192
"""Pixels a side of images with a linear denoiser, whose cosine transforms are matrices of side x side."""
MOST_STEPS = MOST_TIMES
"""T of a process: the best levels and the smoothing of errors take tables of T x T."""
MOST_RATE = 1e37
"""Of learning, and of a gradient's norm: Adam divides by 0.1 at first, and float32 ends at 3e38."""


def parse_count(value: object) -> object:
    """Read "300k" or "2.5M" as a number of images; anything else is passed on."""
    pattern = r"\s*(\d[\d_]{,20}|\d{1,3}(?:,\d{3}){1,6}|\d{1,20}\.\d{1,20})\s*([kKmM]?)\s*"
    match = re.fullmatch(pattern, value) if isinstance(value, str) else None
    if match is None:
        return value
    number = Decimal(re.sub("[_,]", "", match[1])) * {"": 1, "k": 10**3, "m": 10**6}[match[2].lower()]
    return int(number) if number == int(number) else value


Count = Annotated[int, BeforeValidator(parse_count), Field(strict=True, ge=0, le=MOST_COUNT)]
Positive = Annotated[int, BeforeValidator(parse_count), Field(strict=True, ge=1, le=MOST_COUNT)]
Rate = Annotated[float, Field(strict=True, gt=0, le=MOST_RATE, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, lt=1)]
LogScale = Annotated[float, Field(strict=True, ge=-100, le=100)]

Side = Annotated[Positive, Field(le=65_536)]
Width = Annotated[Positive, Field(le=16_384)]
Multipliers = Annotated[tuple[Annotated[Positive, Field(le=1024)], ...], Field(min_length=1, max_length=16)]
Blocks = Annotated[Positive, Field(le=64)]
Fold = Annotated[Positive, Field(le=256)]
Classes = Annotated[Count, Field(le=1_000_000)]
Levels = Annotated[tuple[Annotated[Count, Field(le=15)], ...], Field(max_length=16)]
EmaLengths = Annotated[
    tuple[Annotated[float, Field(strict=True, ge=0.001, le=0.3, allow_inf_nan=False)], ...], Field(max_length=4)
]
Steps = Annotated[Positive, Field(le=MOST_STEPS)]
BatchSize = Annotated[Positive, Field(le=65_536)]
Calls = Annotated[Positive, Field(le=10**8)]


def check_size(size: NetworkSize) -> None:
    """Refuse a network that no machine holds."""
    if size.parameters > MOST_PARAMETERS:
        raise InputError(
            f"a network of {size.parameters:,} parameters is too large, the most are {MOST_PARAMETERS:,}: lower "
            "network.channels, network.multipliers or network.blocks."
        )
    if size.activations > MOST_ACTIVATIONS:
        raise InputError(
            f"one image becomes about {size.activations:,} values inside this network, and the most are "
            f"{MOST_ACTIVATIONS:,}: choose a smaller --size or a narrower network."
        )


def check_batch(size: NetworkSize, batch_size: int) -> None:
    """Refuse a batch that no device holds while it learns."""
    values = size.activations * batch_size
    if values > MOST_IN_BATCH:
        raise InputError(
            f"a batch of {batch_size:,} images becomes about {values:,} values inside this network, and the most are "
            f"{MOST_IN_BATCH:,}: choose a smaller batch_size."
        )
