"""DCMTK's storescp as it is, and with the faults that it can play: nothing is lost without a word."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from asyncstore import Peer, RetryPolicy, Transfer, TransferOptions
from tests.support import peers
from tests.support.kept import TEST_FILES, Kept, assert_all_arrived, copies, kept_by, storescu

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore import Report
    from tests.support.kept import Run

CT = TEST_FILES / "CT_small.dcm"


def assert_unknown(run: Run, paths: list[Path]) -> None:
    """All were sent three times and never answered, and the run says so of each."""
    assert run.code == 3
    assert run.paths("unknown") == sorted(paths) == sorted(path for path in run.paths(*run.summary["states"]))
    for record in run.records:
        assert (record["attempts"], record["retryable"], record["status"]) == (3, True, None)
        assert f"E: Store failed: {record['path']}\nE: Reason: sent, and not answered, 3 times: " in run.stderr


@pytest.mark.parametrize("fault", ["--abort-after", "--abort-during"])
def test_instances_over_which_it_aborts_each_time_are_set_aside(tmp_path: Path, fault: str) -> None:
    paths = copies(tmp_path / "study", 2)
    with peers.dcmtk_storescp(tmp_path / "peer", fault) as peer:
        run = storescu(peer, tmp_path / "study", "--retry-wait", "0.01")
    assert_unknown(run, paths)
    assert run.summary["associations_established"] == 6


def test_a_peer_that_aborts_over_everything_is_given_up_with_the_rest_left(tmp_path: Path) -> None:
    paths = copies(tmp_path / "study", 20)
    options = TransferOptions(retry=RetryPolicy(first_wait_seconds=0.1, cap_seconds=0.2, outage_seconds=1))

    async def main(port: int) -> Report:
        async with Transfer(Peer("127.0.0.1", port), paths, options=options) as transfer:
            outcomes = [outcome async for outcome in transfer]
        assert not any(outcome.is_stored for outcome in outcomes)
        return transfer.report

    with peers.dcmtk_storescp(tmp_path / "peer", "--abort-after") as peer:
        report = anyio.run(main, peer.port)
    assert report.left > 0
    assert report.found == report.failed + report.left == 20
    assert "aborted by the peer" in str(report.stopped_because)


def test_an_association_that_it_refuses_is_code_1_and_leaves_everything(tmp_path: Path) -> None:
    copies(tmp_path / "study", 3)
    with peers.dcmtk_storescp(tmp_path / "peer", "--refuse") as peer:
        run = storescu(peer, tmp_path / "study")
    assert (run.code, run.stderr) == (
        1,
        "E: Association Rejected\nE: Result: Rejected Permanent, Source: Service User\nE: Reason: No reason given\n",
    )
    assert run.records == []
    assert run.summary["stored"] == 0


def test_a_peer_that_takes_none_of_the_contexts_is_the_documented_line(tmp_path: Path) -> None:
    with peers.dcmtk_storescp(tmp_path, accept_all=False) as peer:
        run = storescu(peer, TEST_FILES / "JPEG2000.dcm", "-cx")
    assert (run.code, run.stderr) == (1, "E: No accepted presentation contexts\n")


def test_one_that_wants_an_implementation_class_uid_takes_everything(tmp_path: Path) -> None:
    paths = copies(tmp_path / "study", 5)
    with peers.dcmtk_storescp(tmp_path / "peer", "--reject") as peer:
        run = storescu(peer, tmp_path / "study")
    assert (run.code, run.stderr) == (0, "")
    assert assert_all_arrived([Kept.at(path) for path in paths], kept_by(peer)) == 5


@pytest.mark.parametrize("maximum_length", [4096, 131072])
def test_the_longest_pdu_that_it_takes_is_never_exceeded(tmp_path: Path, maximum_length: int) -> None:
    with peers.dcmtk_storescp(tmp_path, "--max-pdu", str(maximum_length)) as peer:
        run = storescu(peer, TEST_FILES / "dicomdirtests" / "98892003", "-r")
    assert (run.code, run.stderr) == (0, "")
    assert assert_all_arrived(run.stored, kept_by(peer)) == len(run.records) == 17


# -- its delayed answers -----------------------------------------------------------------------------------------------


class Recorded(socket.socket):
    """A socket that notes, for TCP, what is sent (s), received (r) and asked to be acknowledged at once (a)."""

    notes = ""

    def _note(self, letter: str) -> None:
        if self.family == socket.AF_INET:
            type(self).notes += letter

    def setsockopt(self, *arguments: Any) -> None:
        super().setsockopt(*arguments)
        if arguments == (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1):
            self._note("a")

    def send(self, *arguments: Any) -> int:
        sent = super().send(*arguments)
        self._note("s")
        return sent

    def sendmsg(self, *arguments: Any) -> int:
        sent = super().sendmsg(*arguments)
        self._note("s")
        return sent

    def recv(self, *arguments: Any) -> bytes:
        received = super().recv(*arguments)
        self._note("r")
        return received


@pytest.mark.every_loop
@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux delays and can be told not to")
async def test_answers_in_two_pieces_are_never_waited_for_with_a_delayed_acknowledgement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stock storescp has Nagle's algorithm on: each delayed acknowledgement would cost 40 ms."""
    paths = copies(tmp_path / "study", 5)
    with peers.dcmtk_storescp(tmp_path / "peer", ignore=True, no_delay=False) as peer:
        monkeypatch.setattr(Recorded, "notes", "")
        monkeypatch.setattr(socket, "socket", Recorded)
        async with Transfer(Peer(peer.host, peer.port), paths, associations=1, window=1) as transfer:
            assert [outcome.is_stored async for outcome in transfer] == [True] * 5
    # The association; five instances, of whose answers every first piece is acknowledged at once, and again if the rest
    # is late; the release.
    assert re.fullmatch(r"sr+(s+(ra+)*r){5}s(ra?)+", Recorded.notes)
