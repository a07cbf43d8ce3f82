"""What the README says that asyncstore never does: each sentence has a test here."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pydicom
import pytest

import asyncstore
from asyncstore.uids import CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN
from tests.support import files
from tests.support.command import PROJECT, run
from tests.support.transfers import on_one_loop, uid_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from asyncstore.services.storage_scp import Arrival

SECRET = b"SECRET^VALUE"
# Whatever is written or changed, and whomever the process calls, is a line of JSON in the file that is named there.
AUDIT = """
import json, os, sys

_file = os.open(os.environ["AUDIT_FILE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_CHANGES = {f"os.{name}" for name in (
    "remove", "rename", "rmdir", "truncate", "chmod", "chown", "utime", "link", "symlink", "mkdir", "setxattr",
    "removexattr",
)}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _note(event, arguments):
    if event == "open" and arguments[2] & _WRITING:
        noted = arguments[:1]
    elif event in _CHANGES or event == "socket.connect":
        noted = arguments
    else:
        return
    texts = [os.fsdecode(each) if isinstance(each, (str, bytes)) else repr(each) for each in noted]
    os.write(_file, (json.dumps([event, *texts]) + chr(10)).encode())


sys.addaudithook(_note)
"""


def secret_data_set(number: int) -> bytes:
    """A data set that has the same text as the value of many elements, of each VR that holds text."""
    texts = {0x00080020: b"DA", 0x00080030: b"TM", 0x00080050: b"SH", 0x00080080: b"LO", 0x00080081: b"ST"}
    texts |= {0x00081030: b"LO", 0x00100010: b"PN", 0x00100020: b"LO", 0x00100030: b"DA", 0x00101010: b"AS"}
    texts |= {0x00101030: b"DS", 0x00104000: b"LT", 0x00200013: b"IS", 0x00090010: b"LO", 0x00091001: b"OB"}
    elements = b"".join(files.element(tag, vr, SECRET) for tag, vr in sorted(texts.items()))
    uids = files.element(0x00080016, b"UI", files.uid(CT_IMAGE_STORAGE))
    return uids + files.element(0x00080018, b"UI", files.uid(uid_of(number))) + elements


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with whole files, and with damaged, odd and foreign ones."""
    directory = tmp_path / "source"
    directory.mkdir()
    metas = [files.file_meta(sop_instance_uid=uid_of(number)) for number in range(3)]
    whole = [files.dicom_file(meta=meta, body=secret_data_set(number)) for number, meta in enumerate(metas)]
    body = secret_data_set(3)
    made = {
        "1.dcm": whole[1],
        "2.dcm": whole[2],
        "other-meta.dcm": files.dicom_file(meta=files.file_meta(sop_instance_uid="1.2.3"), body=body),
        "no-meta.dcm": secret_data_set(4),
        "jpeg.dcm": files.dicom_file(meta=files.file_meta("1.2.840.10008.1.2.4.70"), body=secret_data_set(5)),
        "odd.dcm": files.dicom_file(meta=files.file_meta(), body=secret_data_set(6) + bytes(7)),
        "wrong-vr.dcm": files.dicom_file(meta=files.file_meta(), body=secret_data_set(7).replace(b"PN", b"??")),
        "notes.txt": SECRET * 100,
        "DICOMDIR": files.dicom_file(meta=files.file_meta(), body=SECRET * 10),
    }
    made |= {f"cut-{at}.dcm": whole[0][:-at] for at in range(1, 300, 23)}
    for name, content in made.items():
        (directory / name).write_bytes(content)
    return directory


def state_of(directory: Path) -> dict[str, Any]:
    """All that a sender could change of the files in a directory."""
    return {
        path.name: (path.read_bytes(), status.st_mtime_ns, status.st_mode, status.st_uid, status.st_ino)
        for path in (directory, *directory.iterdir())
        if path.is_file()
        for status in (path.stat(),)
    }


def commands(source: Path, port: int) -> Iterator[list[str | Path | int]]:
    """Each command that reads files or a ledger, with all that it can log and write."""
    out = source.parent / "out"
    out.mkdir()
    log = ("-d", "--log-file", out / "1.log", "-ll", "debug")
    results = ("--json", "--report", out / "1.csv", "--ledger", out / "run.db")
    where: tuple[str | Path | int, ...] = ("127.0.0.1", port, source)
    yield ["storescu", "-r", *log, *results, *where]
    yield ["storescu", "-r", "--ledger", out / "run.db", "-v", "--report", out / "2.jsonl", *where]
    yield ["storescu", "-r", "-d", "-xi", "--log-file", out / "3.log", *where]  # all are converted
    yield ["storescu", "-r", "-d", "--strict-source", "--include", "*.dcm", *where]
    yield ["storescu", "-r", "--dry-run", *where]
    yield ["scan", source]
    yield ["scan", "--json", source]
    yield ["report", out / "run.db"]
    yield ["report", "--csv", out / "run.db"]
    yield ["report", "--json", "--studies", out / "run.db"]


@pytest.mark.timeout(300)  # ten processes, one after the other
@on_one_loop
async def test_source_files_are_only_read_values_are_not_logged_and_only_the_peer_is_called(
    source: Path, tmp_path: Path
) -> None:
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "sitecustomize.py").write_text(AUDIT)
    path = f"{tmp_path / 'hooks'}:{PROJECT}"
    variables = {"PYTHONPATH": path, "AUDIT_FILE": str(tmp_path / "audit.jsonl")}
    before = state_of(source)
    codes = iter([0, 0xA900, 0xC000])

    def play(port: int) -> Iterator[subprocess.CompletedProcess[str]]:
        return iter([run(*command, variables=variables) for command in commands(source, port)])

    async with asyncstore.StorageSCP(on_store=lambda arrival: next(codes, 0)) as scp:
        for done in await anyio.to_thread.run_sync(play, scp.port):
            assert done.returncode in (0, 3), done
            assert "SECRET" not in done.stdout
            assert "SECRET" not in done.stderr
        assert scp.stored > 10
        port = scp.port
    assert state_of(source) == before

    for written in (tmp_path / "out").iterdir():
        assert SECRET.partition(b"^")[0] not in written.read_bytes(), written
    assert len(list(csv.DictReader((tmp_path / "out" / "1.csv").read_text().splitlines()))) > 10

    events = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    called = {address for event, *arguments in events if event == "socket.connect" for address in arguments[1:]}
    assert called == {repr(("127.0.0.1", port))}
    changed = [argument for event, *arguments in events if event != "socket.connect" for argument in arguments]
    assert str(tmp_path / "out" / "1.csv") in changed
    assert [path for path in changed if Path(path).is_relative_to(source)] == []


@on_one_loop
async def test_no_uid_and_no_other_element_is_changed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "liver_1frame.dcm"):
        (tmp_path / "in" / name).write_bytes(files.bundled(name).read_bytes())
    sent = {str(instance.sop_instance_uid): instance for instance in scanned(tmp_path / "in")}
    arrivals: list[Arrival] = []
    for syntaxes, are_same_bytes in ((None, True), ([IMPLICIT_VR_LITTLE_ENDIAN], False)):
        arrivals.clear()
        out = tmp_path / f"out-{are_same_bytes}"
        out.mkdir()
        async with asyncstore.StorageSCP(
            output_directory=out, transfer_syntaxes=syntaxes, on_store=arrivals.append
        ) as scp:
            await asyncstore.store(tmp_path / "in", to=asyncstore.Peer("127.0.0.1", scp.port))
        assert len(arrivals) >= 3
        for arrival in arrivals:
            assert arrival.path is not None
            uid = arrival.request.affected_sop_instance_uid
            assert arrival.request.affected_sop_class_uid == sent[uid].sop_class_uid
            (received,) = scanned(arrival.path)
            if are_same_bytes:
                assert files.read_all(received.source) == files.read_all(sent[uid].source)
            else:
                assert received.transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
                files.assert_same_elements(files.decode(sent[uid]), files.decode(received), False, False)


def scanned(path: Path) -> list[asyncstore.Instance]:
    return [found for found in asyncstore.scan(path) if isinstance(found, asyncstore.Instance)]


def test_the_reason_why_a_dataset_cannot_be_encoded_quotes_no_value() -> None:
    data_set = pydicom.dcmread(files.bundled("CT_small.dcm"))
    data_set["Rows"]._value = SECRET
    with pytest.raises(asyncstore.SourceError) as caught:
        asyncstore.instance_from(data_set)
    assert str(caught.value) == "the data set cannot be encoded: OSError at (0028,0010)"
    assert SECRET.decode() in str(caught.value.__cause__)
