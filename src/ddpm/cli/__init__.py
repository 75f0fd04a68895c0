"""The command line: it parses, calls a verb of `ddpm.api`, and prints. Results go to stdout, progress to stderr.

Exit codes: 0 done, 2 the user can fix it (one sentence), 3 the file wants another model, 4 a damaged file, 130 stopped
by Ctrl-C (128 + its number by another signal), 1 a bug in ddpm, or a file that does not hold what was written to it.
Nothing here imports PyTorch before a command runs.
"""

from __future__ import annotations

import io
import os
import sys
import warnings

import typer

from ddpm.cli import evaluate, tune
from ddpm.cli.compress import compress
from ddpm.cli.console import PROGRESS
from ddpm.cli.convert import convert
from ddpm.cli.data import data
from ddpm.cli.decompress import decompress
from ddpm.cli.prune import prune
from ddpm.cli.sample import sample
from ddpm.cli.show import show
from ddpm.cli.train import train
from ddpm.errors import DdpmError, InputError

INTERRUPTED = 130

app = typer.Typer(
    name="ddpm",
    help="Denoising diffusion models: train on your own images, sample, evaluate, compress, look inside.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (train, sample, compress, decompress, data, show, prune, convert):
    app.command()(command)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(tune.app, name="tune")


@app.callback(invoke_without_command=True)
def _options(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        import ddpm

        typer.echo(f"ddpm {ddpm.__version__}")
        raise typer.Exit()


def main() -> None:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a file's name need not be text in the terminal's encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *_, **__: PROGRESS.say(f"ddpm: {message}")
    try:
        app()
    except DdpmError as error:
        PROGRESS.say(f"ddpm: {error}")
        sys.exit(error.exit_code)
    except MemoryError:
        PROGRESS.say("ddpm: the memory is too small for this: choose smaller images, batches or files.")
        sys.exit(InputError.exit_code)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:  # Typer turns Ctrl-C into this code without a word
            PROGRESS.say("ddpm: stopped.")
        raise
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # what could not be written was said; Python's own flush at the end would say it again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
