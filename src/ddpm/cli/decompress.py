"""ddpm decompress."""

from __future__ import annotations

from typing import Annotated

import typer

from ddpm.cli import options
from ddpm.cli.console import PROGRESS, load, print_files


def decompress(
    run: options.Run,
    files: Annotated[list[str], typer.Argument(help=".dpc files, whole or cut; of a folder, all of them below.")],
    out: Annotated[str, typer.Option(help="The folder to write to.")],
    most_bytes: Annotated[
        int | None, typer.Option("--bytes", min=1, help="Read no more of each file: a coarser image [default: all].")
    ] = None,
    reconstruct: Annotated[
        str, typer.Option(help="Coarse images: mean (least error), or flow (sharper, as samples are).")
    ] = "mean",
    force: options.Force = False,
    weights: options.Weights = None,
    batch_size: options.Tiles = None,
    device: options.CodecDevice = "cpu",
    as_json: options.AsJson = False,
) -> None:
    """Decompress .dpc files to PNGs. Exact if the file is lossless and whole, else as far as its bytes reach.

    Files of any checkpoint of the run are read. The same command again goes on where it stopped: an image that is there
    is right if it has the checksum that a whole lossless file names, else if decompressing gives its pixels.
    """
    import ddpm

    report = ddpm.decompress_files(
        load(run, weights, device),
        files,
        out,
        most_bytes=most_bytes,
        reconstruct=reconstruct,
        force=force,
        batch_size=batch_size,
        progress=PROGRESS,
    )
    print_files(report, [(one.file, one.problem) for one in report.files], as_json=as_json)
