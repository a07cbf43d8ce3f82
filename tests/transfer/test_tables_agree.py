"""One truth about each status: the README's table, the reactions, and what Status says of itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asyncstore.instances.outcome import State
from asyncstore.status import Category, Status
from asyncstore.transfer.options import RetryPolicy
from asyncstore.transfer.reactions import STATUS_REACTIONS, Reactions

if TYPE_CHECKING:
    from collections.abc import Iterator

README: Final = Path(__file__).parents[2] / "README.md"
ANY_OTHER: Final = "any other"
NO_ANSWERS: Final = (0xFE00, 0xFF00, 0xFF01)
# How the README words a reaction.
WORDS: Final = {
    "stored": Reactions.STORED,
    "stored, listed as a warning": Reactions.WARNING,
    "later; the whole destination waits": Reactions.LATER,
    "failed; no more of that class": Reactions.UNSUPPORTED,
    "failed": Reactions.FAILED,
    "once more on a new association, then failed": Reactions.AGAIN_ELSEWHERE,
    "up to 4 more attempts, later, then failed": Reactions.AGAIN_4_TIMES,
    "counted separately": Reactions.DUPLICATE,
    "after 3 in a row the run stops": Reactions.STOP_AFTER_3,
    "once more on a new association, then the run stops": Reactions.AGAIN_ELSEWHERE_THEN_STOP,
    "once more, then failed": Reactions.AGAIN,
}


def rows_of_the_readme() -> Iterator[tuple[str, str]]:
    """Codes and reaction of each row that has codes, as the README words them."""
    lines = README.read_text(encoding="utf-8").splitlines()
    begin = lines.index("| status | meaning | reaction |") + 2
    for line in lines[begin:]:
        if not line.startswith("|"):
            return
        codes, _, reaction = (cell.strip() for cell in line.strip("|").split("|"))
        if re.match(r"[0-9A-F]{4}|[0-9A-F]x+|[0-9A-F]{2}xx|" + ANY_OTHER, codes):
            yield codes, reaction


def values_of(codes: str) -> Iterator[int]:
    for code in codes.split(", "):
        if re.fullmatch(r"[0-9A-F]+x*", code):
            yield from range(int(code.replace("x", "0"), 16), int(code.replace("x", "F"), 16) + 1)
        else:
            assert code in ("no status", ANY_OTHER), code


def reactions_of_the_readme() -> dict[int, Reactions | None]:
    """Each status with its reaction in the README; None for those that are not answers to a C-STORE."""
    reactions: dict[int, Reactions | None] = {}
    other = None
    for codes, text in rows_of_the_readme():
        fitting = [words for words in WORDS if re.match(rf"{words}(?![a-z])", text)]
        reaction = WORDS[max(fitting, key=len)] if fitting else None
        if codes == ANY_OTHER:
            other = reaction
        for value in values_of(codes):
            assert value not in reactions, f"{value:04X} is in two rows"
            reactions[value] = reaction
    assert other is Reactions.AGAIN
    return {value: reactions.get(value, other) for value in range(0x10000)}


def test_the_readme_the_reactions_and_the_statuses_say_the_same_of_every_code() -> None:
    told = reactions_of_the_readme()
    usual = RetryPolicy()
    for value in range(0x10000):
        status, reaction = Status(value), usual.reaction_to(value)
        row = next(row for row in STATUS_REACTIONS if row.first <= value <= row.last)
        assert row.reaction == reaction, f"{value:04X}"
        named = told[value]
        if value in NO_ANSWERS:
            assert named is None
            assert status.category in (Category.CANCEL, Category.PENDING)
        else:
            assert named is not None
            assert named.value == reaction, f"{value:04X}: the README has it as {named.name}"
        assert status.retryable is (reaction.retries > 0), f"{value:04X}"
        assert status.is_stored is (reaction.final in (State.STORED, State.WARNING)), f"{value:04X}"
