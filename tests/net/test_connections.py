"""Who may wait for an association, who may have one, and who gives way: counted without a network."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.net import connections
from asyncstore.net.connections import Connection, Connections, Rarely

if TYPE_CHECKING:
    from collections.abc import Callable


class Peers:
    """Opens connections, and knows which of them were closed."""

    def __init__(self, most: int, most_of_address: int = 0) -> None:
        self.connections = Connections(most, most_of_address)
        self.closed: list[str] = []

    def connect(self, host: str, name: str = "") -> Connection:
        return self.connections.opened(host, lambda: self.closed.append(name))


def test_further_associations_are_refused_until_one_has_ended() -> None:
    peers = Peers(2)
    one, two, three = (peers.connect(host) for host in "abc")
    assert [peers.connections.becomes_association(each) for each in (one, two, three)] == [True, True, False]
    peers.connections.closed(one)
    peers.connections.closed(one)  # a second time changes nothing
    assert peers.connections.becomes_association(three)
    assert not peers.connections.has_room(peers.connect("d"))


def test_one_address_cannot_have_all(caplog: pytest.LogCaptureFixture) -> None:
    peers = Peers(10, 2)
    greedy = [peers.connect("192.0.2.1") for _ in range(3)]
    assert [peers.connections.becomes_association(each) for each in greedy] == [True, True, False]
    assert peers.connections.becomes_association(peers.connect("192.0.2.2"))
    (line,) = caplog.messages
    assert line == "an association is refused: 2 are open with 192.0.2.1, the most that may be with one address"


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:1%eth0", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
    ],
)
def test_a_network_of_ipv6_counts_as_one_address(one: str, other: str, are_one: bool) -> None:
    peers = Peers(10, 1)
    assert peers.connections.becomes_association(peers.connect(one))
    assert peers.connections.becomes_association(peers.connect(other)) is not are_one


def test_of_those_who_wait_the_oldest_of_the_address_with_most_gives_way(caplog: pytest.LogCaptureFixture) -> None:
    peers = Peers(32)
    good = peers.connect("good", "good")
    for number in range(40):
        peers.connect("bad", f"bad {number}")
    assert peers.closed == [f"bad {number}" for number in range(9)]
    assert not good.is_given_up
    assert peers.connections.becomes_association(good)
    (line,) = caplog.messages
    assert line == "a connection is closed that has waited longest: bad has 32 without an association"


def test_those_who_wait_take_no_association_and_an_association_never_gives_way() -> None:
    peers = Peers(3)
    kept = [peers.connect("a", "kept") for _ in range(3)]
    assert all(peers.connections.becomes_association(each) for each in kept)
    for _ in range(100):
        peers.connect("a", "waits")
    assert set(peers.closed) == {"waits"}
    assert len(peers.closed) == 100 - 32


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["waits", "asks", "leaves"])), max_size=300))
def test_counts_never_pass_the_limits_and_come_back_to_nothing(steps: list[tuple[str, str]]) -> None:
    peers = Peers(4, 2)
    alive: list[Connection] = []
    for host, what in steps:
        if what == "leaves" and alive:
            peers.connections.closed(alive.pop(0))
            continue
        alive.append(peers.connect(host))
        if what == "asks":
            peers.connections.becomes_association(alive[-1])
        open_now = [each for each in alive if each.is_association]
        assert len(open_now) <= 4
        assert all(sum(each.address == host for each in open_now) <= 2 for host in "abcd")
        assert sum(not each.is_association and not each.is_given_up for each in alive) <= 32
    for each in alive:
        peers.connections.closed(each)
    assert not peers.connections._waiting
    assert not peers.connections._waiting_by_address
    assert not peers.connections._associations_by_address
    assert peers.connections._associations == 0


def test_a_flood_is_one_line_a_minute(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0

    class Clock:
        monotonic: Callable[[], float] = staticmethod(lambda: now)

    monkeypatch.setattr(connections, "time", Clock)
    rarely = Rarely(logging.getLogger("asyncstore.test"))
    for _ in range(1000):
        rarely.warn("too many")
    now += 61
    rarely.warn("too many")
    assert caplog.messages == ["too many", "too many (999 more since the last such line)"]
