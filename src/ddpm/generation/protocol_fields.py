"""What says how images were drawn, checked field by field."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ddpm.base.fields import Fields, Finite, Whole
from ddpm.base.precision import STRICT

ADVICE = "choose another output, or remove it"
OLD_NOISE = 1  # of what says no version, see noise.NOISE_VERSION


class ProtocolFields(Fields):
    """Of draw.protocol; older versions say neither precision nor noise, which was the first."""

    weights: str
    weights_sha256: str
    sampler: str
    steps: Annotated[Whole, Field(ge=1)]
    calls: Annotated[Whole, Field(ge=1)]
    spacing: str
    levels: Literal["all"] | list[Finite]
    eta: Finite | None
    variance: str | None
    measured_sha256: str | None
    threshold: str
    guidance: Finite
    label: Whole | None = Field(alias="class")
    precision: str = STRICT
    noise: Annotated[Whole, Field(ge=1)] = OLD_NOISE


class ClaimFields(Fields):
    """Of what a folder says of its images."""

    protocol: ProtocolFields
    class_names: list[str] = Field(default_factory=list)
