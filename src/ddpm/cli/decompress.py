"""ddpm decompress."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpm.cli import options
from ddpm.cli.compress import GROUP, BatchSize, Device, Force, Out, Run, in_groups, targets_in
from ddpm.cli.console import counted, print_result, progress_bar, say
from ddpm.errors import DamagedFile, DdpmError, InputError, WrongModel

if TYPE_CHECKING:
    from ddpm.codec.decode import Decoded
    from ddpm.codec.tables import Codec
    from ddpm.model import Model


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
    from ddpm.codec.decode import check_reconstruct, decode, planned_steps

    check_reconstruct(reconstruct)
    targets = targets_in(files, out, ".png", force=force)
    contents = [read_file(path) for path in files]
    model = ddpm.load(run, weights=weights, device=device)
    errors: dict[str, DdpmError] = {}  # what cannot be opened does not hold up the others
    codec = _codec(model, files, contents, errors)
    tiles = [_tiles(codec, path, data, most_bytes, errors) for path, data in zip(files, contents, strict=True)]
    good = [k for k, path in enumerate(files) if path not in errors]
    rows: list[dict[str, Any]] = []
    codes = [_say_error(path, errors[path]) for path in files if path in errors]
    if codec is not None and good:
        options: dict[str, Any] = {"most_bytes": most_bytes, "reconstruct": reconstruct, "batch_size": batch_size}
        with progress_bar("Steps of tiles", planned_steps(codec, [contents[k] for k in good], most_bytes)) as bar:
            advance = counted(bar)
            for group in in_groups([tiles[k] for k in good], GROUP * batch_size):
                some = [good[k] for k in group]
                found = decode(codec, [contents[k] for k in some], on_step=advance, **options)
                for k, one in zip(some, found, strict=True):
                    rows.append(_write(files[k], one, targets[k]))
                    codes.append(_say_problem(files[k], one))
    if rows or as_json:
        print_result({"files": rows}, [_decompressed_line(row) for row in rows], as_json=as_json)
    if max(codes, default=0):
        raise typer.Exit(max(codes))


def _codec(model: Model, files: Sequence[str], contents: Sequence[bytes], errors: dict[str, DdpmError]) -> Codec | None:
    """The model's codec, if any file has a header that asks for one; WrongModel is the answer to all of them."""
    from ddpm.codec.container import Cursor, read_header
    from ddpm.codec.verbs import codec_for

    for path, data in zip(files, contents, strict=True):
        try:
            read_header(Cursor(data))
        except DamagedFile as error:
            errors[path] = error
    sound = [(path, data) for path, data in zip(files, contents, strict=True) if path not in errors]
    codec = None
    try:
        codec = codec_for(model, sound[0][1]) if sound else None
    except WrongModel as error:
        errors.update({path: error for path, _ in sound})
    return codec


def _tiles(codec: Codec | None, path: str, data: bytes, most_bytes: int | None, errors: dict[str, DdpmError]) -> int:
    """How many tiles a file has, as far as it can be opened."""
    from ddpm.codec.decode import open_packet
    from ddpm.codec.tiles import grid

    if codec is None or path in errors:
        return 0
    try:
        header = open_packet(codec, data, most_bytes).header
    except (DamagedFile, WrongModel, InputError) as error:
        errors[path] = error
        return 0
    return math.prod(grid(header.size, codec.geometry.size))


def _say_error(path: str, error: DdpmError) -> int:
    say(f"ddpm: '{path}': {error}")
    return error.exit_code


def _say_problem(path: str, one: Decoded) -> int:
    """Say what is wrong with a picture that was read all the same; returns the exit code that follows."""
    from ddpm.codec.decode import DAMAGED

    if one.problem:
        say(f"ddpm: '{path}': {one.problem}")
    return DamagedFile.exit_code if one.status == DAMAGED else 0


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
