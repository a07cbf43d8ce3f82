"""The Storage SCP: what it keeps, what it refuses, and what no peer can make it do."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pydicom
import pytest

from asyncstore.dimse import command_set
from asyncstore.dimse.messages import CEchoRQ, CEchoRSP, CStoreRQ, CStoreRSP
from asyncstore.errors import LocalProtocolError
from asyncstore.instances.head import read_head
from asyncstore.instances.outcome import State
from asyncstore.instances.problem import ProblemKind, ScanProblem
from asyncstore.net import acceptor
from asyncstore.net.provider import NO_ANSWER
from asyncstore.services import part_file
from asyncstore.services.storage_scp import Arrival, StorageSCP
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    IMPLICIT_VR_LITTLE_ENDIAN,
    VERIFICATION,
)
from asyncstore.upper_layer.items import PresentationContext
from asyncstore.upper_layer.pdu import Abort, AssociateRJ, AssociateRQ, DataTF, Fragment, ReleaseRP, ReleaseRQ
from asyncstore.upper_layer.user_information import OperationsWindow, UserInformation
from tests.support import files
from tests.support.associations import (
    LIMIT_SECONDS,
    MR_IMAGE_STORAGE,
    TINY_SECONDS,
    image,
    image_in_memory,
    instance,
    pattern,
    tasks,
    to,
)
from tests.support.peers import free_port, require
from tests.support.wire import CT_CONTEXT, Wire, play_scu

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.every_loop

CT_SMALL = files.bundled("CT_small.dcm")
CT_SMALL_UID = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
EXPLICIT_CONTEXT = PresentationContext(1, CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,))
# What is kept of "1.2.3.4" between the prefix and the data set.
KEPT_META = files.file_meta(
    sop_instance_uid="1.2.3.4",
    more=files.element(0x00020012, b"UI", files.uid(IMPLEMENTATION_CLASS_UID))
    + files.element(0x00020013, b"SH", IMPLEMENTATION_VERSION_NAME.encode()),  # of even length
)
VERIFICATION_CONTEXT = PresentationContext(3, VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,))


async def play(script: Callable[[Wire], Any], scp: StorageSCP) -> Any:
    """Play a script as the requestor; gives what it returns."""
    with anyio.fail_after(LIMIT_SECONDS):
        return await anyio.to_thread.run_sync(play_scu, script, scp.port)


async def run(*words: str) -> None:
    """Run a program of somebody else, which must succeed."""
    done = await anyio.to_thread.run_sync(lambda: subprocess.run(words, capture_output=True, timeout=LIMIT_SECONDS))
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()


async def all_gone(scp: StorageSCP) -> None:
    """Wait until the acceptor has noticed the end of every connection."""
    with anyio.fail_after(LIMIT_SECONDS):
        while scp._open:
            await anyio.lowlevel.checkpoint()


def stores(data_set: bytes, uid: str = "1.2.3.4", **options: Any) -> Callable[[Wire], int]:
    def script(wire: Wire) -> int:
        wire.associate([EXPLICIT_CONTEXT])
        status = wire.store(data_set, sop_instance_uid=uid, **options).value
        wire.release()
        return status

    return script


def sends_a_part(wire: Wire) -> socket.socket:
    """Send a data set but for its end; gives the connection, which is still open."""
    wire.associate([EXPLICIT_CONTEXT])
    request = CStoreRQ(2, CT_IMAGE_STORAGE, "1.2.2").encode()
    wire.send(DataTF((Fragment(1, True, True, request),)))
    data_set = image("1.2.2", value_bytes=3_000_000)
    for at in range(0, 3_000_000, 1000):
        wire.send(DataTF((Fragment(1, False, False, data_set[at : at + 1000]),)))
    return wire.sock.dup()


async def a_part_in(directory: Path) -> Path:
    """Wait for the only file of a directory, and for its first bytes."""
    with anyio.fail_after(LIMIT_SECONDS):
        while not any(path.stat().st_size for path in directory.iterdir()):
            await anyio.lowlevel.checkpoint()
    (path,) = directory.iterdir()
    return path


def is_aborted(wire: Wire, source: int = 2) -> None:
    assert wire.expect(Abort).source == source
    wire.expect_closed()


# What is kept


@pytest.mark.parametrize("value_bytes", [0, 1, 1000, 1 << 20, 2_500_001])
async def test_what_is_kept_is_a_dicom_file_with_the_very_same_data_set(value_bytes: int, tmp_path: Path) -> None:
    data_set = image(value_bytes=value_bytes)
    async with StorageSCP(output_directory=tmp_path) as scp:
        assert await play(stores(data_set), scp) == 0
        assert (scp.stored, scp.failed, scp.associations) == (1, 0, 1)
    (path,) = tmp_path.iterdir()
    assert path.name == "1.2.3.4.dcm"
    assert path.read_bytes() == bytes(128) + b"DICM" + KEPT_META + data_set
    kept = pydicom.dcmread(path)
    assert (kept.PixelData or b"") == pattern(value_bytes)
    meta = kept.file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (CT_IMAGE_STORAGE, "1.2.3.4")
    assert (meta.TransferSyntaxUID, meta.ImplementationClassUID) == (
        EXPLICIT_VR_LITTLE_ENDIAN,
        IMPLEMENTATION_CLASS_UID,
    )
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.FileMetaInformationGroupLength == len(KEPT_META) - 12


async def test_another_data_set_takes_the_place_of_the_first_where_that_is_wanted(tmp_path: Path) -> None:
    async with StorageSCP(output_directory=str(tmp_path), on_existing="replace") as scp:
        for value_bytes in (10, 20):
            assert await play(stores(image(value_bytes=value_bytes)), scp) == 0
    (path,) = tmp_path.iterdir()
    assert pydicom.dcmread(path).PixelData == pattern(20)


async def test_an_instance_that_other_bytes_replace_is_told_and_counted_and_the_same_bytes_again_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with StorageSCP(output_directory=tmp_path, on_existing="replace") as scp:
        for value_bytes, replaced in ((10, 0), (10, 0), (20, 1), (20, 1), (10, 2), (2_500_000, 3), (2_500_000, 3)):
            assert await play(stores(image(value_bytes=value_bytes)), scp) == 0
            assert (scp.replaced, len(caplog.messages)) == (replaced, replaced)
        assert await play(stores(image(value_bytes=2_500_000)[:-1] + b"x"), scp) == 0
        assert (scp.replaced, scp.same_again, scp.stored) == (4, 3, 8)
    (path,) = tmp_path.iterdir()
    earlier_bytes = len(bytes(132) + KEPT_META + image(value_bytes=10))
    assert re.fullmatch(
        rf"'{path}': another data set of its UID, of {len(image(value_bytes=20))} bytes from 'SCRIPTED', replaces "
        rf"the file of {earlier_bytes} bytes that was written at [-0-9]{{10}} [:0-9]{{8}}",
        caplog.messages[0],
    )


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("data_set", [b"", None], ids=["empty", "none"])
async def test_an_empty_data_set_is_never_stored(data_set: bytes | None, is_kept: bool, tmp_path: Path) -> None:
    def stores_nothing(wire: Wire) -> list[Status]:
        wire.associate([EXPLICIT_CONTEXT])
        statuses = []
        for number in (1, 2):
            request = CStoreRQ(number, CT_IMAGE_STORAGE, "1.2.3.4")
            if data_set is None:
                wire.send(DataTF((Fragment(1, True, True, without_data_set(request)),)))
            else:
                wire.send_message(1, request, data_set)
            answer = wire.read_message().message
            assert isinstance(answer, CStoreRSP)
            assert answer.responded_to == number
            statuses.append(answer.status)
        wire.release()
        return statuses

    def fails(_: Arrival) -> None:
        pytest.fail("it is no instance")

    async with StorageSCP(output_directory=tmp_path if is_kept else None, on_store=fails) as scp:
        assert await play(stores_nothing, scp) == [Status(0xA900, "the data set is empty")] * 2
        assert (scp.stored, scp.failed) == (0, 2)
    assert list(tmp_path.iterdir()) == []


def without_data_set(request: CStoreRQ) -> bytes:
    elements = command_set.decode(request.encode()) | {command_set.DATA_SET_TYPE: 0x0101}
    return command_set.encode([(tag, value) for tag, value in elements.items() if tag != command_set.GROUP_LENGTH])


_OTHER_CLASS = image().replace(b"1.1.2\0", b"1.1.4\0")


@pytest.mark.parametrize(
    ("data_set", "answer"),
    [
        (image("1.2.9"), Status(0xA900, "the data set has another SOP Instance UID")),
        (image(""), Status(0xA900, "the data set has no SOP Instance UID")),
        (files.element(0x00080005, b"CS", b"ISO_IR 100") + files.element(0x00100020, b"LO", b"id"), "no SOP Instance"),
        (_OTHER_CLASS, Status(0xA900, "the data set has another SOP Class UID, or none")),
        (image()[:60], Status(0xC000, "the data set is not in its transfer syntax")),
        (bytes(10), Status(0xC000, "the data set is not in its transfer syntax")),
        (image("1.2.9", 2_500_000), Status(0xA900, "the data set has another SOP Instance UID")),
    ],
    ids=["another", "empty", "absent", "another class", "cut", "zeros", "long"],
)
async def test_a_data_set_that_is_not_the_requests_is_not_kept(
    data_set: bytes, answer: Status | str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stores_both(wire: Wire) -> list[Status]:
        wire.associate([EXPLICIT_CONTEXT])
        return [wire.store(data_set, sop_instance_uid="1.2.3.4"), wire.store(image(), sop_instance_uid="1.2.3.4")]

    async with StorageSCP(output_directory=tmp_path) as scp:
        refused, kept = await play(stores_both, scp)
        assert (scp.stored, scp.failed) == (1, 1)
    assert answer == refused if isinstance(answer, Status) else answer in refused.comment
    assert kept == SUCCESS
    assert [path.name for path in tmp_path.iterdir()] == ["1.2.3.4.dcm"]
    assert caplog.messages == [f"cannot keep the instance '1.2.3.4': {refused.comment}"]


async def test_a_data_set_that_is_discarded_is_not_looked_at() -> None:
    async with StorageSCP() as scp:
        assert await play(stores(b"anything"), scp) == 0


async def test_a_kept_file_can_be_read_by_whom_the_user_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        async with StorageSCP(output_directory=tmp_path) as scp:
            await play(stores(image()), scp)
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "uid",
    [
        *("../../../tmp/evil", "..", ".", "/etc/evil", "1.2/3", "1.2\\3", "1.2.3\n", "1..2", "1.2.", ".1"),
        *("1.2.3.dcm", "con", "-1.2", "1.2.3 4", "~", "$HOME", "1.2:3", "1." * 32 + "1", "1" * 300),
    ],
)
async def test_a_name_is_never_made_of_what_is_no_uid(uid: str, tmp_path: Path) -> None:
    kept = tmp_path / "deep" / "inside"
    kept.mkdir(parents=True)

    def stores_two(wire: Wire) -> list[int]:
        wire.associate([EXPLICIT_CONTEXT])
        statuses = [wire.store(image(), sop_instance_uid=name).value for name in (uid, "1.2.3.4")]
        wire.release()
        return statuses

    async with StorageSCP(output_directory=kept) as scp:
        statuses = await play(stores_two, scp)
        assert (scp.stored, scp.failed) == (1, 1)
    assert statuses == [0x0117, 0]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept / "1.2.3.4.dcm"]


async def test_the_longest_uid_is_a_name(tmp_path: Path) -> None:
    uid = "1." * 31 + "12"
    async with StorageSCP(output_directory=tmp_path) as scp:
        assert await play(stores(image(uid), uid=uid), scp) == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{uid}.dcm"]


async def test_a_name_that_is_no_uid_may_be_discarded() -> None:
    async with StorageSCP() as scp:
        assert await play(stores(image(), uid="../evil"), scp) == 0


@pytest.mark.parametrize("sent_bytes", [1000, 3_000_000])
@pytest.mark.parametrize(
    "end", [Wire.close, Wire.rst, lambda wire: wire.send(Abort(0, 0))], ids=["EOF", "RST", "abort"]
)
async def test_an_instance_that_was_not_whole_leaves_nothing(
    end: Callable[[Wire], None], sent_bytes: int, tmp_path: Path
) -> None:
    def stops_in_the_middle(wire: Wire) -> None:
        wire.associate([EXPLICIT_CONTEXT])
        wire.store(image("1.2.1"), sop_instance_uid="1.2.1")
        request = CStoreRQ(2, CT_IMAGE_STORAGE, "1.2.2").encode()
        wire.send(DataTF((Fragment(1, True, True, request),)))
        for _ in range(0, sent_bytes, 1000):
            wire.send(DataTF((Fragment(1, False, False, bytes(1000)),)))
        end(wire)

    async with StorageSCP(output_directory=tmp_path) as scp:
        await play(stops_in_the_middle, scp)
        await all_gone(scp)
        assert [path.name for path in tmp_path.iterdir()] == ["1.2.1.dcm"]
        assert scp.stored == 1


async def test_an_acceptor_that_is_stopped_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    async with StorageSCP(output_directory=tmp_path) as scp:
        sock = await play(sends_a_part, scp)
        await a_part_in(tmp_path)
    sock.close()
    assert not list(tmp_path.iterdir())


async def test_a_part_of_a_file_is_no_dicom_file(tmp_path: Path) -> None:
    async with StorageSCP(output_directory=tmp_path) as scp:
        sock = await play(sends_a_part, scp)
        part = await a_part_in(tmp_path)
        found = read_head(str(part))
        assert isinstance(found, ScanProblem)
        assert found.reason is ProblemKind.NOT_DICOM
    sock.close()


async def test_fragments_without_data_take_no_memory(tmp_path: Path) -> None:
    part = part_file.PartFile(tmp_path, CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.3.4"), EXPLICIT_VR_LITTLE_ENDIAN)
    for _ in range(3):
        assert part.write(b"") is None
    assert not part._pending
    assert part.write(image()) is None
    assert part.finish() is None
    assert part.path is not None
    assert part.path.read_bytes() == bytes(128) + b"DICM" + KEPT_META + image()


class FullDisk:
    """The module os of a machine whose disk takes so many writes more."""

    def __init__(self, writes: int) -> None:
        self.writes = writes

    def write(self, fd: int, data: memoryview) -> int:
        self.writes -= 1
        if self.writes < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data[: len(data) // 2 + 1])

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@pytest.mark.parametrize(("writes", "value_bytes"), [(0, 1000), (1, 1000), (0, 2_500_000), (30, 2_500_000)])
async def test_a_full_disk_is_answered_and_leaves_nothing(
    writes: int, value_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = FullDisk(writes)
    monkeypatch.setattr(part_file, "os", full)

    def stores_two(wire: Wire) -> list[int]:
        wire.associate([EXPLICIT_CONTEXT])
        statuses = [wire.store(image("1.2.1", value_bytes), sop_instance_uid="1.2.1").value]
        full.writes = 1 << 30
        statuses.append(wire.store(image("1.2.2"), sop_instance_uid="1.2.2").value)
        wire.release()
        return statuses

    async with StorageSCP(output_directory=tmp_path) as scp:
        assert await play(stores_two, scp) == [0xA700, 0]
        assert (scp.stored, scp.failed) == (1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["1.2.2.dcm"]


async def test_a_directory_that_has_gone_is_answered(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    async with StorageSCP(output_directory=gone) as scp:
        shutil.rmtree(gone)
        assert await play(stores(image()), scp) == 0xA700


async def test_a_name_that_is_taken_by_a_directory_is_answered(tmp_path: Path) -> None:
    (tmp_path / "1.2.3.4.dcm").mkdir()
    async with StorageSCP(output_directory=tmp_path) as scp:
        assert await play(stores(image()), scp) == 0xA700
    assert [path.name for path in tmp_path.iterdir()] == ["1.2.3.4.dcm"]


# Who is accepted, and for what


@pytest.mark.parametrize(
    ("settings", "called", "calling", "rejection"),
    [
        ({"called_ae_titles": ["ARCHIVE"]}, "ARCHIVE", "A", None),
        ({"called_ae_titles": ["ARCHIVE"]}, "OTHER", "A", AssociateRJ(1, 1, 7)),
        ({"calling_ae_titles": ["A", "B"]}, "ANY", "B", None),
        ({"calling_ae_titles": ["A", "B"]}, "ANY", "C", AssociateRJ(1, 1, 3)),
        ({"called_ae_titles": []}, "ANY", "A", AssociateRJ(1, 1, 7)),
        ({"ae_title": "ARCHIVE"}, "ARCHIVE", "A", None),
        ({"ae_title": "ARCHIVE"}, "OTHER", "A", AssociateRJ(1, 1, 7)),
        ({"ae_title": "ARCHIVE", "called_ae_titles": ["OTHER"]}, "OTHER", "A", None),
        ({"ae_title": "ARCHIVE", "called_ae_titles": ["OTHER"]}, "ARCHIVE", "A", AssociateRJ(1, 1, 7)),
        ({"ae_title": "ANY-SCP"}, "OTHER", "A", None),
        ({"called_ae_titles": "ARCHIVES"}, "ARCHIVE", "A", AssociateRJ(1, 1, 7)),
        ({"called_ae_titles": "ARCHIVE"}, "ARCHIVE", "A", None),
        ({"calling_ae_titles": "MYSTORESCU1"}, "ANY", "STORESCU", AssociateRJ(1, 1, 3)),
        ({"calling_ae_titles": "STORESCU"}, "ANY", "STORESCU", None),
        ({"calling_ae_titles": " STORESCU "}, "ANY", "STORESCU", None),
        ({}, "ANY", "ANYBODY", None),
    ],
)
async def test_only_those_who_are_known_are_accepted(
    settings: dict[str, Any], called: str, calling: str, rejection: AssociateRJ | None
) -> None:
    def asks(wire: Wire) -> None:
        if rejection is None:
            wire.associate(called_ae_title=called, calling_ae_title=calling)
            wire.release()
            return
        wire.send(AssociateRQ(called, calling, (CT_CONTEXT,), UserInformation()))
        assert wire.expect(AssociateRJ) == rejection

    async with StorageSCP(**settings) as scp:
        await play(asks, scp)
        assert scp.associations == (rejection is None)


async def test_more_associations_than_the_limit_are_rejected_for_now() -> None:
    def opens_two(wire: Wire) -> AssociateRJ:
        def is_rejected(other: Wire) -> AssociateRJ:
            other.send(AssociateRQ("A", "B", (CT_CONTEXT,), UserInformation()))
            return other.expect(AssociateRJ)

        wire.associate()
        rejection = play_scu(is_rejected, scp.port)
        wire.release()
        return rejection

    async with StorageSCP(maximum_associations=1) as scp:
        for _ in range(2):
            assert await play(opens_two, scp) == AssociateRJ(2, 3, 2)
            await all_gone(scp)


async def test_contexts_are_answered_one_by_one_with_the_syntax_preferred_here() -> None:
    contexts = [
        PresentationContext(1, CT_IMAGE_STORAGE, (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN)),
        PresentationContext(3, CT_IMAGE_STORAGE, ("1.2.840.10008.1.2.4.50",)),
        PresentationContext(5, MR_IMAGE_STORAGE, (IMPLICIT_VR_LITTLE_ENDIAN,)),
        PresentationContext(7, VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)),
    ]
    syntaxes = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]

    def asks(wire: Wire) -> list[tuple[int, int, str]]:
        answer = wire.associate(contexts)
        wire.release()
        return [(each.context_id, each.result, each.transfer_syntax) for each in answer.results]

    async with StorageSCP(sop_classes=[CT_IMAGE_STORAGE], transfer_syntaxes=syntaxes) as scp:
        results = await play(asks, scp)
    assert [result[:2] for result in results] == [(1, 0), (3, 4), (5, 3), (7, 0)]
    assert (results[0][2], results[3][2]) == (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)


async def test_one_uid_may_stand_for_itself() -> None:
    contexts = [
        PresentationContext(1, CT_IMAGE_STORAGE, (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN)),
        PresentationContext(3, MR_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,)),
    ]

    def asks(wire: Wire) -> list[tuple[int, str]]:
        answer = wire.associate(contexts)
        wire.release()
        return [(each.result, each.transfer_syntax) for each in answer.results]

    async with StorageSCP(sop_classes=CT_IMAGE_STORAGE, transfer_syntaxes=EXPLICIT_VR_LITTLE_ENDIAN) as scp:
        assert await play(asks, scp) == [(0, EXPLICIT_VR_LITTLE_ENDIAN), (3, "")]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("port", (-1, 65536, None)),
        ("maximum_length", (-1, 1, 7, 1 << 32)),
        ("window", (-1, 0, 65536)),
        ("maximum_associations", (-1,)),
        ("acse_seconds", (-1.0, 0.0, math.nan)),
        ("idle_seconds", (-1.0, math.nan)),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_at_once(name: str, values: tuple[float | None, ...]) -> None:
    for value in values:
        with pytest.raises(LocalProtocolError, match=f"{name} is {value}: it is "):
            StorageSCP(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["on_store", "authenticate"])
def test_what_is_to_be_called_is_a_function(name: str) -> None:
    with pytest.raises(LocalProtocolError, match=f"{name} is 5: it is a function"):
        StorageSCP(**{name: 5})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("called_ae_titles", "5 is neither text nor a collection of texts"),
        ("calling_ae_titles", "5 is neither"),
        ("sop_classes", "5 is neither"),
        ("transfer_syntaxes", "5 is neither"),
        ("output_directory", "output_directory is 5: it is the path of a directory"),
    ],
)
def test_a_value_of_another_type_is_refused_at_once(name: str, text: str) -> None:
    with pytest.raises(LocalProtocolError, match=text):
        StorageSCP(**{name: 5})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ae_title", "called_ae_titles", "calling_ae_titles"])
def test_a_title_that_nobody_can_have_is_refused_at_once(name: str) -> None:
    for title in ("", "MORE-THAN-16-CHARS", "A\\B"):
        with pytest.raises(LocalProtocolError, match="AE title"):
            StorageSCP(**{name: title})  # type: ignore[arg-type]


async def test_a_directory_that_is_none_is_refused_before_anybody_can_connect(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (tmp_path / "missing", file):
        scp = StorageSCP(output_directory=path)
        with pytest.raises(NotADirectoryError, match=f"{path.name}.*create it first"):
            await scp.__aenter__()
        assert scp.port == 0


@pytest.mark.parametrize(
    ("proposed", "granted"),
    [
        (None, None),
        (OperationsWindow(4, 1), OperationsWindow(4, 1)),
        (OperationsWindow(40, 1), OperationsWindow(16, 1)),
        (OperationsWindow(0, 0), OperationsWindow(16, 1)),
        (OperationsWindow(1, 1), None),
    ],
)
async def test_the_window_is_what_is_asked_for_up_to_our_own(
    proposed: OperationsWindow | None, granted: OperationsWindow | None
) -> None:
    def asks(wire: Wire) -> OperationsWindow | None:
        answer = wire.associate(operations_window=proposed)
        wire.release()
        return answer.user_information.operations_window

    async with StorageSCP() as scp:
        assert await play(asks, scp) == granted


async def test_it_listens_on_ipv6_too() -> None:
    async with StorageSCP(host="::1") as scp, to(scp) as association:
        assert (await association.store(instance())).is_stored


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with StorageSCP() as first:
        with pytest.raises(OSError, match="in use"):
            async with StorageSCP(port=first.port):
                pytest.fail("it listens")
    async with StorageSCP(port=free_port()) as scp:
        assert scp.port


# What is answered


@pytest.mark.parametrize("value", [0x0000, 0xB007, 0x0111, 0xA700, 0xC000, 0xFF00])
async def test_on_store_decides_what_is_answered(value: int, tmp_path: Path) -> None:
    arrivals: list[Arrival] = []

    def on_store(arrival: Arrival) -> Status:
        arrivals.append(arrival)
        assert arrival.path is not None
        assert arrival.path.is_file()
        return Status(value, "as it says")

    async with StorageSCP(output_directory=tmp_path, on_store=on_store) as scp:
        assert await play(stores(image()), scp) == value
        assert (scp.stored, scp.failed) == ((1, 0) if value in {0, 0xB007} else (0, 1))
    request = CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.3.4")
    path = tmp_path / "1.2.3.4.dcm"
    assert arrivals == [Arrival("SCRIPTED", request, EXPLICIT_VR_LITTLE_ENDIAN, len(image()), path)]


async def test_answers_can_be_late_and_come_in_any_order() -> None:
    came = anyio.Event()
    may_be_answered = {f"1.2.{number}": anyio.Event() for number in range(3)}
    order: list[str] = []

    async def answer(arrival: Arrival) -> Status:
        uid = arrival.request.affected_sop_instance_uid
        if uid == "1.2.2":
            came.set()
        await may_be_answered[uid].wait()
        return Status(0xB000 + int(uid[-1]))

    def on_answer(uid: str, status: Status) -> None:
        assert status.value == 0xB000 + int(uid[-1])
        order.append(uid)

    async with StorageSCP(on_store=answer) as scp, to(scp, window=3) as association:
        with anyio.fail_after(LIMIT_SECONDS):
            async with anyio.create_task_group() as group:

                async def store(uid: str) -> None:
                    outcome = await association.store(instance(uid=uid))
                    assert outcome.status is not None
                    on_answer(uid, outcome.status)

                for number in range(3):
                    group.start_soon(store, f"1.2.{number}")
                await came.wait()
                for uid in ("1.2.1", "1.2.2", "1.2.0"):
                    may_be_answered[uid].set()
                    while uid not in order:
                        await anyio.lowlevel.checkpoint()
    assert order == ["1.2.1", "1.2.2", "1.2.0"]


@pytest.mark.parametrize("later", [False, True])
async def test_a_hook_that_returns_nothing_answers_success(later: bool) -> None:
    came: list[Arrival] = []

    async def keep(arrival: Arrival) -> None:
        came.append(arrival)

    async with StorageSCP(on_store=keep if later else came.append) as scp:
        assert await play(stores(image()), scp) == 0
        assert (scp.stored, scp.failed, len(came)) == (1, 0, 1)


@pytest.mark.parametrize("later", [False, True])
async def test_an_instance_can_be_left_without_an_answer(later: bool) -> None:
    def is_not_answered(wire: Wire) -> None:
        wire.associate([EXPLICIT_CONTEXT, VERIFICATION_CONTEXT])
        wire.send_message(1, CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.3"), image())
        wire.send_message(3, CEchoRQ(2))
        assert isinstance(wire.read_message().message, CEchoRSP)
        wire.release()

    async with StorageSCP(on_store=gives(NO_ANSWER, later=later)) as scp:
        await play(is_not_answered, scp)
        assert (scp.stored, scp.failed) == (0, 0)


async def fails_later(_: Arrival) -> Status:
    raise ZeroDivisionError


def fails_at_once(_: Arrival) -> Status:
    raise ZeroDivisionError


def stores_and_is_told(wire: Wire) -> Status:
    wire.associate([EXPLICIT_CONTEXT])
    return wire.store(image())


@pytest.mark.parametrize("hook", [fails_at_once, fails_later])
async def test_a_hook_that_fails_is_answered_and_logged_and_ends_nothing(
    hook: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with StorageSCP(on_store=hook) as scp:
        for _ in range(2):
            assert await play(stores_and_is_told, scp) == Status(0xC000, "on_store raised ZeroDivisionError")
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError] * 2


def gives(answer: Any, *, later: bool) -> Any:
    """A hook that gives this answer, at once or awaited."""

    async def hook(_: Arrival) -> Any:
        return answer

    return hook if later else lambda _: answer


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("value", [0x0000, 0xB007, 0xA900])
async def test_a_hook_may_give_the_value_of_a_status(value: int, later: bool) -> None:
    async with StorageSCP(on_store=gives(value, later=later)) as scp:
        assert await play(stores(image()), scp) == value
        assert (scp.stored, scp.failed) == ((0, 1) if value == 0xA900 else (1, 0))


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (True, "bool"),
        ("0000", "str"),
        (70000, "70000"),
        (-1, "-1"),
        (Status(70000), "70000"),
        (Status(0xC000, 5), "Error Comment"),  # type: ignore[arg-type]
        (Status("0"), "Status"),  # type: ignore[arg-type]
        (Status(0xC000, "", ("x",)), "str"),  # type: ignore[arg-type]
    ],
    ids=repr,
)
async def test_what_is_no_answer_is_logged_and_the_instance_has_failed(
    answer: Any, named: str, later: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with StorageSCP(on_store=gives(answer, later=later)) as scp:
        for _ in range(2):
            assert await play(stores(image()), scp) == 0xC000
        assert (scp.stored, scp.failed) == (0, 2)
    assert caplog.text.count("on_store failed for") == 2
    assert named in caplog.text


async def test_a_uid_cannot_forge_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with StorageSCP(on_store=fails_at_once) as scp:
        assert await play(stores(image(), uid="1.2\nE: forged"), scp) == 0xC000
    (message,) = caplog.messages
    assert message == r"on_store failed for '1.2\nE: forged'"


async def test_a_late_answer_to_a_peer_that_has_gone_is_dropped() -> None:
    has_come, goes_on = anyio.Event(), anyio.Event()

    async def late(_: Arrival) -> Status:
        has_come.set()
        await goes_on.wait()
        return SUCCESS

    def goes(wire: Wire) -> None:
        wire.associate([EXPLICIT_CONTEXT])
        wire.send_message(1, CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.3"), image())
        wire.rst()

    async with StorageSCP(on_store=late) as scp:
        before = tasks()
        await play(goes, scp)
        await all_gone(scp)
        goes_on.set()
        with anyio.fail_after(LIMIT_SECONDS):
            while tasks() > before:
                await anyio.lowlevel.checkpoint()
        assert await play(stores(image()), scp) == 0


async def test_an_echo_is_answered() -> None:
    def echoes(wire: Wire) -> CEchoRSP:
        wire.associate([VERIFICATION_CONTEXT])
        wire.send_message(3, CEchoRQ(7))
        message = wire.read_message().message
        wire.release()
        assert isinstance(message, CEchoRSP)
        return message

    async with StorageSCP() as scp:
        answer = await play(echoes, scp)
        assert (answer.responded_to, answer.status) == (7, SUCCESS)


async def test_an_instance_of_another_class_than_its_context_is_refused(tmp_path: Path) -> None:
    async with StorageSCP(output_directory=tmp_path) as scp:
        assert await play(stores(image(), sop_class_uid=MR_IMAGE_STORAGE), scp) == 0x0122
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("maximum_length", [8, 50, 0])
async def test_answers_keep_to_the_maximum_of_the_peer(maximum_length: int) -> None:
    def has_a_maximum(wire: Wire) -> list[int]:
        wire.associate([EXPLICIT_CONTEXT], maximum_length=maximum_length)
        assert wire.store(image()).value == 0
        sizes = [len(unit.encode()) - 6 for unit in wire.received if isinstance(unit, DataTF)]
        wire.release()
        return sizes

    async with StorageSCP() as scp:
        sizes = await play(has_a_maximum, scp)
    assert max(sizes) <= (maximum_length or max(sizes))


@pytest.mark.parametrize("maximum_length", [0, 4096, 1 << 20])
async def test_what_the_acceptor_announces_is_what_it_takes(maximum_length: int, tmp_path: Path) -> None:
    async with StorageSCP(maximum_length=maximum_length, output_directory=tmp_path) as scp, to(scp) as association:
        assert (await association.store(image_in_memory(3_000_002))).is_stored
    assert (tmp_path / "1.2.3.4.dcm").read_bytes().endswith(image(value_bytes=3_000_002))


async def test_a_command_set_in_several_fragments_is_one(tmp_path: Path) -> None:
    async with StorageSCP(maximum_length=16, output_directory=tmp_path) as scp, to(scp) as association:
        assert (await association.store(image_in_memory(100))).is_stored
    assert (tmp_path / "1.2.3.4.dcm").read_bytes().endswith(image(value_bytes=100))


# What peers do wrong, and that it ends nobody else's association


def _wrong_context(wire: Wire) -> None:
    wire.associate([EXPLICIT_CONTEXT])
    wire.send_message(9, CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.3"), bytes(10))


def _refused_context(wire: Wire) -> None:
    wire.associate([EXPLICIT_CONTEXT, PresentationContext(3, "1.2.3.4", (IMPLICIT_VR_LITTLE_ENDIAN,))])
    wire.send_message(3, CEchoRQ(1))


def _says(message: Any, data_set: bytes | None = None) -> Callable[[Wire], None]:
    def script(wire: Wire) -> None:
        wire.associate([EXPLICIT_CONTEXT])
        wire.send_message(1, message, data_set)

    return script


def _sends(*what: Any, associated: bool = True) -> Callable[[Wire], None]:
    def script(wire: Wire) -> None:
        if associated:
            wire.associate([EXPLICIT_CONTEXT])
        wire.send(*what)

    return script


NO_MESSAGE_ID = command_set.encode([(command_set.COMMAND_FIELD, 0x0130), (command_set.DATA_SET_TYPE, 0x0101)])
WRONG: dict[str, tuple[Callable[[Wire], None], int]] = {
    "context": (_wrong_context, 2),
    "refused context": (_refused_context, 2),
    "request without a Message ID": (_says(NO_MESSAGE_ID), 2),
    "C-STORE-RSP": (_says(CStoreRSP(1, SUCCESS)), 2),
    "no command set": (_says(b"\0" * 10), 2),
    "data set without a command": (_sends(DataTF((Fragment(1, False, True, b"ab"),))), 2),
    "4 GiB": (_sends(b"\x04\0\xff\xff\xff\xff"), 2),
    "second request": (_sends(AssociateRQ("A", "B", (CT_CONTEXT,), UserInformation())), 2),
    "a command in pieces without data": (_sends(*(1001 * [DataTF((Fragment(1, True, False, b""),))])), 2),
    "a data set in pieces without data": (
        _sends(
            DataTF((Fragment(1, True, True, CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.3").encode()),)),
            *(1001 * [DataTF((Fragment(1, False, False, b""),))]),
        ),
        2,
    ),
    "HTTP first": (_sends(b"GET / HTTP/1.1\r\n\r\n", associated=False), 0),
    "TLS first": (_sends(b"\x16\x03\x01\x02\x00\x01\x00", associated=False), 0),
    "data first": (_sends(DataTF((Fragment(1, False, True, b"ab"),)), associated=False), 0),
    "maximum of 7": (_sends(AssociateRQ("A", "B", (CT_CONTEXT,), UserInformation(7)), associated=False), 2),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_a_peer_does_wrong_is_aborted_and_ends_no_other_association(wrong: str) -> None:
    script, source = WRONG[wrong]

    def does_wrong(wire: Wire) -> None:
        script(wire)
        is_aborted(wire, source)

    async with StorageSCP(acse_seconds=TINY_SECONDS) as scp, to(scp) as association:
        assert (await association.store(instance())).is_stored
        await play(does_wrong, scp)
        assert (await association.store(instance())).is_stored


async def test_a_thousand_pieces_without_data_are_no_harm(tmp_path: Path) -> None:
    def stores_in_pieces(wire: Wire) -> int:
        wire.associate([EXPLICIT_CONTEXT])
        request = CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.3.4").encode()
        for is_command, data in ((True, request), (False, image())):
            wire.send(*(1000 * [DataTF((Fragment(1, is_command, False, b""),))]))
            wire.send(DataTF((Fragment(1, is_command, True, data),)))
        answer = wire.read_message().message
        assert isinstance(answer, CStoreRSP)
        return answer.status.value

    async with StorageSCP(output_directory=tmp_path) as scp:
        assert await play(stores_in_pieces, scp) == 0


async def test_what_was_right_before_the_wrong_bytes_is_answered(tmp_path: Path) -> None:
    def stores_and_talks_nonsense(wire: Wire) -> None:
        wire.associate([EXPLICIT_CONTEXT])
        request = CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.3.4").encode()
        fragments = Fragment(1, True, True, request), Fragment(1, False, True, image())
        wire.send(DataTF(fragments), b"HTTP")
        wire.send(b"/1.1\r\n")
        answer = wire.read_message().message
        assert isinstance(answer, CStoreRSP)
        assert answer.status == SUCCESS
        is_aborted(wire)

    async with StorageSCP(output_directory=tmp_path, acse_seconds=TINY_SECONDS) as scp:
        await play(stores_and_talks_nonsense, scp)
    assert [path.name for path in tmp_path.iterdir()] == ["1.2.3.4.dcm"]


@pytest.mark.timed
@pytest.mark.parametrize("begin", [b"", b"\x01\0\0"], ids=["nothing", "a part of a request"])
async def test_who_connects_and_asks_for_nothing_is_closed_in_time(begin: bytes) -> None:
    def asks_for_nothing(wire: Wire) -> float:
        wire.send(begin)
        wire.expect_closed()
        return time.monotonic()

    async with StorageSCP(acse_seconds=TINY_SECONDS) as scp:
        began = time.monotonic()
        assert await play(asks_for_nothing, scp) - began > 0.8 * TINY_SECONDS
        await all_gone(scp)


async def test_who_does_not_close_after_the_release_is_closed_in_time() -> None:
    def does_not_close(wire: Wire) -> None:
        wire.associate()
        wire.send(ReleaseRQ())
        wire.expect(ReleaseRP)
        wire.expect_closed()

    async with StorageSCP(acse_seconds=TINY_SECONDS) as scp:
        await play(does_not_close, scp)


async def test_an_abort_of_the_peer_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def aborts(wire: Wire) -> None:
        wire.associate([EXPLICIT_CONTEXT])
        wire.send(Abort(0, 0))
        wire.expect_closed()

    caplog.set_level("INFO", "asyncstore.net.acceptor")
    async with StorageSCP() as scp:
        await play(aborts, scp)
        await all_gone(scp)
    assert caplog.messages == ["association ended: association aborted by the peer: DUL service-user: No reason given"]


async def test_who_closes_or_aborts_is_forgotten() -> None:
    def aborts(wire: Wire) -> None:
        wire.associate()
        wire.send(Abort(0, 0))
        wire.expect_closed()

    def closes(wire: Wire) -> None:
        wire.associate()

    async with StorageSCP() as scp:
        for script in (aborts, closes, Wire.close, Wire.rst):
            await play(script, scp)
        await all_gone(scp)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_a_peer_that_does_not_read_its_answers_does_not_keep_the_acceptor_from_ending() -> None:
    def floods(wire: Wire) -> socket.socket:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.associate([VERIFICATION_CONTEXT])
        wire.sock.settimeout(TINY_SECONDS)
        echo = DataTF((Fragment(3, True, True, CEchoRQ(1).encode()),)).encode() * 1000
        with contextlib.suppress(TimeoutError):
            while True:
                wire.send(echo)
        return wire.sock.dup()

    with anyio.fail_after(LIMIT_SECONDS):
        async with StorageSCP() as scp:
            sock = await play(floods, scp)
        sock.close()


async def test_an_error_in_accepting_is_logged_and_the_next_connection_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Listener(socket.socket):
        fails = True

        def accept(self) -> tuple[socket.socket, Any]:
            if self.fails:
                self.fails = False
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().accept()

    create = socket.create_server

    def create_server(*arguments: Any, **options: Any) -> Listener:
        made = create(*arguments, **options)
        return Listener(fileno=made.detach())

    monkeypatch.setattr(acceptor.socket, "create_server", create_server)  # type: ignore[attr-defined]
    async with StorageSCP() as scp:
        assert await play(stores(image()), scp) == 0
    assert "cannot accept a connection" in caplog.text


# Its users


async def test_storescu_dcmsend_and_echoscu_of_dcmtk_use_it(tmp_path: Path) -> None:
    async with StorageSCP(output_directory=tmp_path) as scp:
        port = str(scp.port)
        await run(require("echoscu", "dcmtk"), scp.host, port)
        for program in ("storescu", "dcmsend"):
            await run(require(program, "dcmtk"), scp.host, port, str(CT_SMALL))
            (path,) = tmp_path.iterdir()
            assert path.name == f"{CT_SMALL_UID}.dcm"
            assert pydicom.dcmread(path).PixelData == pydicom.dcmread(CT_SMALL).PixelData
            path.unlink()
        assert (scp.stored, scp.associations) == (2, 3)


async def test_pynetdicom_uses_it(tmp_path: Path) -> None:
    def sends() -> list[int]:
        from pynetdicom import AE

        entity = AE("PYNETDICOM")
        entity.add_requested_context(VERIFICATION)
        entity.add_requested_context(CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN)
        association = entity.associate(scp.host, scp.port)
        assert association.is_established
        statuses = [association.send_c_echo().Status, association.send_c_store(CT_SMALL).Status]
        association.release()
        return statuses

    async with StorageSCP(output_directory=tmp_path) as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            assert await anyio.to_thread.run_sync(sends) == [0, 0]
    (path,) = tmp_path.iterdir()
    assert pydicom.dcmread(path).PixelData == pydicom.dcmread(CT_SMALL).PixelData


async def test_several_associations_store_the_same_and_other_instances_at_once(tmp_path: Path) -> None:
    async def send(number: int) -> None:
        async with to(scp, window=4) as association, anyio.create_task_group() as group:
            for uid in ("1.2.3", f"1.2.3.{number}"):
                group.start_soon(store, association, uid)

    async def store(association: Any, uid: str) -> None:
        outcome = await association.store(image_in_memory(1_500_000, uid))
        assert outcome.state is State.STORED

    async with StorageSCP(output_directory=tmp_path) as scp:
        with anyio.fail_after(LIMIT_SECONDS):
            async with anyio.create_task_group() as group:
                for number in range(4):
                    group.start_soon(send, number)
        assert (scp.stored, scp.replaced) == (8, 0)
    assert len(list(tmp_path.iterdir())) == 5
    for path in tmp_path.iterdir():
        assert path.read_bytes().endswith(image(path.stem, 1_500_000))
