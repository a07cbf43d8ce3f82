"""Chooses the presentation contexts that an association proposes: first those that waiting work needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from asyncstore.record import record
from asyncstore.uids import STORAGE_SOP_CLASSES, UNCOMPRESSED_TRANSFER_SYNTAXES
from asyncstore.upper_layer.pdu import MAXIMUM_CONTEXTS
from asyncstore.upper_layer.request import context_bytes, information_of_requestor, request_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from asyncstore.transfer.options import TransferOptions

Pair: TypeAlias = tuple[str, str]
"""SOP Class UID and Transfer Syntax UID of an instance: they decide which presentation context it needs."""

# The default contexts leave an A-ASSOCIATE-RQ shorter than this: some acceptors take no PDU of more than 16,384 bytes.
# All 128 contexts came to 17,209.
FILLED_BELOW_BYTES: Final = 16_000

_Context: TypeAlias = tuple[str, tuple[str, ...]]


@record(frozen=True, slots=True)
class Proposal:
    """Presentation contexts to propose on one association, and the pairs for which it has every useful context."""

    contexts: tuple[_Context, ...]
    pairs: frozenset[Pair]


class Plan:
    """Remembers which pairs the input has shown so far, and turns them into proposals of at most 128 contexts.

    Each pair takes one context with exactly the file's own transfer syntax. By default a second one with the four
    uncompressed syntaxes makes conversion possible, and the room that is left below 16,000 bytes is filled with the
    Storage SOP Classes of the standard, so that an instance of a class not seen yet need not wait for another
    association.
    """

    def __init__(self, options: TransferOptions) -> None:
        self._only_transfer_syntax = options.only_transfer_syntax
        self._only_needed_contexts = options.only_needed_contexts
        self._convert = options.convert
        self._transcode = options.transcode
        self._bytes_without_contexts = request_bytes(
            information_of_requestor(
                maximum_length=options.maximum_length, window=options.window, user_identity=options.user_identity
            )
        )
        self._seen: dict[Pair, None] = {}

    def see(self, pair: Pair) -> None:
        """Take note that the input has an instance of this pair."""
        self._seen.setdefault(pair)

    def propose(self, needed: Iterable[Pair], *, filled: bool = True) -> Proposal:
        """The proposal for work of the pairs `needed`, the most urgent first; pairs seen earlier follow.

        Only a `filled` proposal has further contexts. Once an open association has them, another one need not propose
        them again: 128 contexts took a peer 15 ms.
        """
        contexts: dict[_Context, None] = {}
        pairs = set()
        for pair in dict.fromkeys((*needed, *self._seen)):
            missing = [context for context in self._contexts_of(pair) if context not in contexts]
            if len(contexts) + len(missing) > MAXIMUM_CONTEXTS:
                break
            contexts.update(dict.fromkeys(missing))
            pairs.add(pair)
        if filled:
            self._fill(contexts)
        return Proposal(tuple(contexts), frozenset(pairs))

    def _fill(self, contexts: dict[_Context, None]) -> None:
        """Add default contexts, up to 128 in all and while the request stays short."""
        total_bytes = self._bytes_without_contexts + sum(context_bytes(*context) for context in contexts)
        for context in self._filling():
            if context in contexts:
                continue
            total_bytes += context_bytes(*context)
            if len(contexts) == MAXIMUM_CONTEXTS or total_bytes >= FILLED_BELOW_BYTES:
                return
            contexts[context] = None

    def proposals_for(self, needed: Iterable[Pair]) -> Iterator[Proposal]:
        """The proposals that together carry work of all these pairs, one after the other."""
        left = list(dict.fromkeys(needed))
        while left:
            proposal = self.propose(left)
            yield proposal
            left = [pair for pair in left if pair not in proposal.pairs]

    def _contexts_of(self, pair: Pair) -> list[_Context]:
        sop_class_uid, transfer_syntax_uid = pair
        if self._only_transfer_syntax is not None:
            return [(sop_class_uid, (self._only_transfer_syntax,))]
        own: list[_Context] = [(sop_class_uid, (transfer_syntax_uid,))]
        if self._transcode is not None and transfer_syntax_uid in UNCOMPRESSED_TRANSFER_SYNTAXES:
            own.append((sop_class_uid, (self._transcode,)))
        if self._only_needed_contexts or not self._convert:
            return own
        return [*own, (sop_class_uid, UNCOMPRESSED_TRANSFER_SYNTAXES)]

    def _filling(self) -> Iterator[_Context]:
        if self._only_needed_contexts or self._transcode is not None:  # a context to compress in must stand beside
            return
        syntaxes = (self._only_transfer_syntax,) if self._only_transfer_syntax else UNCOMPRESSED_TRANSFER_SYNTAXES
        yield from ((uid, syntaxes) for uid in STORAGE_SOP_CLASSES)
