"""Prints an inventory: a table, a plan of associations, a line of JSON; and derives its exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.cli.exit_codes import ExitCode
from asyncstore.cli.output.plain_text import count_text, path_text, peer_text, size_text
from asyncstore.cli.output.records import event_line
from asyncstore.instances.outcome import State
from asyncstore.transfer.plan import Plan
from asyncstore.uids import UNCOMPRESSED_TRANSFER_SYNTAXES, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.inputs.inventory import Inventory
    from asyncstore.transfer.options import TransferOptions


def exit_code(inventory: Inventory) -> ExitCode:
    """The exit code of a scan: whether all could be read, and whether there is anything to send."""
    if inventory.failed:
        return ExitCode.SOME_FAILED
    return ExitCode.STORED if inventory.instances or inventory.settled else ExitCode.NOTHING_TO_SEND


def lines(inventory: Inventory) -> Iterator[str]:
    """A table of the instances; then examples of doubtful File Meta Information and of each kind of problem."""
    total = count_text(inventory.instances.total(), "instance")
    yield f"{total}, {size_text(inventory.size_bytes.total())} of data sets"
    if inventory.left_out:
        yield f"{count_text(inventory.left_out, 'file')} left out by the selection"
    pairs = inventory.instances.most_common()
    width = max((len(f"{count:,}") for _, count in pairs), default=1)
    for pair, count in pairs:
        sop_class, syntax = (peer_text(name_of(uid)) for uid in pair)
        yield f"  {count:>{width},}  {size_text(inventory.size_bytes[pair]):>10}  {sop_class}, {syntax}"
    if inventory.differing:
        yield f"{count_text(inventory.differing, 'instance')}: doubtful UIDs or File Meta Information"
        yield from _example_lines(inventory.differences, inventory.differing)
    for kind, count in inventory.problems.most_common():
        yield f"{count_text(count, 'file')}: {kind.value}"
        yield from _example_lines(inventory.examples[kind], count)


def ledger_lines(inventory: Inventory, *, exists: bool) -> Iterator[str]:
    """What a ledger has already, before the table of the rest."""
    if not exists:
        yield "There is no ledger yet: no earlier run has stored anything"
        return
    duplicates = inventory.settled[State.DUPLICATE]
    more = f", {count_text(duplicates, 'duplicate')}" if duplicates else ""
    yield f"{count_text(inventory.settled[State.RESUMED], 'instance')} stored by an earlier run{more}: not sent again"
    if inventory.set_aside:
        yield f"{count_text(inventory.set_aside, 'instance')} set aside by an earlier run: --retry-set-aside sends them"


def plan_lines(inventory: Inventory, options: TransferOptions) -> Iterator[str]:
    """How the instances would be sent."""
    if not inventory.instances:
        return
    needed = [pair for pair, _ in inventory.instances.most_common()]
    associations = sum(1 for _ in Plan(options).proposals_for(needed))
    contexts = count_text(len(needed), "presentation context")
    yield f"{contexts} needed; at least {count_text(associations, 'association')}"
    compressed = sum(
        count for (_, syntax), count in inventory.instances.items() if syntax not in UNCOMPRESSED_TRANSFER_SYNTAXES
    )
    if compressed:
        yield f"{count_text(compressed, 'instance')} compressed: sent only where the peer accepts the syntax"


def json_line(inventory: Inventory) -> str:
    """The inventory as one line of JSON."""
    return event_line("inventory", inventory.to_dict())


def _example_lines(examples: list[tuple[str, str]], count: int) -> Iterator[str]:
    for path, detail in examples:
        yield f"  {path_text(path)}: {path_text(detail)}"
    if count > len(examples):
        yield f"  and {count - len(examples):,} more"
