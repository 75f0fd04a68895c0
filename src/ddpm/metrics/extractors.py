"""Which features: a name in FEATURES, or the file of a program."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch

from ddpm.base.geometry import Geometry
from ddpm.errors import InputError, nearest
from ddpm.metrics.features import PIXELS, Extractor, pixels
from ddpm.metrics.program import open_program

Opener = Callable[[str, Geometry, torch.device], Extractor]

FEATURES: Mapping[str, Opener] = {PIXELS: pixels}
"""Features with a name, and what opens them: called with the name, the geometry of the images and a device."""


def open_extractor(which: str, geometry: Geometry, device: torch.device) -> Extractor:
    """Open what turns images of one geometry into features.

    which   a name in FEATURES, or a torch.export program's file ("./pixels" if it is called like a name)
    device  where a network runs; features come back to the CPU

    Errors (InputError): neither a name nor a file; a file that is no such program or does not fit, see program.py.
    """
    opener = FEATURES.get(which)
    if opener is None and not os.path.exists(which):
        hint = nearest(which, FEATURES)
        raise InputError(
            f"there are no features '{which}' and no such file{hint}: choose {', '.join(FEATURES)}, or the file of a "
            "torch.export program."
        )
    return (opener or open_program)(which, geometry, device)
