"""`python -m asyncstore`: the same as the `asyncstore` command."""

from __future__ import annotations

import gc
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line with the arguments of the process, and exit with its exit code."""
    # Objects made while modules load stay; searching them for garbage took 10 ms of each start.
    gc.set_threshold(50_000)
    try:
        from asyncstore.cli import app, running

        running.prepare_streams()
        running.end_process(app.run_command_line())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
