"""ddpm data."""

from __future__ import annotations

from typing import Annotated

import typer

from ddpm.cli.console import print_result


def data(
    src: Annotated[
        str, typer.Argument(help="A folder, .zip, .npz, .npy, an IDX folder or digits; :split and [a:b] may follow.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is in a source of images, and what is wrong with it, before a step is taken."""
    import ddpm

    report = ddpm.inspect(src)
    print_result(report.as_dict(), report.lines(), as_json=as_json)
