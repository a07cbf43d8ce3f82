"""The page of `scan --html`: what a migration has before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.cli.output import html_page
from asyncstore.cli.output.html_page import fact, facts, section, table, tag
from asyncstore.cli.output.inventory_text import doubts_of, plan_text, verdict_text
from asyncstore.cli.output.plain_text import count_text, size_text
from asyncstore.cli.output.prospect import Verdict
from asyncstore.uids import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncstore.cli.output.html_page import Markup
    from asyncstore.cli.output.prospect import Prospect


def page(prospect: Prospect, paths: Sequence[str]) -> str:
    """The whole page; `paths` are what was scanned."""
    where = paths[0] if len(paths) == 1 else f"{len(paths):,} paths"
    return html_page.page(f"Scan of {where}", *_sections(prospect))


def _sections(prospect: Prospect) -> Iterator[Markup]:
    inventory = prospect.inventory
    yield facts(
        fact(f"{inventory.instances.total():,}", "instances"),
        fact(size_text(inventory.size_bytes.total()), "of data sets"),
        fact(f"{len(inventory.studies):,}", "studies"),
        fact(f"{len(inventory.patients):,}", "patients"),
        fact(f"{inventory.failed:,}", "files that cannot be sent", "bad" if inventory.failed else "good"),
    )
    if inventory.left_out:
        yield tag("p", f"{count_text(inventory.left_out, 'file')} left out by the selection", class_="faint")
    if prospect.contexts:
        yield tag("p", plan_text(prospect), class_="faint")
        yield from _peer(prospect)
        yield section("Instances by kind", _kinds(prospect))
    for title, examples, count in doubts_of(inventory):
        shown = [table(("~File", "~Detail"), examples)] if examples else []
        more = count - len(examples)
        shown += [tag("p", f"and {more:,} more", class_="faint")] if more > 0 else []
        yield section(title, *shown)
    if inventory.largest:
        rows = [(size_text(size), path) for size, path in inventory.largest]
        yield section("Largest files", table(("#Size", "~File"), rows))


def _peer(prospect: Prospect) -> Iterator[Markup]:
    if prospect.failure:
        why = f"{prospect.peer} could not be asked what it accepts: {prospect.failure}"
        yield tag("p", why, class_="bad")
    elif prospect.sent_as is not None:
        counts = prospect.verdicts()
        yield section(
            f"What {prospect.peer} accepts",
            facts(
                fact(f"{counts[Verdict.UNCHANGED]:,}", "accepted as they are", "good"),
                fact(f"{counts[Verdict.CONVERTED]:,}", "accepted when converted"),
                fact(f"{counts[Verdict.REFUSED]:,}", "not accepted", "bad" if counts[Verdict.REFUSED] else ""),
            ),
        )


def _kinds(prospect: Prospect) -> Markup:
    columns = ["SOP Class", "Transfer Syntax", "#Instances", "#Size"]
    rows: list[list[str | int]] = [
        [
            name_of(kind.sop_class_uid),
            name_of(kind.transfer_syntax_uid),
            kind.instances,
            size_text(kind.size_bytes),
            tag("span", verdict_text(kind), class_="bad" if kind.verdict is Verdict.REFUSED else ""),
        ]
        for kind in prospect.kinds()
    ]
    if prospect.sent_as is not None:
        return table([*columns, "At the peer"], rows)
    return table(columns, [row[:-1] for row in rows])
