"""The public association: what a program asks of a peer, a method a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.dimse.messages import LOW
from asyncstore.net.requestor import Requestor
from asyncstore.services import storage

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from asyncstore.inputs.opening import AnyPath
    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome
    from asyncstore.status import Status


class Association(Requestor):
    """An association with a peer: `async with associate(peer, contexts=...) as association`.

    `contexts` are pairs of an abstract syntax and the transfer syntaxes to propose for it, at most 128. `window` is the
    asynchronous operations window to propose, 1 for none. `maximum_length` is what we announce to receive,
    `maximum_send_length` a cap of our own below what the peer announces, both in bytes (0: none). `providers` perform
    what the peer asks of us, by abstract syntax. `connect` opens the connection, by TCP unless told otherwise. What
    cannot be proposed raises LocalProtocolError here, before there is a connection.

    The block is entered once. Entering it raises ConnectFailed, Timeout, AssociationRejected, Aborted, ConnectionLost,
    RemoteProtocolError or NoAcceptedContext. Leaving it releases the association; leaving it by an exception or by
    cancellation aborts it. An exception that a callback or a logging handler raises aborts it too, and leaves the
    block as itself. PS3.8 7.1 to 7.3.

    Several tasks may call `store` at once: as many requests are outstanding as the peer agreed to (`window`), the
    others wait for room. `outstanding` has the operations that were begun and not answered, by Message ID. `failure` is
    why the association ended before its work did, None while all is well.
    """

    async def store(self, source: Instance | Dataset | AnyPath, *, priority: int = LOW) -> Outcome:
        """Store one instance: a file by its path, a scanned Instance, or a pydicom Dataset.

        Gives the outcome, also when the peer refuses the instance, when no accepted presentation context fits (the data
        set is converted among the uncompressed transfer syntaxes where that helps), or when the file cannot be read or
        the Dataset cannot be encoded. `outcome.instance` is the Instance that was handed in. Raises AssociationLost or
        RemoteProtocolError when the association ends before the answer: what became of the instance at the peer is
        unknown then. PS3.4 Annex B, PS3.7 9.1.1.

        Cancelling it in the middle of its message, by a timeout say, ends the association for every task: half a
        message cannot be taken back. Cancelled before or after that, it leaves the others alone.
        """
        return await storage.store(self, source, priority=priority)

    async def echo(self) -> Status:
        """Verify that the peer answers (C-ECHO, PS3.7 9.1.5): its status.

        Raises LocalProtocolError when no context for Verification was accepted, and what ended the association when it
        ended before the answer.
        """
        from asyncstore.services import verification

        return await verification.echo(self)


associate = Association
"""Establish an association: the verb for `async with`."""
