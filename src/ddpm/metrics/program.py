"""Extractors that are files: torch.export programs from uint8 (B, C, H, W), for any B, to floats (B, D).

    torch.export.save(torch.export.export(network.eval(), (images,), dynamic_shapes=({0: Dim("B")},)), "features.pt2")

Such a file is a program: opening one runs code from it, so take it only from people you trust.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from ddpm.base.geometry import Geometry
from ddpm.errors import InputError
from ddpm.metrics.features import Extractor, probed

ANY = "any"


def open_program(name: str, geometry: Geometry, device: torch.device) -> Extractor:
    """Open the program in the file `name` for images of one geometry.

    Errors (InputError): the file cannot be read, is damaged or no program; it takes or gives something else; see
    also `probed`.
    """
    sha256 = _sha256(name)
    _check_archive(name)
    program = _loaded(name, torch.empty(0, device=device).device)  # "cuda:0", where a graph knows no mere "cuda"
    _check_input(program, name, geometry)
    return probed(program.module(), name=name, sha256=sha256, geometry=geometry, device=device)


def _sha256(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"'{name}' could not be read: {error.strerror or error}.") from None


def _check_archive(name: str) -> None:
    """Raise InputError unless the file is a whole zip, as programs are: PyTorch itself does not look at checksums."""
    try:
        with zipfile.ZipFile(name) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError):
        raise InputError(f"'{name}' is no torch.export program; one that torch.export.save wrote would fit.") from None
    if damaged is not None:
        raise InputError(f"'{name}' is damaged: '{damaged}' in it does not have the checksum noted beside it.")


def _loaded(name: str, device: torch.device) -> ExportedProgram:
    with _quiet():
        try:
            return move_to_device_pass(torch.export.load(name), device)
        except Exception:  # the reader trusts its file, so a foreign one can fail anywhere in it, with any exception
            reader = f"PyTorch {torch.__version__}"
            fits = "one that torch.export.save of this or an older version wrote would fit"
            raise InputError(
                f"'{name}' is no torch.export program that {reader} can load on {device}; {fits}."
            ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch from logging a traceback for a file we have a sentence for."""
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
    """Raise InputError unless a program says it takes uint8 images of the geometry, any number of them."""
    wanted = ["uint8", ANY, *map(str, geometry.shape)]
    inputs = [_described(program, given) for given in program.graph_signature.user_inputs]
    fitting = [words for words in inputs if words[:2] == wanted[:2] and len(words) == len(wanted)]
    if len(inputs) != 1 or not fitting or any(_other(*pair) for pair in zip(fitting[0], wanted, strict=True)):
        takes = " and ".join(map(_shown, inputs)) or "nothing"
        raise InputError(f"'{name}' takes {takes}; {_shown(wanted)} would fit.")


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


def _other(size: str, wanted: str) -> bool:
    """Whether a size is fixed, and not to what is wanted; ranges are left to the trial."""
    return size.isdecimal() and size != wanted


def _shown(words: list[str]) -> str:
    return f"{words[0]} ({', '.join(words[1:])})" if len(words) > 1 else words[0]
