"""Storage commitment by other archives: Orthanc on a new association, pynetdicom and dcmjs-dimse in both ways."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from pydicom import Dataset

import asyncstore
from asyncstore.net.acceptor import Acceptor
from asyncstore.services.storage_commitment import PUSH_MODEL_INSTANCE
from asyncstore.uids import CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT_PUSH_MODEL
from tests.support.archive import item_of
from tests.support.associations import MR_IMAGE_STORAGE
from tests.support.peers import LOOPBACK, dcmjs_scp, free_port, orthanc

if TYPE_CHECKING:
    from pathlib import Path

CONTEXTS = [(STORAGE_COMMITMENT_PUSH_MODEL, (IMPLICIT_VR_LITTLE_ENDIAN,))]
SECONDS = 60.0


def test_orthanc_reports_on_an_association_of_its_own_and_aborts_for_strangers(tmp_path: Path) -> None:
    port = free_port()
    us = {"AET": "COMMITSCU", "Host": LOOPBACK, "Port": port, "AllowStorageCommitment": True}
    stored = asyncstore.instance_from(_sample())
    there = asyncstore.Reference(stored.sop_class_uid, stored.sop_instance_uid)
    missing = asyncstore.Reference(CT_IMAGE_STORAGE, "1.2.3.4.5.6.7.8.9")
    conflicting = asyncstore.Reference(MR_IMAGE_STORAGE, stored.sop_instance_uid)

    async def main(archive: asyncstore.Peer) -> None:
        reports = asyncstore.CommitmentReports()
        providers = {STORAGE_COMMITMENT_PUSH_MODEL: reports}
        assert (await asyncstore.store([_sample()], to=archive)).stored == 1
        with anyio.fail_after(SECONDS):
            async with Acceptor(providers, port=port, ae_title="COMMITSCU"):
                for references in ([there, missing], [conflicting]):
                    async with asyncstore.associate(
                        archive, contexts=CONTEXTS, providers=providers, calling_ae_title="COMMITSCU"
                    ) as association:
                        transaction = await association.request_commitment(references)
                    answers = await reports.wait(transaction, references)
                    if missing in references:
                        assert answers == ({there.sop_instance_uid}, {missing.sop_instance_uid: 0x0112})
                    else:
                        assert answers == (set(), {there.sop_instance_uid: 0x0119})
            with pytest.raises(asyncstore.Aborted):
                await _ask(archive, [there])

    with orthanc(tmp_path, DicomModalities={"us": us}) as peer:
        anyio.run(main, asyncstore.Peer(peer.host, peer.port, peer.ae_title))


def _sample() -> Any:
    from tests.support.files import bundled

    return bundled("CT_small.dcm")


async def _ask(archive: asyncstore.Peer, references: list[asyncstore.Reference]) -> None:
    async with asyncstore.associate(archive, contexts=CONTEXTS, calling_ae_title="STRANGER") as association:
        await association.request_commitment(references)


@pytest.mark.parametrize("on_same", [True, False], ids=["on the same association", "on a new one"])
def test_pynetdicom_reports(on_same: bool) -> None:
    from pynetdicom import AE, build_role, evt

    answers: list[Any] = []
    threads: list[threading.Thread] = []
    ports: list[int] = []

    def report(association: Any, information: Dataset) -> None:
        data_set = Dataset()
        data_set.TransactionUID = information.TransactionUID
        data_set.ReferencedSOPSequence = information.ReferencedSOPSequence[:-1]
        failed = item_of(asyncstore.Reference(CT_IMAGE_STORAGE, "1.2.9"))
        failed.FailureReason = 0x0213
        data_set.FailedSOPSequence = [failed]
        status, _ = association.send_n_event_report(data_set, 2, STORAGE_COMMITMENT_PUSH_MODEL, PUSH_MODEL_INSTANCE)
        answers.append(status.Status)

    def report_on_new(information: Dataset) -> None:
        other = AE("ARCHIVE")
        other.add_requested_context(STORAGE_COMMITMENT_PUSH_MODEL)
        role = build_role(STORAGE_COMMITMENT_PUSH_MODEL, scp_role=True)
        association = other.associate(LOOPBACK, ports[0], ae_title="STORESCU", ext_neg=[role])
        assert association.is_established
        report(association, information)
        association.release()

    def handle(event: Any) -> tuple[int, None]:
        arguments = (event.assoc, event.action_information) if on_same else (event.action_information,)
        threads.append(threading.Thread(target=report if on_same else report_on_new, args=arguments))
        threads[-1].start()
        return 0x0000, None

    entity = AE("ARCHIVE")
    entity.add_supported_context(STORAGE_COMMITMENT_PUSH_MODEL)
    server = entity.start_server((LOOPBACK, 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, handle)])
    assert server is not None
    references = [asyncstore.Reference(CT_IMAGE_STORAGE, uid) for uid in ("1.2.1", "1.2.2", "1.2.9")]

    async def main() -> Any:
        reports = asyncstore.CommitmentReports()
        providers = {STORAGE_COMMITMENT_PUSH_MODEL: reports}
        peer = asyncstore.Peer(LOOPBACK, server.server_address[1], "ARCHIVE")
        with anyio.fail_after(SECONDS):
            async with (
                Acceptor(providers) as acceptor,
                asyncstore.associate(peer, contexts=CONTEXTS, providers=providers) as association,
            ):
                ports.append(acceptor.port)
                transaction = await association.request_commitment(references)
                given = await reports.wait(transaction, references)
                await anyio.to_thread.run_sync(threads[0].join)
                return given

    try:
        assert anyio.run(main) == ({"1.2.1", "1.2.2"}, {"1.2.9": 0x0213})
        assert answers == [0x0000]
    finally:
        server.shutdown()


@pytest.mark.parametrize("on_same", [True, False], ids=["on the same association", "on a new one"])
def test_dcmjs_dimse_reports(tmp_path: Path, on_same: bool) -> None:
    stored = asyncstore.instance_from(_sample())
    there = asyncstore.Reference(stored.sop_class_uid, stored.sop_instance_uid)
    missing = asyncstore.Reference(CT_IMAGE_STORAGE, "1.2.3.4.5.6.7.8.9")
    port = free_port()

    async def main(archive: asyncstore.Peer) -> None:
        reports = asyncstore.CommitmentReports()
        providers = {STORAGE_COMMITMENT_PUSH_MODEL: reports}
        assert (await asyncstore.store([_sample()], to=archive)).stored == 1
        with anyio.fail_after(SECONDS):
            async with (
                Acceptor(providers, port=port),
                asyncstore.associate(archive, contexts=CONTEXTS, providers=providers) as association,
            ):
                for references in ([there, missing], [asyncstore.Reference(MR_IMAGE_STORAGE, there.sop_instance_uid)]):
                    transaction = await association.request_commitment(references)
                    answers = await reports.wait(transaction, references)
                    if missing in references:
                        assert answers == ({there.sop_instance_uid}, {missing.sop_instance_uid: 0x0112})
                    else:
                        assert answers == (set(), {there.sop_instance_uid: 0x0119})

    with dcmjs_scp(tmp_path, report_port=0 if on_same else port) as peer:
        anyio.run(main, asyncstore.Peer(peer.host, peer.port, peer.ae_title))
