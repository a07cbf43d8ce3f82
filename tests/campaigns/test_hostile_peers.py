"""Hostile peers around a storescp that a good peer sends to: a short run of each kind, over TCP and TLS."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.campaigns import hostile_peers
from tests.campaigns.hostile_peers import KINDS, Seen

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="memory and descriptors are read from /proc"),
]


@pytest.mark.parametrize("by_tls", [False, True], ids=["TCP", "TLS"])
def test_everything_of_the_good_peer_is_stored_and_nothing_is_left_of_the_others(by_tls: bool, tmp_path: Path) -> None:
    seen = hostile_peers.run(3 * len(KINDS), 200, tmp_path, workers=16, by_tls=by_tls)
    assert seen.problems == []
    assert seen.attacks == dict.fromkeys(KINDS, 3)


def test_what_is_lost_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = hostile_peers._audit

    def after_a_loss(seen: Seen, receiver: hostile_peers.Receiver, attacks: int, instances: int, code: int) -> None:
        (receiver.directory / "1.2.2.1.dcm").unlink()
        with receiver.log.open("a") as log:
            log.write("\x1b[2J")
        audit(seen, receiver, attacks, instances, code)

    monkeypatch.setattr(hostile_peers, "_audit", after_a_loss)
    seen = hostile_peers.run(1, 5, tmp_path, workers=1, kinds=["garbage first"])
    assert seen.problems == [
        "not everything of the good peer is there",
        "something else is there",
        "text of a peer is printed as it is",
    ]
