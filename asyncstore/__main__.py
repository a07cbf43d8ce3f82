"""`python -m asyncstore`: the same as the `asyncstore` command."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line with the arguments of the process; gives its exit code."""
    try:
        from asyncstore.cli import app, running

        return running.end_process(app.run_command_line())
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
