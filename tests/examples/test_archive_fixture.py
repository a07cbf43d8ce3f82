"""Tests of a program that sends, with a throw-away archive as a fixture; `forward` stands for that program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydicom.data import get_testdata_file

import asyncstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CT_FILE = str(get_testdata_file("CT_small.dcm"))


async def forward(path: str, peer: asyncstore.Peer, *, answer_seconds: float = 30.0) -> str:
    """Send one file, and say in a word how it went."""
    timeouts = asyncstore.Timeouts(dimse_seconds=answer_seconds)
    retry = asyncstore.RetryPolicy(retries=0, first_wait_seconds=0.0)
    options = asyncstore.TransferOptions(timeouts=timeouts, retry=retry)
    try:
        report = await asyncstore.store(path, to=peer, options=options)
    except asyncstore.AssociationRejected:
        return "rejected"
    return "stored" if report.stored else "failed"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[asyncstore.StorageSCP]:
    """An archive on a free port, which keeps what it gets in `tmp_path`."""
    async with asyncstore.StorageSCP(ae_title="ARCHIVE", output_directory=tmp_path) as scp:
        yield scp


def peer_of(archive: asyncstore.StorageSCP, ae_title: str = "ARCHIVE") -> asyncstore.Peer:
    return asyncstore.Peer("127.0.0.1", archive.port, ae_title=ae_title)


@pytest.mark.anyio
async def test_it_stores_a_file(archive: asyncstore.StorageSCP, tmp_path: Path) -> None:
    assert await forward(CT_FILE, peer_of(archive)) == "stored"
    assert (archive.stored, len(list(tmp_path.glob("*.dcm")))) == (1, 1)


@pytest.mark.anyio
async def test_it_reports_a_refusal(archive: asyncstore.StorageSCP) -> None:
    arrivals: list[asyncstore.Arrival] = []

    def refuse(arrival: asyncstore.Arrival) -> int:
        arrivals.append(arrival)
        return 0xA900

    archive.on_store = refuse
    assert await forward(CT_FILE, peer_of(archive)) == "failed"
    assert [arrival.request.affected_sop_class_uid for arrival in arrivals] == ["1.2.840.10008.5.1.4.1.1.2"]


@pytest.mark.anyio
async def test_it_gives_up_an_archive_that_never_answers(archive: asyncstore.StorageSCP) -> None:
    archive.on_store = lambda arrival: asyncstore.NO_ANSWER
    assert await forward(CT_FILE, peer_of(archive), answer_seconds=0.1) == "failed"


@pytest.mark.anyio
async def test_it_says_that_it_was_rejected(archive: asyncstore.StorageSCP) -> None:
    assert await forward(CT_FILE, peer_of(archive, "OTHER")) == "rejected"
