"""Decode all golden files; in a process of its own: `python decode_golden.py OUT.npz BATCH LAYOUT ONEDNN`."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from codecs_of_tests import GOLDEN, decoded, opened, pixels_hash

from ddpm.base.tensors import Floats
from ddpm.codec.progressive import Chain


def entries() -> dict[str, dict[str, str]]:
    """Of each committed file: the model it wants, what it is, and the SHA-256 of its pixels."""
    return json.loads((GOLDEN / "golden.json").read_text())


def decode_all(batch_size: int = 64, layout: str = "") -> tuple[list[str], Floats]:
    """Hashes of the pixels of all files, by name, and the guesses before rounding.

    layout  of the network's weights: "contiguous_format", "channels_last", or as they are
    """
    guesses, hashes, plain = [], [], Chain.clean

    def noted(chain: Chain, *given: object, **options: object) -> torch.Tensor:
        out = plain(chain, *given, **options)
        guesses.append(out.numpy().ravel())
        return out

    codecs = {model: opened(model) for model in ("linear", "fashion-mnist")}
    if layout:
        codecs["fashion-mnist"].chain.denoiser.network.to(memory_format=getattr(torch, layout))
    Chain.clean = noted
    try:
        for name, entry in sorted(entries().items()):
            data = (GOLDEN / name).read_bytes()
            hashes.append(pixels_hash(decoded(codecs[entry["model"]], [data], batch_size=batch_size)[0].image))
    finally:
        Chain.clean = plain
    return hashes, np.concatenate(guesses)


if __name__ == "__main__":
    out, batch_size, layout, onednn = sys.argv[1:]
    torch.backends.mkldnn.enabled = onednn == "on"
    found = decode_all(int(batch_size), layout)
    np.savez(out, hashes=found[0], guesses=found[1])
