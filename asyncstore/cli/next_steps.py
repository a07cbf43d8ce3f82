"""The commands that a user may want to run after a run, as they can be typed."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncstore.transfer.report import Report


_LOSSY: Final = "to decompress what was compressed with loss"
_ALL_AGAIN: Final = "to send all again (--ledger FILE would send only the rest)"


def next_steps(
    report: Report,
    *,
    ledger: str | None,
    can_repeat: bool,
    lossy_refused: int = 0,
    is_unverified: bool = False,
    arguments: list[str] | None = None,
) -> tuple[tuple[str, str], ...]:
    """Commands that go on after a run, each with what it is for.

    `can_repeat`: the same command may do more another time. `lossy_refused` counts the instances that the peer did not
    accept as they are, and that were compressed with loss. `is_unverified`: the peer was not asked for everything that
    it was to be asked for. `arguments` are those of the process.
    """
    arguments = sys.argv if arguments is None else arguments
    program = _program(arguments[0])
    same = shlex.join([*program, *arguments[1:]])
    has_uncommitted = report.not_committed.total() > 0
    lossy: list[tuple[str, str]] = []
    if lossy_refused and can_repeat and not any(each.startswith("--decompress") for each in arguments):
        lossy.append((_with_option(program, arguments[1:], "--decompress", "lossy"), _LOSSY))
    if ledger is None:
        has_more = report.stopped_early or report.failed_instances > lossy_refused or has_uncommitted
        repeated = [(same, _ALL_AGAIN if report.stored else "to try again")] if has_more and can_repeat else []
        return (*repeated, *lossy)
    steps = []
    if report.stopped_early and can_repeat:
        steps.append((same, "to resume"))
    elif can_repeat and report.failed <= report.set_aside and (has_uncommitted or is_unverified):
        steps.append((same, f"to {'ask again for what is not committed' if has_uncommitted else 'verify again'}"))
    if report.failed:
        steps.append((shlex.join([*program, "report", "--failed-files", ledger]), "to list what failed"))
    if report.failed > report.set_aside + lossy_refused and can_repeat and not report.stopped_early:
        steps.append((same, "to try the failed ones again"))
    if report.set_aside and can_repeat:
        again = same if "--retry-set-aside" in arguments else _with_option(program, arguments[1:], "--retry-set-aside")
        steps.append((again, "to send again what was set aside, too"))
    return (*steps, *lossy)


def _program(name: str) -> list[str]:
    """How this program was called."""
    if os.path.basename(name) == "__main__.py":
        return [os.path.basename(sys.executable or "python"), "-m", "asyncstore"]
    return [os.path.basename(name)]


def _with_option(program: list[str], arguments: list[str], *option: str) -> str:
    """The command line with one more option, behind the name of the command."""
    return shlex.join([*program, *arguments[:1], *option, *arguments[1:]])
