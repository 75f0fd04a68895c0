"""`ddpm` and `python -m ddpm`: the command line, with Ctrl-C answered while modules are still imported."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    # A stream that was closed is None.
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    try:
        from ddpm.cli import main as run

        run()
    except KeyboardInterrupt:
        print("ddpm: stopped.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
