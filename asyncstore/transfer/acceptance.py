"""Asks a peer what it accepts, and sends it nothing: in which transfer syntax it would get each kind of instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from asyncstore.errors import AsyncStoreError, NoAcceptedContext
from asyncstore.net.requestor import Requestor
from asyncstore.transfer.plan import Plan
from asyncstore.upper_layer.contexts import AcceptedContexts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncstore.net.peer import Peer
    from asyncstore.transfer.options import TransferOptions
    from asyncstore.transfer.plan import Pair, Proposal

Acceptance: TypeAlias = "dict[Pair, str | None]"
"""The transfer syntax in which the instances of a pair would be sent; None: the peer accepts none that they can have.

That need not be their own: an instance can be converted, or decompressed.
"""


async def ask(peer: Peer, pairs: Iterable[Pair], options: TransferOptions) -> Acceptance:
    """Propose what instances of these pairs need, on as many associations as that takes, one after the other.

    A pair that is refused without a reason is proposed again with fewer others: some peers limit the number of
    contexts. Raises what entering an association raises, except NoAcceptedContext.
    """
    plan = Plan(options)
    answers: Acceptance = {}
    left = list(dict.fromkeys(pairs))
    while left:
        proposal = plan.propose(left, filled=False)
        contexts = await _accepted(peer, proposal, options)
        for pair in proposal.pairs:
            answers[pair] = _sent_as(contexts, pair, options)
        refused = {pair for pair in proposal.pairs if answers[pair] is None and contexts.may_be_accepted(pair[0])}
        if len(refused) == len(proposal.pairs):
            refused = set()
        left = [pair for pair in left if pair not in proposal.pairs or pair in refused]
    return answers


async def _accepted(peer: Peer, proposal: Proposal, options: TransferOptions) -> AcceptedContexts:
    association = Requestor(
        peer, proposal.contexts, maximum_length=options.maximum_length, **options.of_each_association
    )
    contexts: AcceptedContexts | None = None
    try:
        async with association:
            contexts = association.contexts
    except NoAcceptedContext:
        return AcceptedContexts(())
    except AsyncStoreError:
        if contexts is None:  # otherwise the peer did not release the association well, and has said what we asked
            raise
    assert contexts is not None
    return contexts


def _sent_as(contexts: AcceptedContexts, pair: Pair, options: TransferOptions) -> str | None:
    return options.conversions.target(contexts, *pair)
