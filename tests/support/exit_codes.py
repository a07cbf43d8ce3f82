"""The exit codes of all commands, for tests that look at each."""

from __future__ import annotations

from typing import Final

from asyncstore.cli.exit_codes import ExitCode

ALL_EXIT_CODES: Final[frozenset[int]] = frozenset(code for name, code in vars(ExitCode).items() if name.isupper())
