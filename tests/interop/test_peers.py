"""The peers start, serve and stop; each is sent an instance by the scripted requestor."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread

from asyncstore.dimse.messages import CStoreRQ
from asyncstore.uids import CT_IMAGE_STORAGE
from asyncstore.upper_layer.user_information import OperationsWindow
from tests.support import peers
from tests.support.wire import Wire, play_scu

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.peers import InProcessSCP, RunningOrthanc, RunningPeer

UID = "1.2.3.4"


def element(tag: tuple[int, int], value: bytes) -> bytes:
    group, number = tag
    return group.to_bytes(2, "little") + number.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value


def data_set(uid: str) -> bytes:
    """The least that an archive takes, in Implicit VR Little Endian."""
    values = {
        (0x0008, 0x0016): CT_IMAGE_STORAGE,
        (0x0008, 0x0018): uid,
        (0x0010, 0x0020): "PATIENT ",
        (0x0020, 0x000D): "1.2.3.55",
        (0x0020, 0x000E): "1.2.3.66",
    }
    return b"".join(element(tag, text.encode() + b"\0" * (len(text) % 2)) for tag, text in values.items())


def stores_one(wire: Wire) -> int:
    wire.associate()
    status = wire.store(data_set(UID), sop_instance_uid=UID)
    wire.release()
    return status.value


def test_storescp_keeps_an_instance(storescp: RunningPeer) -> None:
    assert play_scu(stores_one, storescp.port) == 0
    (path,) = storescp.received_files()
    assert dcmread(path).SOPInstanceUID == UID


def test_pynetdicom_keeps_an_instance(pynetdicom_storescp: RunningPeer) -> None:
    assert play_scu(stores_one, pynetdicom_storescp.port) == 0
    (path,) = pynetdicom_storescp.received_files()
    assert dcmread(path).SOPInstanceUID == UID


def test_pynetdicom_in_this_process_shows_the_bytes(pynetdicom_server: InProcessSCP) -> None:
    assert play_scu(stores_one, pynetdicom_server.port) == 0
    (received,) = pynetdicom_server.received
    assert (received.sop_instance_uid, received.data_set) == (UID, data_set(UID))


def test_orthanc_keeps_an_instance_and_forgets_it(orthanc: RunningOrthanc) -> None:
    assert play_scu(stores_one, orthanc.port) == 0
    assert orthanc.sop_instance_uids() == {UID}
    assert orthanc.instance_file(UID)[128:132] == b"DICM"
    orthanc.clear()
    assert orthanc.instance_ids() == []


def test_dcmjs_has_a_window_and_answers_the_newest_first(dcmjs_scp: RunningPeer) -> None:
    uids = {number: f"1.2.3.{number}" for number in range(1, 5)}

    def stores_four_at_once(wire: Wire) -> list[int | None]:
        answer = wire.associate(operations_window=OperationsWindow(8, 1))
        assert answer.user_information.operations_window == OperationsWindow(8, 1)
        for number, uid in uids.items():
            wire.send_message(1, CStoreRQ(number, CT_IMAGE_STORAGE, uid), data_set(uid) + bytes(50_000))
        order = [wire.read_message().message.responded_to for _ in uids]
        wire.release()
        return order

    assert play_scu(stores_four_at_once, dcmjs_scp.port) == [4, 3, 2, 1]
    lines = [json.loads(line) for line in dcmjs_scp.output().splitlines()]
    assert [line["outstanding"] for line in lines] == [1, 2, 3, 4, 3, 2, 1, 0]
    for path in dcmjs_scp.received_files():
        assert path.read_bytes().endswith(data_set(path.name) + bytes(50_000))
    assert [path.name for path in dcmjs_scp.received_files()] == list(uids.values())


def test_a_stopped_peer_takes_no_more_connections(tmp_path: Path) -> None:
    with peers.dcmtk_storescp(tmp_path, ignore=True) as peer:
        pass
    with pytest.raises(ConnectionRefusedError):
        play_scu(stores_one, peer.port)
    assert peer.process.returncode is not None


def test_a_peer_that_does_not_start_says_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(peers.PeerFailed, match="no-such-option"), peers.dcmtk_storescp(tmp_path, "--no-such-option"):
        pass


def test_a_missing_peer_skips_and_where_peers_are_required_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(peers.REQUIRE_VARIABLE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install some-package"):
        peers.require("no-such-program", "some-package")
    monkeypatch.setenv(peers.REQUIRE_VARIABLE, "1")
    with pytest.raises(pytest.fail.Exception, match="apt-get install some-package"):
        peers.require("no-such-program", "some-package")
