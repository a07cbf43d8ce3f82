"""Several processes of one command, which end as one."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Final

from asyncstore.cli import running

if TYPE_CHECKING:
    from collections.abc import Callable

_PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(count: int, command: Callable[[], int]) -> list[int]:
    """Run a command in so many processes, and return the exit code of each; 137 for a killed one, as in a shell.

    Signals that one process sends are passed on; those of a terminal reach all of them anyway. Call it before there are
    threads, or an event loop.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_PASSED_ON, signal.SIGCHLD))
    gone, held = os.pipe()  # only this process holds the end that is written to
    try:
        children = {_begin(command, before, gone, held) for _ in range(count)}
        return _codes_of(children)
    finally:
        os.close(gone)
        os.close(held)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(command: Callable[[], int], mask: set[int], gone: int, held: int) -> int:
    child = os.fork()
    if child == 0:
        os.close(held)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        threading.Thread(target=_end_with_parent, args=(gone,), name="parent", daemon=True).start()
        running.end_process(command())
    return child


def _end_with_parent(gone: int) -> None:
    """Have this process interrupted when its parent ends, however that ends."""
    os.read(gone, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _codes_of(children: set[int]) -> list[int]:
    codes: list[int] = []
    while children:
        received = signal.sigwaitinfo((*_PASSED_ON, signal.SIGCHLD))
        if received.si_signo != signal.SIGCHLD:
            for child in children if received.si_code <= 0 else ():
                os.kill(child, received.si_signo)
        # Several that end at the same time may be one signal.
        for child in tuple(children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                children.discard(child)
                code = os.waitstatus_to_exitcode(status)
                codes.append(128 - code if code < 0 else code)
    return codes
