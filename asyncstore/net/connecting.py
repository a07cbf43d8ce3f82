"""Opens a connection to a peer: TCP, and TLS on it if the peer is called so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from asyncstore.net.transport import connect as connect_by_tcp

if TYPE_CHECKING:
    from asyncstore.net.peer import Peer
    from asyncstore.net.transport import Transport


async def connect(peer: Peer, timeout_seconds: float) -> Transport:
    """Open a connection; name resolution, TCP and TLS together take at most `timeout_seconds`.

    Raises ConnectFailed, TLSFailed, or Timeout("connect").
    """
    begun_at = anyio.current_time()
    tcp = await connect_by_tcp(peer, timeout_seconds)
    if peer.tls is None:
        return tcp
    from asyncstore.net import tls

    return await tls.call(tcp, peer, timeout_seconds, spent_seconds=anyio.current_time() - begun_at)
