"""The meaning of each answer as data: for the instance, for its association, and for the destination."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from asyncstore.errors import LocalProtocolError
from asyncstore.instances.outcome import State
from asyncstore.record import record
from asyncstore.status import OUT_OF_RESOURCES

if TYPE_CHECKING:
    from collections.abc import Iterable


@record(frozen=True, slots=True)
class Reaction:
    """How a transfer reacts to one kind of answer: for the instance, its association and the destination.

    final               state of the instance if it is not tried again
    retries             most further requests for the instance; RetryPolicy.retries may allow fewer
    on_new_association  end the present association before the next request
    presses             the whole destination waits, and the wait does not count as one of the instance's retries
    refuses_class       send no more instances of that SOP class and transfer syntax
    stops_after         stop the run after this many such answers in a row; 0: never
    """

    final: State
    retries: int = 0
    on_new_association: bool = False
    presses: bool = False
    refuses_class: bool = False
    stops_after: int = 0


class Reactions(enum.Enum):
    """The reactions that can be chosen for a status: `--on-status A702=stop` is `Reactions.STOP`.

    STORED, WARNING, DUPLICATE, FAILED
                               count the instance as this, and do not try again
    AGAIN                      once more, then failed
    AGAIN_ELSEWHERE            once more on a new association, then failed
    AGAIN_4_TIMES              up to 4 more attempts, then failed
    LATER                      the whole destination waits and has fewer associations; the instance fails after 5 such
                               answers (over 8 MiB: 2) if the peer takes others meanwhile
    UNSUPPORTED                failed; send no more of that SOP class and transfer syntax
    STOP                       stop the run, and leave this instance and the rest for another
    STOP_AFTER_3               stop the run after 3 such answers in a row; until then try the instance up to twice more
    AGAIN_ELSEWHERE_THEN_STOP  once more on a new association, then stop the run

    `Reactions.STOP.value` is the Reaction, which a StatusReaction takes.
    """

    STORED = Reaction(State.STORED)
    WARNING = Reaction(State.WARNING)
    DUPLICATE = Reaction(State.DUPLICATE)
    FAILED = Reaction(State.FAILED)
    AGAIN = Reaction(State.FAILED, retries=1)
    AGAIN_ELSEWHERE = Reaction(State.FAILED, retries=1, on_new_association=True)
    AGAIN_4_TIMES = Reaction(State.FAILED, retries=4)
    LATER = Reaction(State.FAILED, retries=4, presses=True)
    UNSUPPORTED = Reaction(State.FAILED, refuses_class=True)
    STOP = Reaction(State.LEFT, stops_after=1)
    STOP_AFTER_3 = Reaction(State.LEFT, stops_after=3, retries=2)
    AGAIN_ELSEWHERE_THEN_STOP = Reaction(State.LEFT, retries=1, on_new_association=True, stops_after=2)


# As people write them: "again-elsewhere".
REACTION_NAMES: Final = {member.name.lower().replace("_", "-"): member for member in Reactions}


@record(frozen=True, slots=True)
class StatusReaction:
    """The reaction to the status codes `first` to `last`, both included.

        StatusReaction(0xA702, 0xA702, Reactions.STOP.value)

    Raises LocalProtocolError when a code is not 0000 to FFFF, or when `reaction` is not a Reaction.
    """

    first: int
    last: int
    reaction: Reaction

    # Written out: the table below makes more of them than a record without its compiled `__init__` is meant for.
    def __init__(self, first: int, last: int, reaction: Reaction) -> None:
        if not isinstance(reaction, Reaction):
            hint = ": its value is one" if isinstance(reaction, Reactions) else ""
            raise LocalProtocolError(f"the reaction {str(reaction)!r:.80} is not a Reaction{hint}")
        if not 0 <= first <= last <= 0xFFFF:
            raise LocalProtocolError(f"status codes {first:04X} to {last:04X}: they are 0000 to FFFF")
        for name, value in (("first", first), ("last", last), ("reaction", reaction)):
            object.__setattr__(self, name, value)


def _rows(reaction: Reactions, *codes: int | tuple[int, int]) -> list[StatusReaction]:
    spans = ((code, code) if isinstance(code, int) else code for code in codes)
    return [StatusReaction(first, last, reaction.value) for first, last in spans]


_NO_ANSWERS: Final = (0xFE00, 0xFF00, 0xFF01)
# The first row that holds a code wins. `Status.retryable` is true for exactly the codes whose reaction has retries.
# FE00, FF00 and FF01 have no reaction: they are not legal answers to a C-STORE, and end the association like every
# violation of the protocol.
STATUS_REACTIONS: Final[tuple[StatusReaction, ...]] = (
    *_rows(Reactions.STORED, 0x0000),
    *_rows(Reactions.WARNING, 0x0001, 0x0107, 0x0116, (0xB000, 0xBFFF)),
    *_rows(Reactions.LATER, *OUT_OF_RESOURCES),
    *_rows(Reactions.UNSUPPORTED, (0xA800, 0xA8FF), 0x0122, 0x0112),
    *_rows(Reactions.FAILED, (0xA900, 0xA9FF), 0x0105, 0x0106, 0x0113, 0x0114, 0x0115),
    *_rows(Reactions.FAILED, 0x0117, 0x0118, 0x0119, 0x0120, 0x0121, 0x0123),  # 011A to 011F are not defined
    *_rows(Reactions.AGAIN_ELSEWHERE, (0xC000, 0xCFFF), 0x0210, 0x0212),
    *_rows(Reactions.AGAIN_4_TIMES, 0x0110),  # a peer may fail one of two first objects of a study
    *_rows(Reactions.DUPLICATE, 0x0111),
    *_rows(Reactions.STOP_AFTER_3, 0x0124),
    *_rows(Reactions.AGAIN_ELSEWHERE_THEN_STOP, 0x0211),
    *_rows(Reactions.AGAIN, (0x0000, 0xFFFF)),
)


def parse_overrides(texts: Iterable[str]) -> tuple[StatusReaction, ...]:
    """Read texts such as `A702=stop` and `C000-C0FF=failed`: status codes in hexadecimal and the name of a reaction.

    Raises LocalProtocolError with one line that says what is wrong.
    """
    return tuple(_parse_override(text) for text in texts)


def _parse_override(text: str) -> StatusReaction:
    codes, _, name = text.partition("=")
    first, _, last = codes.partition("-")
    if name.lower() not in REACTION_NAMES:
        raise LocalProtocolError(f"{text!r}: after = comes one of {', '.join(REACTION_NAMES)}")
    try:
        span = int(first, 16), int(last or first, 16)
    except ValueError:
        raise LocalProtocolError(f"{text!r}: a status is four hexadecimal digits, as in A702=stop") from None
    if not 0 <= span[0] <= span[1] <= 0xFFFF:
        raise LocalProtocolError(f"{text!r}: a status is 0000 to FFFF")
    if span[0] == span[1] and span[0] in _NO_ANSWERS:
        raise LocalProtocolError(
            f"{text!r}: {first} is no answer to a C-STORE, and ends the association whatever comes after ="
        )
    return StatusReaction(*span, REACTION_NAMES[name.lower()].value)
