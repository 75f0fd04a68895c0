"""ddpm prune."""

from __future__ import annotations

from typing import Annotated

import typer

from ddpm.cli import options
from ddpm.cli.console import print_report


def prune(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(
            help="Remove these alone, by name, whatever they are for [default: all but the newest two, those with "
            "codec data, that from before the cool-down, and the models of finished runs that were continued]."
        ),
    ] = None,
    codec: Annotated[
        bool,
        typer.Option("--codec", help="Also remove those with codec data: their .dpc files can then no longer be read."),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Remove old checkpoints of a run at once, and say which and why. The newest always stays."""
    import ddpm

    print_report(ddpm.prune(run, checkpoints or (), codec=codec), as_json=as_json)
