"""ddpm decompress."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm.cli import options
from ddpm.cli.compress import BatchSize, Device, Force, Out, Run, targets_in
from ddpm.cli.console import counted, print_result, progress_bar, say
from ddpm.errors import DamagedFile, DdpmError, InputError, WrongModel

if TYPE_CHECKING:
    from ddpm.codec.decode import Decoded
    from ddpm.codec.tables import Codec


def decompress(
    run: Run,
    files: Annotated[list[str], typer.Argument(help=".dpc files, whole or cut.")],
    out: Out,
    most_bytes: Annotated[
        int | None, typer.Option("--bytes", min=1, help="Read no more of each file: a coarser picture.")
    ] = None,
    reconstruct: Annotated[
        str, typer.Option(help="Coarse pictures: mean (least error), or flow (sharper, as samples are).")
    ] = "mean",
    force: Force = False,
    weights: options.Weights = "averaged",
    batch_size: BatchSize = 16,
    device: Device = "cpu",
    as_json: options.AsJson = False,
) -> None:
    """Decompress .dpc files to PNGs: exact where the file is lossless and whole, else as far as its bytes reach."""
    import ddpm
    from ddpm.codec.verbs import codec_for

    targets = targets_in(files, out, ".png", force=force)
    contents = [read_file(path) for path in files]
    model = ddpm.load(run, weights=weights, device=device)
    codec = None
    errors: dict[str, DdpmError] = {}
    found: dict[str, Decoded] = {}
    for path, data in zip(files, contents, strict=True):  # what cannot be opened does not hold up the others
        try:
            codec = codec or codec_for(model, data)
            _open(codec, data, most_bytes)
        except (DamagedFile, WrongModel) as error:
            errors[path] = error
    good = [(path, data) for path, data in zip(files, contents, strict=True) if path not in errors]
    if codec is not None and good:
        found = _decompress(codec, good, most_bytes, reconstruct, batch_size)
    rows = [_write(path, found[path], target) for path, target in zip(files, targets, strict=True) if path in found]
    problems = _report(files, found, errors, asked=most_bytes is not None)
    print_result({"files": rows}, [_decompressed_line(row) for row in rows], as_json=as_json)
    if problems:
        raise typer.Exit(max(problems))


def _open(codec: Codec, data: bytes, most_bytes: int | None) -> None:
    from ddpm.codec.decode import open_packet

    open_packet(codec, data, most_bytes)


def _decompress(
    codec: Codec, files: Sequence[tuple[str, bytes]], most_bytes: int | None, reconstruct: str, batch_size: int
) -> dict[str, Decoded]:
    from ddpm.codec.decode import planned_steps
    from ddpm.codec.verbs import decompress_all

    contents = [data for _, data in files]
    with progress_bar("Steps of tiles", planned_steps(codec, contents, most_bytes)) as bar:
        pictures = decompress_all(
            codec,
            contents,
            most_bytes=most_bytes,
            reconstruct=reconstruct,
            batch_size=batch_size,
            on_step=counted(bar),
        )
    return {path: one for (path, _), one in zip(files, pictures, strict=True)}


def _write(path: str, one: Decoded, target: Path) -> dict[str, Any]:
    import torch

    from ddpm.files import whole_file
    from ddpm.pictures import to_pil

    if one.picture is not None:
        with whole_file(target) as temporary:
            to_pil(torch.from_numpy(one.picture)).save(temporary)
    out = None if one.picture is None else str(target)
    return {
        "file": path,
        "out": out,
        "status": one.status,
        "steps": one.steps[0],
        "of": one.steps[1],
        "stored": one.stored,
    }


def _report(files: Sequence[str], found: dict[str, Decoded], errors: dict[str, DdpmError], *, asked: bool) -> list[int]:
    """Say what is wrong with each file; returns the exit codes that follow."""
    from ddpm.codec.decode import DAMAGED, PARTIAL

    codes = []
    for path in files:
        if path in errors:
            say(f"ddpm: '{path}': {errors[path]}")
            codes.append(errors[path].exit_code)
        elif found[path].status == DAMAGED:
            say(f"ddpm: '{path}': {found[path].problem}")
            codes.append(DamagedFile.exit_code)
        elif found[path].status == PARTIAL and not asked:
            say(f"ddpm: '{path}': {found[path].problem}")
    return codes


def _decompressed_line(row: dict[str, Any]) -> str:
    how = {
        "lossless": "stored by ordinary means, exact" if row["stored"] else "exact",
        "lossy": f"lossy, {row['steps']} of {row['of']} steps",
        "partial": f"the picture so far, {row['steps']} of {row['of']} steps",
        "damaged": "damaged, not exact",
    }[row["status"]]
    return f"{row['out'] or row['file']}: {how}"


def read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {(error.strerror or 'unreadable').lower()}.") from None
