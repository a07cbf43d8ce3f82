"""`python -m asyncstore`: the same as the `asyncstore` command."""

from __future__ import annotations

import gc
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line with the arguments of the process, and end the process with its exit code."""
    # What is made while modules are loaded stays; looking through it for garbage took 10 ms of every start.
    gc.set_threshold(50_000)
    try:
        from asyncstore.cli import app, running

        running.prepare_streams()
        running.end_process(app.run_command_line())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
