"""Ports that no two tests of a run are given."""

from __future__ import annotations

import itertools
import socket
from typing import TYPE_CHECKING

from tests.support import ports

if TYPE_CHECKING:
    import pytest


def test_no_two_workers_are_given_the_same_port_and_none_one_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    given: list[int] = []
    for worker in ("gw0", "gw1", "gw2"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        given += itertools.islice(ports._ports(), 4000)
    assert len(set(given)) == len(given) == 12_000
    assert 20_000 <= min(given) <= max(given) < 32_768  # from there on Linux gives them out by itself


def test_without_workers_each_port_comes_once_before_the_first_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)
    given = list(itertools.islice(ports._ports(), 12_769))
    assert len(set(given)) == 12_768
    assert given[0] == given[-1]


def test_one_that_is_listened_on_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(ports, "_PORTS", iter([taken, free := ports.free_port()]))
        assert ports.free_port() == free
