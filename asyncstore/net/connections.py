"""How many connections an acceptor keeps open, and whom it keeps them for.

A connection waits until its peer has requested an association that is accepted; from then on it is an association. The
two are counted apart: peers that connect and say nothing take no association from others. When too many wait, the one
that has waited longest is closed, of the address that has most of them, so that a peer which asks at once is served.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

logger: logging.Logger = logging.getLogger("asyncstore.net.acceptor")

# As many may wait as there may be associations, but at least a few and at most so many: peers may connect all at once,
# and a process has a limited number of descriptors, often 1024.
_FEWEST_WAITING: Final = 32
_MOST_WAITING: Final = 256
_SAY_AGAIN_SECONDS: Final = 60.0
_IPV4_IN_IPV6: Final = bytes(10) + b"\xff\xff"


class Rarely:
    """Logs a warning that a flood of the same events must not repeat: once a minute, with the number of events."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._next_at = -math.inf
        self._unsaid = 0

    def warn(self, text: str) -> None:
        """Log this, unless it was logged within the last minute."""
        now = time.monotonic()
        if now < self._next_at:
            self._unsaid += 1
            return
        more = f" ({self._unsaid:,} more since the last such line)" if self._unsaid else ""
        self._next_at, self._unsaid = now + _SAY_AGAIN_SECONDS, 0
        self._logger.warning("%s%s", text, more)


class Connection:
    """An open connection; `close` ends it. `is_given_up`: it has waited too long, and was closed."""

    __slots__ = ("address", "close", "is_association", "is_given_up")

    def __init__(self, address: str | bytes, close: Callable[[], object]) -> None:
        self.address: str | bytes = address
        self.close: Callable[[], object] = close
        self.is_association: bool = False
        self.is_given_up: bool = False


class Connections:
    """The open connections of an acceptor: at most `most` associations, `most_of_address` of one address (0: any)."""

    def __init__(self, most: int, most_of_address: int) -> None:
        self._most = most or math.inf
        self._most_of_address = most_of_address or math.inf
        self._most_waiting = _bounded(most)
        self._most_waiting_of_address = _bounded(most_of_address)
        self._waiting: dict[Connection, None] = {}  # the oldest first
        self._waiting_by_address: Counter[str | bytes] = Counter()
        self._associations_by_address: Counter[str | bytes] = Counter()
        self._associations = 0
        self._refusing = Rarely(logger)
        self._giving_up = Rarely(logger)

    def opened(self, host: str, close: Callable[[], object]) -> Connection:
        """Take a connection from this host. One that waits is closed if too many do."""
        connection = Connection(_network_of(host), close)
        self._waiting[connection] = None
        self._waiting_by_address[connection.address] += 1
        if self._waiting_by_address[connection.address] > self._most_waiting_of_address:
            self._give_up(connection.address)
        elif len(self._waiting) > self._most_waiting:
            self._give_up(self._waiting_by_address.most_common(1)[0][0])
        return connection

    def has_room(self, connection: Connection) -> bool:
        """Whether it may become an association; a warning says which limit forbids it."""
        if self._associations >= self._most:
            self._refusing.warn(f"an association is refused: {self._associations} are open, the most that may be")
            return False
        of_address = self._associations_by_address[connection.address]
        if of_address >= self._most_of_address:
            self._refusing.warn(
                f"an association is refused: {of_address} are open with {_shown(connection.address)}, the most that "
                "may be with one address"
            )
            return False
        return True

    def becomes_association(self, connection: Connection) -> bool:
        """Count it as an association from now on; returns False if there are too many."""
        if connection.is_association or not self.has_room(connection):
            return connection.is_association
        self._forget_waiting(connection)
        connection.is_association = True
        self._associations += 1
        self._associations_by_address[connection.address] += 1
        return True

    def closed(self, connection: Connection) -> None:
        """Forget a connection that has ended; it may have been forgotten before."""
        self._forget_waiting(connection)
        if connection.is_association:
            connection.is_association = False
            self._associations -= 1
            _count_down(self._associations_by_address, connection.address)

    def _give_up(self, address: str | bytes) -> None:
        oldest = next(each for each in self._waiting if each.address == address)
        self._forget_waiting(oldest)
        oldest.is_given_up = True
        count = self._waiting_by_address[address] + 1
        self._giving_up.warn(
            f"a connection is closed that has waited longest: {_shown(address)} has {count} without an association"
        )
        oldest.close()

    def _forget_waiting(self, connection: Connection) -> None:
        if connection in self._waiting:
            del self._waiting[connection]
            _count_down(self._waiting_by_address, connection.address)


def _bounded(most: int) -> int:
    return min(max(most, _FEWEST_WAITING), _MOST_WAITING) if most else _MOST_WAITING


def _count_down(counts: Counter[str | bytes], address: str | bytes) -> None:
    counts[address] -= 1
    if not counts[address]:
        del counts[address]


def _network_of(host: str) -> str | bytes:
    """What counts as one address: a host of IPv6 has all addresses of its network, the first 64 bits."""
    if ":" not in host:
        return host
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return host if packed.startswith(_IPV4_IN_IPV6) else packed[:8]


def _shown(address: str | bytes) -> str:
    return address if isinstance(address, str) else f"{socket.inet_ntop(socket.AF_INET6, address + bytes(8))}/64"
