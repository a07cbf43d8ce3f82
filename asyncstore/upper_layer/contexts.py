"""The presentation contexts of one association, proposed and accepted (PS3.8 7.1.1.13)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from asyncstore.errors import LocalProtocolError
from asyncstore.upper_layer.items import NO_REASON, PresentationContext
from asyncstore.upper_layer.pdu import MAXIMUM_CONTEXTS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from asyncstore.upper_layer.items import PresentationContextResult

_UNEXPLAINED: Final = (1, NO_REASON)  # user rejection, provider rejection: PS3.8 Table 9-18


class AcceptedContext(NamedTuple):
    """A presentation context that was accepted (PS3.8 7.1.1.13).

    `context_id` is its ID, odd and 1 to 255. `abstract_syntax` is the SOP Class UID, and `transfer_syntax_uid` what its
    data sets are sent in.
    """

    context_id: int
    abstract_syntax: str
    transfer_syntax_uid: str


class AcceptedContexts:
    """The presentation contexts that were accepted, to look up by SOP class and transfer syntax, or by ID (`by_id`)."""

    def __init__(self, accepted: Iterable[AcceptedContext], unexplained: Collection[str] = ()) -> None:
        self._unexplained = frozenset(unexplained)
        self._ids: dict[tuple[str, str], int] = {}
        self.by_id: dict[int, AcceptedContext] = {}
        for context in accepted:
            self.by_id[context.context_id] = context
            self._ids.setdefault((context.abstract_syntax, context.transfer_syntax_uid), context.context_id)

    @classmethod
    def of(cls, proposed: Sequence[PresentationContext], results: Iterable[PresentationContextResult]) -> Self:
        """Match the peer's results with the proposed contexts; results for other contexts are ignored."""
        contexts = {context.context_id: context for context in proposed}
        answers = {result.context_id: result for result in results if result.context_id in contexts}
        accepted = (
            AcceptedContext(number, contexts[number].abstract_syntax, answer.transfer_syntax)
            for number, answer in answers.items()
            if answer.result == 0 and answer.transfer_syntax in contexts[number].transfer_syntaxes
        )
        unexplained = (
            context.abstract_syntax
            for number, context in contexts.items()
            if number not in answers or answers[number].result in _UNEXPLAINED
        )
        return cls(accepted, frozenset(unexplained))

    def __bool__(self) -> bool:
        return bool(self._ids)

    def find(self, sop_class_uid: str, transfer_syntax_uid: str) -> int | None:
        """The ID of the context for exactly this pair."""
        return self._ids.get((sop_class_uid, transfer_syntax_uid))

    @property
    def pairs(self) -> Collection[tuple[str, str]]:
        """All pairs for which there is a context."""
        return self._ids.keys()

    def may_be_accepted(self, abstract_syntax: str) -> bool:
        """Whether the peer refused a context for this abstract syntax without naming a syntax as the reason.

        Another association may then accept it: some peers limit the number of contexts on one association.
        """
        return abstract_syntax in self._unexplained

    def any_of(self, abstract_syntax: str) -> int | None:
        """The ID of a context for the abstract syntax, whatever its transfer syntax."""
        return next((context_id for (uid, _), context_id in self._ids.items() if uid == abstract_syntax), None)


def propose(contexts: Iterable[tuple[str, Sequence[str]]]) -> tuple[PresentationContext, ...]:
    """Number the contexts to propose: pairs of an abstract syntax and its transfer syntaxes, at most 128.

    A single transfer syntax may be given as a string. Raises LocalProtocolError unless there are 1 to 128 such pairs.
    """
    if not isinstance(contexts, Iterable):
        raise LocalProtocolError(f"contexts is {contexts!r:.200}: it is pairs of an abstract and its transfer syntaxes")
    numbered = tuple(
        PresentationContext(2 * index + 1, abstract_syntax, syntaxes)
        for index, (abstract_syntax, syntaxes) in enumerate(map(_pair_of, contexts))
    )
    if not 1 <= len(numbered) <= MAXIMUM_CONTEXTS:
        raise LocalProtocolError(f"{len(numbered)} presentation contexts: an association has 1 to {MAXIMUM_CONTEXTS}")
    return numbered


def _pair_of(context: object) -> tuple[str, tuple[str, ...]]:
    match context:
        # Python looks for str.__match_args__, and catches an exception, if this says `str(abstract_syntax)`.
        case (str() as abstract_syntax, str() as single):
            return abstract_syntax, (single,)
        case (str() as abstract_syntax, tuple() | Iterable() as several):
            syntaxes = tuple(several)
            if set(map(type, syntaxes)) == {str} or all(isinstance(uid, str) for uid in syntaxes):
                return abstract_syntax, syntaxes
    raise LocalProtocolError(f"{context!r:.200} is not a pair of an abstract syntax and its transfer syntaxes")
