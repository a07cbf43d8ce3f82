"""What is to be sent, told before it is sent: the input is scanned, a peer asked what it accepts, and both printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.cli import pages, running
from asyncstore.cli.advice import explain_failure, reason_text
from asyncstore.cli.exit_codes import interrupted_by
from asyncstore.cli.output import inventory_text, scan_progress
from asyncstore.cli.output.prospect import Prospect
from asyncstore.errors import AsyncStoreError
from asyncstore.inputs.inventory import Inventory
from asyncstore.inputs.own_files import OwnFiles
from asyncstore.record import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from asyncstore.cli.output.documented_log import DocumentedLog
    from asyncstore.inputs.feed import Settled
    from asyncstore.net.peer import Peer
    from asyncstore.transfer.acceptance import Acceptance
    from asyncstore.transfer.options import TransferOptions
    from asyncstore.transfer.plan import Pair


@record(slots=True)
class Planning:
    """How an input is scanned for a plan, whom to ask, and what to print; `page_path` is that of an HTML page.

    `kind` is "json", "csv" or None for text. `progress` None shows the progress if stderr is a terminal.
    """

    options: TransferOptions
    peer: Peer | None = None
    kind: str | None = None
    page_path: str | None = None
    progress: bool | None = None

    def scan(
        self,
        sources: Iterable[str],
        log: DocumentedLog,
        *,
        settled: Settled | None = None,
        own_files: Sequence[str] = (),
    ) -> Inventory:
        """Read the input; what the run itself writes is no part of it."""
        inventory = Inventory(getattr(self.options.prepare, "changes_of", None))
        written = [*own_files, *([] if self.page_path is None else [self.page_path])]
        with scan_progress.shown(inventory, log, wanted=self.progress):
            inventory.scan(
                sources,
                recursive=self.options.recursive,
                selection=self.options.selection,
                settled=settled,
                own_files=OwnFiles(written),
            )
        return inventory

    def tell(
        self, inventory: Inventory, log: DocumentedLog, *, paths: Sequence[str], before: Iterable[str] = ()
    ) -> int:
        """Ask the peer, print everything, and return the exit code; `before` are lines that come before the text."""
        prospect = Prospect(inventory, self.options)
        if self.peer is not None and inventory.instances:
            answers = _Answers()
            code = running.run_async(_ask, self.peer, list(inventory.instances), self.options, log, answers)
            if code:
                return code
            prospect = Prospect(inventory, self.options, str(self.peer), answers.sent_as, answers.failure)
        results = running.Results()
        if self.kind == "json":
            results.print(inventory_text.json_line(prospect))
        elif self.kind == "csv":
            for row in inventory_text.csv_rows(prospect):
                results.write_bytes(row)
        else:
            results.print(*before, *inventory_text.lines(prospect))
        return self._write_page(prospect, paths)

    def _write_page(self, prospect: Prospect, paths: Sequence[str]) -> int:
        if self.page_path is None:
            return prospect.exit_code
        from asyncstore.cli.output import inventory_page

        return pages.write(self.page_path, inventory_page.page(prospect, paths)) or prospect.exit_code


@record(slots=True)
class _Answers:
    sent_as: Acceptance | None = None
    failure: str = ""


async def _ask(
    peer: Peer, pairs: Sequence[Pair], options: TransferOptions, log: DocumentedLog, answers: _Answers
) -> int:
    """Ask the peer; 0, or the exit code if a signal ended it."""
    import anyio

    from asyncstore.transfer.acceptance import ask

    with anyio.CancelScope() as scope, running.interrupts(scope.cancel, scope.cancel) as received:
        try:
            answers.sent_as = await ask(peer, pairs, options)
        except AsyncStoreError as error:
            answers.failure = reason_text(error, peer)
            explain_failure(error, peer, options.calling_ae_title, log)
    return 0 if received.signal_number is None else interrupted_by(received.signal_number)
