"""Extractors that are files: torch.export programs from uint8 (B, C, H, W), for any B, to floats (B, D).

    torch.export.save(torch.export.export(network.eval(), (images,), dynamic_shapes=({0: Dim("B")},)), "features.pt2")

Such a file is a program: opening one runs code from it, so take it only from people you trust.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
import zipfile
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from ddpm.base.files import file_sha256
from ddpm.base.geometry import Geometry
from ddpm.base.npz import BadArchive, reading
from ddpm.errors import InputError
from ddpm.metrics.features import Extractor, probed

ANY = "any"


def open_program(name: str, geometry: Geometry, device: torch.device) -> Extractor:
    """Open the program in the file `name` for images of one geometry.

    Errors (InputError): the file cannot be read, is damaged or no program; it takes or gives something else; see
    also `probed`.
    """
    sha256 = file_sha256(name)
    _check_archive(name)
    program = _loaded(name, torch.empty(0, device=device).device)  # "cuda:0", where a graph knows no mere "cuda"
    _check_input(program, name, geometry)
    return probed(program.module(), name=name, sha256=sha256, geometry=geometry, device=device)


def _check_archive(name: str) -> None:
    """Raise InputError unless the file is a whole zip, as programs are: PyTorch itself does not verify checksums."""
    try:
        with reading(name), zipfile.ZipFile(name) as archive:
            damaged = archive.testzip()
    except BadArchive:
        raise InputError(f"'{name}' is no torch.export program: write one with torch.export.save.") from None
    if damaged is not None:
        raise InputError(f"'{name}' is damaged: '{damaged}' in it has another checksum than noted.")


def _loaded(name: str, device: torch.device) -> ExportedProgram:
    with _quiet():
        try:
            return move_to_device_pass(torch.export.load(name), device)
        except Exception:  # the reader trusts its file, so a foreign one can fail anywhere in it, with any exception
            raise InputError(
                f"'{name}' is no torch.export program that PyTorch {torch.__version__} can load on {device}: save one "
                "with this version or an older one."
            ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch from logging a traceback beside the sentence of an error."""
    log = logging.getLogger("torch.export")
    before = log.disabled
    log.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


def _check_input(program: ExportedProgram, name: str, geometry: Geometry) -> None:
    """Raise InputError unless a program says it takes uint8 images of the geometry, any number of them.

    A size that it fixes must be the wanted one; ranges are left to the trial.
    """
    wanted = ["uint8", ANY, *map(str, geometry.shape)]
    inputs = [_described(program, given) for given in program.graph_signature.user_inputs]
    fitting = [words for words in inputs if words[:2] == wanted[:2] and len(words) == len(wanted)]
    fixed = [pair for words in fitting for pair in zip(words, wanted, strict=True) if pair[0].isdecimal()]
    if len(inputs) != 1 or not fitting or any(size != other for size, other in fixed):
        takes = " and ".join(map(_shown, inputs)) or "nothing"
        raise InputError(f"'{name}' takes {takes}, and these images are {_shown(wanted)}.")


def _described(program: ExportedProgram, given: object) -> list[str]:
    """An input in words: its type, then each size of a tensor."""
    value = next((node.meta.get("val") for node in program.graph.nodes if node.name == given), given)
    if not isinstance(value, Tensor):
        return [type(value).__name__]
    return [str(value.dtype).removeprefix("torch."), *(_size(program, size) for size in value.shape)]


def _size(program: ExportedProgram, size: int | torch.SymInt) -> str:
    """A size that the program fixes, or how far it may go."""
    if isinstance(size, int):
        return str(size)
    bounds = program.range_constraints.get(size.node.expr)
    return f"at most {bounds.upper}" if bounds and math.isfinite(float(bounds.upper)) else ANY


def _shown(words: list[str]) -> str:
    return f"{words[0]} ({', '.join(words[1:])})" if len(words) > 1 else words[0]
