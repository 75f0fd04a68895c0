"""ddpm data."""

from __future__ import annotations

from typing import Annotated

import typer

from ddpm.cli import options
from ddpm.cli.console import print_report


def data(
    src: Annotated[
        str, typer.Argument(help="A folder, .zip, .npz, .npy, an IDX folder or digits; :split and [a:b] may follow.")
    ],
    as_json: options.AsJson = False,
) -> None:
    """Report what is in a source of images. Run it before training: it also says what is wrong with them."""
    import ddpm

    print_report(ddpm.inspect(src), as_json=as_json)
