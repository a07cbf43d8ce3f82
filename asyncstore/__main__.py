"""`python -m asyncstore`: the same as the `asyncstore` command."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line with the arguments of the process, and end the process with its exit code."""
    try:
        from asyncstore.cli import app, running

        running.end_process(app.run_command_line())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
