"""What fuzz.py feeds of files: heads, conversions, archives, a DICOMDIR, a ledger, the peers file, lists of paths.

- Instances, problems and the documented error come out of each reader, and nothing else; what they say is one line.
- A member and a referenced file lie in their archive or below their DICOMDIR, whatever their names.
- An archive gives no more bytes than deflate can make of it, and of stored members no more than it has.
- What a conversion accepts, a second one accepts, too, and gives the same elements: it is the same again.
"""

from __future__ import annotations

import functools
import gzip
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import typer

from asyncstore.cli.output.plain_text import escaped
from asyncstore.cli.peers import PeersFile
from asyncstore.errors import LedgerError, MissingUID, NotDicom, SourceError
from asyncstore.inputs.archives.opening import members_of
from asyncstore.inputs.dicomdir import referenced_files
from asyncstore.inputs.listed import listed_paths
from asyncstore.inputs.opening import instance_from_bytes
from asyncstore.instances import study
from asyncstore.instances.head import read_head
from asyncstore.instances.instance import Instance
from asyncstore.instances.outcome import State
from asyncstore.instances.problem import ScanProblem
from asyncstore.ledger.sqlite.reader import LedgerReader
from asyncstore.preparation.convert import can_convert, convert
from asyncstore.preparation.padding import padded
from asyncstore.preparation.reencode import CannotConvert
from asyncstore.services.identifiers import decode_identifier, decode_keys
from asyncstore.services.references import read_report
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
)
from tests.campaigns.fuzz_support import Target, check, pieces_of
from tests.support import files, hostile_files
from tests.support.archives import KINDS, members, write_any
from tests.support.ledgers import DESTINATION, instance_of, outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_INFLATED_PER_BYTE: Final = 1100  # deflate makes no more of one
_READ_BYTES: Final = 1 << 22  # of one member, that a run does not take long
_DISK_SECONDS: Final = 0.5
_MEMORY_BYTES: Final = 8 << 20  # heads of up to a megabyte, the hashes of names


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-")


def _written(data: bytes, name: str) -> str:
    """A file with these bytes; those of the input before are gone."""
    path = os.path.join(_folder().name, name)
    with open(path, "wb") as file:
        file.write(data)
    return path


def _check_line(text: str) -> None:
    check(escaped(text) == text, "what is said of a file is not a line that can be printed")


def _check_problem(problem: ScanProblem) -> None:
    _check_line(problem.detail)
    check(isinstance(problem.error, SourceError | OSError), "a problem has an error of another kind")


# -- one file ----------------------------------------------------------------------------------------------------------


def _run_head(data: bytes) -> None:
    """A file is an instance, which is the same in memory, or a problem."""
    found = read_head(_written(data, "head.dcm"))
    try:
        held = instance_from_bytes(data)
    except (NotDicom, MissingUID):
        check(isinstance(found, ScanProblem), "a file is an instance, and its bytes are none")
        assert isinstance(found, ScanProblem)
        _check_problem(found)
        return
    check(isinstance(found, Instance), "bytes are an instance, and a file of them is none")
    assert isinstance(found, Instance)
    uids = (found.sop_class_uid, found.sop_instance_uid, found.transfer_syntax_uid, found.data_set_offset)
    check(
        uids == (held.sop_class_uid, held.sop_instance_uid, held.transfer_syntax_uid, held.data_set_offset),
        "a file is another instance than its bytes",
    )
    for uid in uids[:3]:
        _check_line(str(uid))
    study.keys_of(found)
    study.modality_of(found)
    study.patient_and_study_of(found)


def _run_conversion(data: bytes) -> None:
    """A data set in each syntax: padded, converted, and converted once more to the same."""
    for syntax in UNCOMPRESSED_TRANSFER_SYNTAXES:
        try:
            instance = instance_from_bytes(data, transfer_syntax_uid=syntax)
        except (NotDicom, MissingUID):
            continue
        check(padded(instance.source, syntax).length_bytes - len(data) in (0, 1), "padding is not one byte")
        for target in UNCOMPRESSED_TRANSFER_SYNTAXES:
            if not can_convert(syntax, target) or target == syntax:
                continue
            try:
                once = files.read_all(convert(instance, target))
                again = instance_from_bytes(once, transfer_syntax_uid=target)
            except CannotConvert as error:
                _check_line(str(error))
                continue
            if DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN in (syntax, target):
                continue
            back = EXPLICIT_VR_LITTLE_ENDIAN if target != EXPLICIT_VR_LITTLE_ENDIAN else IMPLICIT_VR_LITTLE_ENDIAN
            files.read_all(convert(again, back))


# -- files that lead to others -----------------------------------------------------------------------------------------


def _read_some(instance: Instance) -> int:
    """Read the beginning of a data set; how many bytes."""
    room = bytearray(min(instance.data_set_length, _READ_BYTES))
    try:
        instance.source.read_into((memoryview(room),), 0)
    except SourceError as error:
        _check_line(str(error).replace(repr(instance.path), ""))
        return 0
    finally:
        instance.source.close()
    return len(room)


def _run_archive(data: bytes) -> None:
    path = _written(data, "archive")
    found = members_of(path)
    stored = total = 0
    names = set()
    for entry in () if found is None else found.entries:
        head = entry if isinstance(entry, ScanProblem) else entry.read_head()
        assert head is not None
        name = str(head.path)
        check(name == path or name.startswith(f"{path}!/"), "a member is not in its archive")
        if isinstance(head, ScanProblem):
            _check_problem(head)
        else:
            inner = name.removeprefix(f"{path}!/")
            check(".." not in inner.split("/") and not inner.startswith("/"), "a member leads out of its archive")
            check(name not in names, "two members have one name")
            names.add(name)
            count = _read_some(head)
            total += count
            stored += 0 if "Inflated" in type(head.source).__name__ else count
    check(stored <= len(data), "stored members have more bytes than their archive")
    check(total <= _INFLATED_PER_BYTE * len(data) + (1 << 16), "members have more bytes than deflate can make")


def _run_dicomdir(data: bytes) -> None:
    path = _written(data, "DICOMDIR")
    below = os.path.realpath(_folder().name) + os.sep
    for relative, entry in referenced_files(path):
        found = entry.read_head()
        if isinstance(found, Instance):
            check(os.path.realpath(str(found.path)).startswith(below), "a referenced file is outside")
        if isinstance(found, ScanProblem):
            _check_problem(found)
            check(
                found.path.startswith((path, below, str(_folder().name))) or relative == found.path,
                "the problem of another file",
            )


# -- our own files -----------------------------------------------------------------------------------------------------


@functools.cache
def _ledger_bytes() -> bytes:
    """A ledger of a run."""
    from asyncstore.ledger.sqlite.ledger import SqliteLedger

    path = os.path.join(_folder().name, "seed.db")

    async def write() -> None:
        async with SqliteLedger(path, destination=DESTINATION, options={"a": 1}) as ledger:
            for number, state in enumerate((State.STORED, State.FAILED, State.UNKNOWN, State.SKIPPED) * 3):
                ledger.record(outcome_of(instance_of(number), state))
            ledger.note_end(scan_finished=True, stopped="")

    anyio.run(write)
    return Path(path).read_bytes()


def _run_ledger(data: bytes) -> None:
    for suffix in ("-wal", "-shm", "-journal"):
        Path(_folder().name, f"ledger.db{suffix}").unlink(missing_ok=True)
    path = _written(data, "ledger.db")
    try:
        with LedgerReader(path) as ledger:
            ledger.runs()
            ledger.by_state()
            ledger.by_status()
            ledger.by_reason()
            list(ledger.by_study())
            list(ledger.rows())
            list(ledger.doubtful())
            ledger.count_doubtful()
            ledger.committed()
            ledger.worst_directories()
            ledger.stored_over_time(20)
    except LedgerError as error:
        _check_line(str(error))


_PEERS: Final = (
    b'[peers.archive]\naddress = "127.0.0.1"\nport = 11112\ncalled_aet = "ARCHIVE"\nassociations = 4\n',
    b'[peers]\na = 1\n[peers."b\\u001b[2J"]\naddress = ["x"]\nport = true\nexclude = ["a", "b"]\n',
    b"[" * 2000,
    b"a" + b".a" * 2000 + b" = 1\n",
    b"peers.x.port = " + b"9" * 5000,
)


def _run_peers(data: bytes) -> None:
    try:
        file = PeersFile(_written(data, "peers.toml"))
    except typer.BadParameter as error:
        _check_line(error.message)
        return
    for name in file.tables:
        try:
            file.peer(name)
        except typer.BadParameter as error:
            _check_line(error.message)


class _Dripping(io.BytesIO):
    """A stream that gives its bytes in pieces."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__()
        self._pieces = iter([piece for piece in pieces if piece])

    def read1(self, size: int | None = -1, /) -> bytes:
        return next(self._pieces, b"")


def _run_list(data: bytes) -> None:
    """The same paths however the list comes, each without what ends it."""
    for ends_in_nul in (False, True):
        whole = list(listed_paths(io.BytesIO(data), ends_in_nul=ends_in_nul))
        check(list(listed_paths(_Dripping(pieces_of(data)), ends_in_nul=ends_in_nul)) == whole, "split, another list")
        check(not any(("\0" if ends_in_nul else "\n") in path or not path for path in whole), "a path has its end")


# -- data sets of messages ---------------------------------------------------------------------------------------------


def _run_identifier(data: bytes) -> None:
    """What a peer sends with C-FIND, N-ACTION and N-EVENT-REPORT is read, or refused with ValueError."""
    for syntax in UNCOMPRESSED_TRANSFER_SYNTAXES:
        readers: tuple[Callable[[bytes, str], Any], ...] = (decode_keys, decode_identifier, read_report)
        for read in readers:
            try:
                read(data, syntax)
            except ValueError as error:
                _check_line(str(error))


# -- corpora -----------------------------------------------------------------------------------------------------------


@functools.cache
def _heads() -> tuple[bytes, ...]:
    small = [path.read_bytes() for path in files.BUNDLED if path.stat().st_size < 8192]
    return (
        files.dicom_file(),
        *(case.content for case in hostile_files.cases().values() if len(case.content) < 4096),
        *small,
    )


@functools.cache
def _data_sets() -> tuple[bytes, ...]:
    found = []
    for data in _heads():
        try:
            instance = instance_from_bytes(data)
        except (NotDicom, MissingUID):
            continue
        found.append(data[instance.data_set_offset :])
    return tuple(found)


def _archive(kind: str) -> tuple[bytes, ...]:
    folder = Path(_folder().name)
    made = write_any(folder / f"seed-{kind}", members(4)).read_bytes()
    return (made, write_any(folder / f"seed-{kind}", {"../x": b"1", "a//b/./c": b"2" * 600, "ä\x1b": b""}).read_bytes())


def _media() -> tuple[bytes, ...]:
    def record(*elements: bytes) -> bytes:
        content = b"".join(elements)
        return files.bare(0xFFFEE000, content)

    names = (b"A\\B ", b"..\\X", b"\\etc\\X", b"HEAD.DCM", b"DICOMDIR")
    records = b"".join(record(files.element(0x00041500, b"CS", name)) for name in names)
    meta = files.file_meta(EXPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.3.10")
    whole = files.dicom_file(meta=meta, body=files.element(0x00041220, b"SQ", records))
    real = [path.read_bytes() for path in files.BUNDLED if path.name.startswith("DICOMDIR")]
    return (whole, *(data for data in real if len(data) < 16384))


def _targets() -> dict[str, Target]:
    of_disk = functools.partial(Target, seconds=_DISK_SECONDS, memory_bytes=_MEMORY_BYTES)
    stored, deflated, tar, _ = (_archive(kind) for kind in KINDS)
    tgz = tuple(gzip.compress(data) for data in tar)
    return {
        "file-head": of_disk(_run_head, _heads(), 4),
        "conversion": of_disk(_run_conversion, _data_sets(), 3),
        "zip": of_disk(_run_archive, stored + deflated, 3),
        "tar": of_disk(_run_archive, tar, 3),
        "tgz": of_disk(_run_archive, tgz, 2),
        "dicomdir": of_disk(_run_dicomdir, _media(), 3),
        "ledger": of_disk(_run_ledger, (_ledger_bytes(),), 2),
        "peers-file": of_disk(_run_peers, _PEERS, 1),
        "list": of_disk(_run_list, (b"/a/b\n/c\r\n\n", b"/a\0b\n\0", b"x" * 70_000 + b"\ny\n"), 1),
        "identifiers": of_disk(_run_identifier, _data_sets(), 2),
    }


FILE_TARGETS: Final = _targets()
