"""`python -m asyncstore`: the same as the `asyncstore` command."""

from __future__ import annotations

# All of this is loaded before a signal is handled, so it must load fast: `signal` and `typing` do not.
import _signal as signal  # type: ignore[import-not-found]
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command line with the arguments of the process, and exit with its exit code."""
    end_at_once_on_signals()
    import gc

    # Objects made while modules load stay; searching them for garbage took 15 ms of each start. `running` begins it.
    gc.disable()
    from asyncstore.cli import app, running

    running.prepare_streams()
    running.end_process(app.run_command_line())


def end_at_once_on_signals() -> None:
    """Let a signal end the process at once, with the exit code of a shell, until a command handles it in its own way.

    Python would raise KeyboardInterrupt, anywhere: in the middle of an import, or where nothing catches it. A hang-up
    that was ignored from the start (nohup) stays so.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and (name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN):
            signal.signal(number, lambda received, _: os._exit(128 + received))


if __name__ == "__main__":
    main()
