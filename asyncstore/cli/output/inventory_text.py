"""Prints what a migration has before it: as text, as one JSON object, and as CSV by kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asyncstore.cli.output.plain_text import count_text, path_text, peer_text, size_text, tally
from asyncstore.cli.output.prospect import KIND_COLUMNS, Kind, Prospect, Verdict
from asyncstore.cli.output.records import cell_text, csv_row, event_line
from asyncstore.instances.outcome import State
from asyncstore.uids import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.inputs.inventory import Inventory

_LARGEST: Final = 5


def lines(prospect: Prospect) -> Iterator[str]:
    """A table of the instances, how they would be sent, and what is doubtful or no instance, with examples."""
    inventory = prospect.inventory
    yield total_text(inventory)
    if inventory.left_out:
        yield f"{count_text(inventory.left_out, 'file')} left out by the selection"
    kinds = prospect.kinds()
    width = max((len(f"{kind.instances:,}") for kind in kinds), default=1)
    for kind in kinds:
        yield f"  {kind.instances:>{width},}  {size_text(kind.size_bytes):>10}  {kind_text(kind)}"
    yield from _plan_lines(prospect)
    yield from _peer_lines(prospect)
    yield from _change_lines(inventory)
    for title, examples, count in doubts_of(inventory):
        yield title
        yield from _example_lines(examples, count)
    if inventory.instances.total() > _LARGEST:
        yield "Largest files"
        yield from (f"  {size_text(size):>10}  {path_text(path)}" for size, path in inventory.largest[:_LARGEST])


def _change_lines(inventory: Inventory) -> Iterator[str]:
    """How attributes would be changed on the way, and why some instances would not be sent for it."""
    for title, counts in (("Changed on the way", inventory.changes), ("Not sent", inventory.unchangeable)):
        if counts:
            yield title
            yield from tally((count, path_text(text)) for text, count in counts.most_common())


def total_text(inventory: Inventory) -> str:
    """How many instances, studies and patients there are."""
    text = (
        f"{count_text(inventory.instances.total(), 'instance')}, {size_text(inventory.size_bytes.total())} of data sets"
    )
    if not inventory.instances:
        return text
    return f"{text}; {count_text(len(inventory.studies), 'study')}, {count_text(len(inventory.patients), 'patient')}"


def kind_text(kind: Kind) -> str:
    """SOP class and transfer syntax, and what the peer says to them."""
    text = f"{peer_text(name_of(kind.sop_class_uid))}, {peer_text(name_of(kind.transfer_syntax_uid))}"
    return f"{text}: {verdict_text(kind)}" if kind.verdict is not None else text


def verdict_text(kind: Kind) -> str:
    """What the peer says to a kind; empty if it was not asked."""
    if kind.verdict is Verdict.CONVERTED:
        return f"converted to {peer_text(name_of(kind.sent_transfer_syntax_uid or ''))}"
    return {Verdict.UNCHANGED: "accepted", Verdict.REFUSED: "not accepted"}.get(kind.verdict, "")  # type: ignore[arg-type]


def doubts_of(inventory: Inventory) -> Iterator[tuple[str, list[tuple[str, str]], int]]:
    """What is doubtful or no instance: a sentence, some examples as (path, detail), and the number of all."""
    if inventory.repeated:
        text = f"{count_text(inventory.repeated, 'instance')}: the same SOP Instance UID as an earlier file"
        yield text, inventory.repetitions, inventory.repeated
    if inventory.without_study:
        yield f"{count_text(inventory.without_study, 'instance')}: no Study Instance UID in the first 64 KiB", [], 0
    if inventory.differing:
        text = f"{count_text(inventory.differing, 'instance')}: doubtful UIDs or File Meta Information"
        yield text, inventory.differences, inventory.differing
    for kind, count in inventory.problems.most_common():
        yield f"{count_text(count, 'file')}: {kind.value}", inventory.examples[kind], count


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


def _plan_lines(prospect: Prospect) -> Iterator[str]:
    if not prospect.contexts:
        return
    yield plan_text(prospect)
    if prospect.sent_as is None:
        yield from compressed_texts(prospect)


def compressed_texts(prospect: Prospect) -> Iterator[str]:
    """What becomes of compressed instances whose transfer syntax a peer refuses, with these options."""
    decompress = prospect.options.decompress
    all_of_them, kept = prospect.compressed("no"), prospect.compressed(decompress)
    with_loss = kept - prospect.compressed("lossy") if decompress == "lossless" else 0
    others = kept - with_loss
    if all_of_them - kept:
        text = "compressed: decompressed where the peer does not accept the syntax"
        yield f"{count_text(all_of_them - kept, 'instance')} {text}"
    if with_loss:
        text = "compressed with loss: sent only where the peer accepts the syntax, unless --decompress lossy"
        yield f"{count_text(with_loss, 'instance')} {text}"
    if others:
        yield f"{count_text(others, 'instance')} compressed: sent only where the peer accepts the syntax"


def plan_text(prospect: Prospect) -> str:
    """How many presentation contexts and associations are needed."""
    contexts = count_text(prospect.contexts, "presentation context")
    return f"{contexts} needed; at least {count_text(prospect.associations, 'association')}"


def _peer_lines(prospect: Prospect) -> Iterator[str]:
    if prospect.sent_as is None or prospect.peer is None:
        return
    yield f"{peer_text(prospect.peer)} accepts {acceptance_text(prospect)}"


def acceptance_text(prospect: Prospect) -> str:
    """How many instances the peer accepts, in which way."""
    verdicts = prospect.verdicts()
    parts = [
        f"{verdicts[Verdict.UNCHANGED]:,} of {count_text(verdicts.total(), 'instance')} as they are",
        f"{verdicts[Verdict.CONVERTED]:,} converted ({size_text(prospect.bytes_of(Verdict.CONVERTED))})"
        if verdicts[Verdict.CONVERTED]
        else "",
        f"{verdicts[Verdict.REFUSED]:,} not at all" if verdicts[Verdict.REFUSED] else "",
    ]
    return ", ".join(filter(None, parts))


def json_line(prospect: Prospect) -> str:
    """Everything as one line of JSON."""
    return event_line("inventory", prospect.to_dict())


def csv_rows(prospect: Prospect) -> Iterator[bytes]:
    """A row for each kind, below a row of the columns' names."""
    yield csv_row(KIND_COLUMNS)
    for kind in prospect.kinds():
        data = kind.to_dict()
        yield csv_row(cell_text(data[column]) for column in KIND_COLUMNS)


def _example_lines(examples: list[tuple[str, str]], count: int) -> Iterator[str]:
    for path, detail in examples:
        yield f"  {path_text(path)}: {path_text(detail)}"
    if count > len(examples):
        yield f"  and {count - len(examples):,} more"
