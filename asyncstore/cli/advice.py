"""Explains errors to a user of the command line: which option sets a limit, which peer it was, what may help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from asyncstore.cli.output.documented_log import logger, with_option
from asyncstore.errors import AssociationRejected, AsyncStoreError, ConnectFailed, ConnectionLost, Timeout

if TYPE_CHECKING:
    from asyncstore.cli.output.documented_log import DocumentedLog
    from asyncstore.net.peer import Peer

# PS3.8 Table 9-21: the rejections that another AE title would have avoided.
_AE_TITLE_REJECTIONS: Final = ((1, 3), (1, 7))


def reason_text(error: Exception, peer: Peer) -> str:
    """An error in one line, with the address that could not be connected to and the option that sets a time."""
    text = with_option(str(error), error)
    return f"No connection to {peer.host}:{peer.port}: {text}" if _is_about_the_connection(error) else text


def may_pass(error: Exception | None) -> bool:
    """Whether the same command may succeed later; None: the user ended it."""
    return error is None or (isinstance(error, AsyncStoreError) and error.retryable)


def explain_failure(error: Exception, peer: Peer, calling_ae_title: str, log: DocumentedLog) -> None:
    """Log why there was no association, unless the log has said it, and what the documented lines leave out."""
    if isinstance(error, AssociationRejected) and (error.source, error.reason) in _AE_TITLE_REJECTIONS:
        logger.error("We are %s and called %s: -aet and -aec set other AE titles", calling_ae_title, peer.ae_title)
    elif isinstance(error, Timeout):
        logger.error("%s", reason_text(error, peer))
    elif _is_about_the_connection(error):
        logger.error("No connection to %s:%s", peer.host, peer.port)
    elif not log.errors:
        logger.error("%s", error)
    if isinstance(error, ConnectionLost) and not error.outstanding and peer.tls is None:
        logger.error(
            "Possible reasons: the port expects TLS (--tls), or the peer does not allow our host or the AE titles"
        )


def _is_about_the_connection(error: Exception) -> bool:
    # The text about a host name that cannot be resolved has the name already.
    return (isinstance(error, ConnectFailed) and error.retryable) or (
        isinstance(error, Timeout) and error.which == "connect"
    )
