"""Whom to call: what makes a peer that can be called, and how it is written."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from asyncstore.errors import LocalProtocolError
from asyncstore.net.peer import Peer, Timeouts, check_ae_title, check_host


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (Peer("pacs.example", 104), "ANY-SCP@pacs.example:104"),
        (Peer("192.0.2.1", 11112, "ARCHIVE"), "ARCHIVE@192.0.2.1:11112"),
        (Peer("::1", 65535, "ARCHIVE"), "ARCHIVE@[::1]:65535"),
        (Peer("[::1]", 104), "ANY-SCP@[::1]:104"),
        (Peer("[fe80::1%eth0]", 104), "ANY-SCP@[fe80::1%eth0]:104"),
        (Peer("[pacs]", 104), "ANY-SCP@[pacs]:104"),
    ],
)
def test_a_peer_is_written_with_title_host_and_port(peer: Peer, text: str) -> None:
    assert str(peer) == text


def test_an_ipv6_address_may_be_in_brackets() -> None:
    assert Peer("[::1]", 104) == Peer("::1", 104)
    assert Peer("[::1]", 104).host == "::1"


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_a_port_is_1_to_65535(port: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"port {port} is out of range"):
        Peer("pacs.example", port)


def test_a_source_address_is_that_of_a_socket_and_no_part_of_the_name() -> None:
    peer = Peer("pacs.example", 104, source_address=("[::1]", 0))
    assert peer.source_address == ("::1", 0)
    assert str(peer) == str(Peer("pacs.example", 104))
    for port in (-1, 65536):
        with pytest.raises(LocalProtocolError, match=f"port {port} is out of range: a TCP port is 0 to 65535"):
            Peer("pacs.example", 104, source_address=("::1", port))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"host": None}, "host None: it is a host name or an address"),
        ({"host": ""}, "host '': it is a host name or an address"),
        ({"host": " "}, "host ' ': it is a host name or an address"),
        ({"port": True}, "port True: a TCP port is a whole number"),
        ({"host": b"pacs"}, "host b'pacs'"),
        ({"port": "104"}, "port '104': a TCP port is a whole number"),
        ({"port": 104.5}, "port 104.5"),
        ({"source_address": "192.0.2.7"}, "source_address is '192.0.2.7': it is an address and a port"),
        ({"source_address": (7, 0)}, "host 7"),
    ],
)
def test_what_is_no_place_to_call_is_refused_at_once(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(LocalProtocolError, match=re.escape(text)):
        Peer(**{"host": "pacs.example", "port": 104, **wrong})


TIMES = ["connect_seconds", "acse_seconds", "dimse_seconds", "network_seconds"]


@pytest.mark.parametrize("name", TIMES)
def test_a_timeout_is_a_number_of_seconds(name: str) -> None:
    for seconds in (0, 0.5, 30, math.inf):
        assert getattr(Timeouts(**{name: seconds}), name) == seconds
    for seconds in (-1, math.nan):
        with pytest.raises(LocalProtocolError, match=f"{name} is .*: it is 0 or more"):
            Timeouts(**{name: seconds})
    for wrong in (None, "30"):
        with pytest.raises(LocalProtocolError, match=f"{name} is {wrong!r}: it is a number of seconds"):
            Timeouts(**{name: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host", ["pacs.example", "192.0.2.7", "::1", "fe80::1%eth0", "[::1]", "pacs_1", "b\u00fc.example"]
)
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    assert check_host(host) == Peer(host, 104).host == host.strip("[]")


@pytest.mark.parametrize("host", ["pacs:104", "pacs:", "dicom://pacs.example", "[::1]:104", "a/b"])
def test_a_host_with_a_scheme_or_a_port_is_refused(host: str) -> None:
    with pytest.raises(LocalProtocolError, match="without a scheme or a port") as caught:
        Peer(host, 104)
    assert repr(host) in str(caught.value)


@pytest.mark.parametrize("title", ["A", "ABCDEFGHIJKLMNOP", "WITH SPACE", " padded "])
def test_an_ae_title_that_can_be_sent_is_given_back(title: str) -> None:
    assert check_ae_title(title) == title


@pytest.mark.parametrize("title", ["", "   ", "ABCDEFGHIJKLMNOPQ"])
def test_an_ae_title_has_1_to_16_characters(title: str) -> None:
    with pytest.raises(LocalProtocolError, match="1 to 16"):
        Peer("pacs.example", 104, title)


@pytest.mark.parametrize("title", ["BACK\\SLASH", "LINE\nFEED", "TAB\t", "ÜBER", "DEL\x7f"])
def test_an_ae_title_has_no_other_characters(title: str) -> None:
    with pytest.raises(LocalProtocolError, match="cannot have"):
        Peer("pacs.example", 104, title)
