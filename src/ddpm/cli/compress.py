"""ddpm compress."""

from __future__ import annotations

from typing import Annotated

import typer

from ddpm.cli import options
from ddpm.cli.console import PROGRESS, load, print_files


def compress(
    run: options.Run,
    images: Annotated[
        list[str], typer.Argument(help="Grey or RGB image files of up to 2^24 pixels; of a folder, all of them below.")
    ],
    out: Annotated[str, typer.Option(help="The folder to write to.")],
    rate: Annotated[float | None, typer.Option(help="Lossy: at most so many bits/dim [default: lossless].")] = None,
    most_bytes: Annotated[
        int | None, typer.Option("--bytes", min=1, help="Lossy: at most so many bytes a file [default: lossless].")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Decompress what was written, and compare.")
    ] = True,
    force: options.Force = False,
    weights: options.Weights = None,
    batch_size: options.Tiles = None,
    device: options.CodecDevice = "cpu",
    as_json: options.AsJson = False,
) -> None:
    """Compress images to .dpc files. Lossless unless --rate or --bytes is given; any prefix is an image too.

    The same command again goes on where it stopped: a lossless file that is there is right if it decompresses to its
    image (with --no-verify: if it names its checksum), a lossy one if compressing gives the same bytes.
    """
    import ddpm

    report = ddpm.compress_files(
        load(run, weights, device),
        images,
        out,
        rate=rate,
        most_bytes=most_bytes,
        verify=verify,
        force=force,
        batch_size=batch_size,
        progress=PROGRESS,
    )
    print_files(report, [(one.image, one.problem) for one in report.files], as_json=as_json)
