"""Every file that comes with pydicom, sent by the real command to other people's receivers: what arrives is the same.

The files are odd by design: truncated ones, some without File Meta Information, several with one SOP Instance UID.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import pytest
from pydicom.uid import UID

from asyncstore.services.storage_scp import StorageSCP
from asyncstore.status import SUCCESS
from tests.support import peers
from tests.support.kept import (
    BUNDLED,
    FOLDERS,
    Kept,
    assert_all_arrived,
    assert_every_file_has_its_outcome,
    assert_one_of_each_arrived,
    kept_by,
    storescu,
)

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.services.storage_scp import Arrival
    from asyncstore.status import Status
    from tests.support.kept import Run
    from tests.support.peers import InProcessSCP, RunningOrthanc, RunningPeer

# Neither the File Meta Information nor the data set says what they are.
NAMELESS: Final = {"meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm", "empty_charset_LEI.dcm"}
# Its data set ends in the middle of an element, after an odd number of bytes.
ODD: Final = "rtplan_truncated.dcm"
OVERWRITTEN_UID: Final = "1.2.826.0.1.3680043.8.498.13002811185086637637347356263722492924"
# How long a patient receiver holds back an answer, so that every window fills.
HOLD_SECONDS: Final = 0.2


def assert_only_what_is_no_instance_was_left_out(run: Run) -> None:
    assert run.names("source-problem") >= NAMELESS
    skipped = run.names("skipped")
    assert {path.name for path in BUNDLED if path.suffix != ".dcm" and path.parent in FOLDERS} <= skipped
    assert {name for name in skipped if name.endswith(".dcm")} == {"no_meta.dcm", "DICOMDIR-empty.dcm"}


def test_storescp_has_every_file_bit_by_bit_but_the_one_it_aborts_over(tmp_path: Path) -> None:
    with peers.dcmtk_storescp(tmp_path, "+uf") as peer:
        run = storescu(peer, "-r", *FOLDERS)
    assert run.code == 3
    assert_every_file_has_its_outcome(run, BUNDLED)
    assert_only_what_is_no_instance_was_left_out(run)
    assert run.names("unknown") == {ODD}
    assert run.names("source-problem") == NAMELESS
    (record,) = [record for record in run.records if record["state"] == "unknown"]
    assert (record["attempts"], record["retryable"]) == (3, True)
    assert assert_all_arrived(run.stored, kept_by(peer)) == len(run.stored) == run.summary["found"] - 1


def test_pynetdicom_is_sent_exactly_the_bytes_of_every_file(pynetdicom_server: InProcessSCP) -> None:
    run = storescu(pynetdicom_server, "-r", *FOLDERS)
    assert run.code == 3
    assert_every_file_has_its_outcome(run, BUNDLED)
    assert_only_what_is_no_instance_was_left_out(run)
    assert len(run.stored) == run.summary["found"] == len(pynetdicom_server.received)
    sent = collections.Counter(each.data_set for each in run.stored)
    assert collections.Counter(each.data_set for each in pynetdicom_server.received) == sent
    told = collections.Counter((record["sop_instance_uid"], record["transfer_syntax_uid"]) for record in run.records)
    for uid, count in collections.Counter(
        (each.sop_instance_uid, each.transfer_syntax_uid) for each in pynetdicom_server.received
    ).items():
        assert told[uid] == count


def test_pynetdicoms_storescp_keeps_all_that_it_can_decode(pynetdicom_storescp: RunningPeer) -> None:
    run = storescu(pynetdicom_storescp, "-r", *FOLDERS, "--retry-wait", "0.05")
    assert run.code == 3
    assert_every_file_has_its_outcome(run, BUNDLED)
    assert_only_what_is_no_instance_was_left_out(run)
    # It cannot find a SOP Class UID in these, nor write the first of them.
    assert run.names("failed") == {
        "SC_rgb_jpeg.dcm",
        "UN_sequence.dcm",
        "chrSQEncoding.dcm",
        "chrSQEncoding1.dcm",
        "no_meta_group_length.dcm",
        "priv_SQ.dcm",
    }
    assert run.names("unknown") == set()
    # Before it fails over the first it has overwritten another of that UID.
    sent = [each for each in run.stored if each.sop_instance_uid != OVERWRITTEN_UID]
    kept = [each for each in kept_by(pynetdicom_storescp) if OVERWRITTEN_UID not in each.name]
    # pydicom writes some files anew.
    assert assert_one_of_each_arrived(sent, kept) > 120


def test_orthanc_has_every_file_that_it_takes(orthanc: RunningOrthanc) -> None:
    run = storescu(orthanc, "-r", *FOLDERS, "-td", 4, "--retries", 0)  # as long as it may take for the others
    assert run.code == 3
    assert_every_file_has_its_outcome(run, BUNDLED)
    assert_only_what_is_no_instance_was_left_out(run)
    # Of these it says A700, as if it were out of resources: they name no patient or study.
    without_a_study = {name for name in run.names("failed") if "LS" in name or "_jls_" in name}
    assert len(without_a_study) == 4
    assert run.names("failed") - without_a_study == {
        "UN_sequence.dcm",
        "chrSQEncoding.dcm",
        "chrSQEncoding1.dcm",
        "no_meta_group_length.dcm",
        "priv_SQ.dcm",
        "rtdose_rle.dcm",
        "rtdose_rle_1frame.dcm",
    }
    # Where its parser fails it says nothing and keeps the connection open.
    assert run.names("unknown") == {"MR_truncated.dcm", ODD, "SC_rgb_jpeg.dcm"}
    uids = orthanc.sop_instance_uids()
    kept = [Kept(uid, orthanc.instance_file(uid)) for uid in uids]
    # It reads and writes what it keeps: undefined lengths become explicit ones, say.
    assert assert_one_of_each_arrived(run.stored, kept) > 100


@pytest.mark.parametrize(
    ("option", "transfer_syntax_uid"),
    [
        (None, None),
        ("-xe", "1.2.840.10008.1.2.1"),
        ("-xb", "1.2.840.10008.1.2.2"),
        ("-xi", "1.2.840.10008.1.2"),
    ],
)
def test_what_a_peer_without_compression_takes_arrives_element_for_element(
    tmp_path: Path, option: str | None, transfer_syntax_uid: str | None
) -> None:
    with peers.dcmtk_storescp(tmp_path, "+uf", accept_all=False) as peer:
        run = storescu(peer, "-r", *FOLDERS, "--decompress", "no", *([option] if option else []))
    assert run.code == 3
    assert_every_file_has_its_outcome(run, BUNDLED)
    assert_only_what_is_no_instance_was_left_out(run)
    # A truncated data set is sent as it is or not at all: conversion makes none whole.
    assert run.names("unknown", "source-problem") - NAMELESS <= {ODD, "MR_truncated.dcm"}
    _assert_compressed_ones_have_the_documented_line(run)
    assert len(run.stored) > 125
    exact = assert_all_arrived(run.stored, kept_by(peer))
    sent_as = {record["sent_transfer_syntax_uid"] for record in run.records if record["state"] == "stored"}
    if transfer_syntax_uid is not None:
        assert sent_as == {transfer_syntax_uid}
    else:
        own = [
            record["path"]
            for record in run.records
            if record["sent_transfer_syntax_uid"] == record["transfer_syntax_uid"] is not None
        ]
        assert exact == len(own) > 125


def _assert_compressed_ones_have_the_documented_line(run: Run) -> None:
    refused = [record for record in run.records if record["state"] == "no-context"]
    assert len(refused) == 40
    for record in refused:
        assert UID(record["transfer_syntax_uid"]).is_compressed
        sop_class, syntax = UID(record["sop_class_uid"]).name, UID(record["transfer_syntax_uid"]).name
        assert (
            f"E: No presentation context for '{sop_class}' has been accepted by the peer with '{syntax}' transfer "
            f"syntax for the SCU role\nE: Store failed: {record['path']}\n"
        ) in run.stderr
    assert all(
        UID(record["transfer_syntax_uid"]).is_compressed is False
        for record in run.records
        if record["state"] == "stored"
    )


class Patient:
    """Counts what is being answered at the same time, by SOP Instance UID."""

    def __init__(self) -> None:
        self.open: collections.Counter[str] = collections.Counter()
        self.most_of_one = 0
        self.most = 0
        self.is_busy = anyio.Event()

    async def answer(self, arrival: Arrival) -> Status:
        uid = arrival.request.affected_sop_instance_uid
        self.open[uid] += 1
        self.most_of_one = max(self.most_of_one, self.open[uid])
        self.most = max(self.most, self.open.total())
        if self.most > 8:
            self.is_busy.set()
        await self.is_busy.wait()
        await anyio.sleep(HOLD_SECONDS)
        self.open[uid] -= 1
        return SUCCESS


def test_no_two_files_with_one_uid_are_in_flight_together() -> None:
    patient = Patient()

    async def main() -> Run:
        async with StorageSCP(on_store=patient.answer, window=16) as scp:
            return await anyio.to_thread.run_sync(lambda: storescu(scp, "-r", *FOLDERS, "-j", 4, "-w", 16))

    run = anyio.run(main)
    assert_every_file_has_its_outcome(run, BUNDLED)
    assert len(run.stored) == run.summary["found"]
    uids = collections.Counter(record["sop_instance_uid"] for record in run.records if record["state"] == "stored")
    assert max(uids.values()) >= 9
    assert patient.most_of_one == 1
    assert patient.most > 8
