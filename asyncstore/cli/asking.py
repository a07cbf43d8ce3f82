"""Asks for a secret at the terminal."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

import typer

from asyncstore.cli.running import ENDING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn


def asked_for(what: str, spelled: str) -> bytes:
    """A secret from the terminal, which does not show it. It is a mistake in `spelled` if there is no terminal.

    A signal ends the process with the exit code of a shell, and the terminal shows again what is typed.
    """
    import getpass
    import warnings

    try:
        with warnings.catch_warnings(), _raised_signals():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(f"{what}: ").encode()
    except (getpass.GetPassWarning, EOFError):
        text = "there is no terminal to ask at, or nothing was typed: use a file or the environment"
        raise typer.BadParameter(text, param_hint=spelled) from None


@contextlib.contextmanager
def _raised_signals() -> Iterator[None]:
    """Have signals raise SystemExit, where they would end the process at once and leave a silent terminal."""
    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _exit)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)
