"""`asyncstore demo`: send pydicom's sample files to an SCP of our own, on this machine alone."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import typer

from asyncstore.cli import options, running
from asyncstore.cli.exit_codes import ExitCode, interrupted_by
from asyncstore.cli.output.documented_log import logger
from asyncstore.cli.output.plain_text import count_text, path_text, peer_text
from asyncstore.cli.output.report_text import summary_text
from asyncstore.instances.outcome import State
from asyncstore.net.peer import Peer
from asyncstore.transfer.options import TransferOptions
from asyncstore.uids import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncstore.instances.outcome import Outcome
    from asyncstore.transfer.report import Report

DETAILS = """Nothing leaves this machine: the demo starts its own SCP on a free port of the loopback interface, and \
the SCP discards what it receives. The log level is info; -q prints only the tables, -d also logs PDUs.

Exit codes: 0 every instance that can be sent arrived, 3 one did not, 5 the sample files are missing, \
129, 130 or 143 interrupted."""

_SAMPLE_FOLDERS: Final = ("test_files", "charset_files")
_NOT_STORED: Final = (State.SOURCE_PROBLEM, State.SKIPPED, State.NO_CONTEXT)


class _Shown(NamedTuple):
    """The data of the tables."""

    report: Report
    stored: Counter[tuple[str, str]]
    explained: list[Outcome]
    arrived: int


def demo(
    context: typer.Context,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
    log_level: options.LogLevel = None,
) -> None:
    """Send the sample files; the help is made from DETAILS."""
    level = options.log_level(context)
    if level == logging.ERROR and log_level is None:
        level = logging.INFO
    raise typer.Exit(running.run(level, lambda _: _run()))


def _run() -> int:
    files = sample_files()
    if not files:
        logger.error("pydicom's sample files are not installed: reinstall pydicom with its data")
        return ExitCode.NOTHING_TO_SEND
    return running.run_async(_send, files)


def sample_files() -> list[str]:
    """The DICOM files that come with pydicom; neither imports pydicom nor downloads anything."""
    package = importlib.util.find_spec("pydicom")
    if package is None or package.origin is None:
        return []
    data = Path(package.origin).parent / "data"
    return sorted(str(path) for folder in _SAMPLE_FOLDERS for path in (data / folder).glob("*.dcm"))


async def _send(files: list[str]) -> int:
    from asyncstore.services.storage_scp import StorageSCP
    from asyncstore.transfer.engine import Transfer

    stored: Counter[tuple[str, str]] = Counter()
    explained: list[Outcome] = []
    async with StorageSCP(ae_title="DEMO-SCP") as scp:
        peer = Peer(scp.host, scp.port, "DEMO-SCP")
        transfer = Transfer(peer, files, options=TransferOptions(calling_ae_title="DEMO", associations=1))
        with running.interrupts(transfer.drain, transfer.abort) as received:
            async with transfer:
                async for outcome in transfer:
                    if outcome.is_stored and outcome.instance is not None:
                        stored[outcome.instance.sop_class_uid, outcome.instance.transfer_syntax_uid] += 1
                    else:
                        explained.append(outcome)
        shown = _Shown(transfer.report, stored, explained, scp.stored)
    _print_table(shown)
    if received.signal_number is not None:
        return interrupted_by(received.signal_number)
    return exit_code(shown.report, explained, scp.stored)


def exit_code(report: Report, explained: Iterable[Outcome], arrived: int) -> int:
    """STORED if every instance that can be sent arrived, and every other one has a reason of its own."""
    unexplained = [outcome for outcome in explained if outcome.state not in _NOT_STORED or not outcome.reason]
    everything = report.stored == arrived and not report.left and not unexplained
    return ExitCode.STORED if everything else ExitCode.SOME_FAILED


def _print_table(shown: _Shown) -> None:
    """Print which instances were sent, and which were not and why."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    sent = Table("Stored", "SOP class", "Transfer syntax", title="What was sent", title_justify="left")
    for (sop_class, syntax), count in shown.stored.most_common():
        sent.add_row(str(count), Text(peer_text(name_of(sop_class))), Text(peer_text(name_of(syntax))))
    results: Any = running.Results()  # not stdout itself: rich exits when the reader of stdout has gone
    console = Console(
        file=results,
        force_terminal=results.is_terminal or None,
        color_system=None if os.environ.get("NO_COLOR") else "auto",  # without it, not even bold
    )
    console.print(sent)
    if shown.explained:
        kept = Table("File", "State", "Why", title="What was not sent, and why", title_justify="left")
        for outcome in shown.explained:
            name = path_text(Path(outcome.path or "").name)
            kept.add_row(Text(name), outcome.state.value, Text(path_text(outcome.reason)))
        console.print(kept)
    console.print(Text(f"{summary_text(shown.report)}; {count_text(shown.arrived, 'instance')} arrived at the SCP"))
