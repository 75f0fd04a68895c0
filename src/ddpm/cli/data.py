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
    """Report what is in a source of images. Run it before training: it also says what is wrong with them.

    An image may have 89,478,485 pixels, an archive may unpack to 1 GiB or 100 times its size; the environment
    variables DDPM_MAX_PIXELS and DDPM_MAX_UNPACKED (bytes) raise that for files you trust.
    """
    import ddpm

    print_report(ddpm.inspect(src), as_json=as_json)
