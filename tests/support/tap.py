"""Reads along an association that somebody else carries: PDUs, fragments, command sets, and a journal of responses.

It shares no code with asyncstore, because the journal is evidence against it. PS3.8 9.3 has the PDUs, PS3.7 6.3 and E
the command sets.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HEADER_BYTES: Final = 6
P_DATA_TF: Final = 0x04
C_STORE_RQ: Final = 0x0001
C_STORE_RSP: Final = 0x8001
N_EVENT_REPORT_RQ: Final = 0x0100
MAXIMUM_COMMAND_BYTES: Final = 1 << 16
MAXIMUM_HELD_BYTES: Final = 1 << 20

_COMMAND_FIELD, _MESSAGE_ID, _RESPONDED_TO, _STATUS, _SOP_INSTANCE_UID = 0x0100, 0x0110, 0x0120, 0x0900, 0x1000


@dataclass(frozen=True, slots=True)
class Command:
    """What the journal needs of one command set; `status_offset` is where in the command set the status lies."""

    context_id: int
    field: int
    message_id: int | None
    responded_to: int | None
    status: int | None
    status_offset: int
    sop_instance_uid: str


def read_command(context_id: int, data: bytes) -> Command:
    """Read a command set; elements that are cut off or odd are left out, since a tap only watches."""
    values: dict[int, bytes] = {}
    offsets: dict[int, int] = {}
    for element, start, end in _elements(data):
        values[element] = data[start:end]
        offsets[element] = start

    def number(element: int) -> int | None:
        value = values.get(element, b"")
        return int.from_bytes(value, "little") if len(value) == 2 else None

    return Command(
        context_id=context_id,
        field=number(_COMMAND_FIELD) or 0,
        message_id=number(_MESSAGE_ID),
        responded_to=number(_RESPONDED_TO),
        status=number(_STATUS),
        status_offset=offsets.get(_STATUS, -1),
        sop_instance_uid=values.get(_SOP_INSTANCE_UID, b"").rstrip(b"\0 ").decode("ascii", "replace"),
    )


def _elements(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(element, start, end) of each value of group 0000, Implicit VR Little Endian."""
    offset = 0
    while offset + 8 <= len(data):
        group, element, length = struct.unpack_from("<HHI", data, offset)
        start, offset = offset + 8, offset + 8 + length
        if group == 0 and offset <= len(data):
            yield element, start, offset


class Follower:
    """Follows the bytes of one direction, however they are cut, and tells of every command set that became whole.

    Data-set fragments are stepped over, so that following costs next to nothing. What is no DICOM is stepped over too.
    `data_starts_at` is the offset of the first P-DATA-TF, once it is known. `reports` are the whole data sets of
    N-EVENT-REPORT-RQs.
    """

    def __init__(self) -> None:
        self.offset = 0
        self.data_starts_at: int | None = None
        self.reports: list[bytes] = []
        self._report: bytearray | None = None
        self._head = bytearray()
        self._pdu_type = 0
        self._pdu_left = 0
        self._fragment_left = -1
        self._context_id = 0
        self._flags = 0
        self._command = bytearray()
        self._is_lost = False

    def feed(self, data: bytes) -> list[tuple[int, Command]]:
        """Each command set that ended within `data`, with the offset in the stream of the byte after it."""
        found: list[tuple[int, Command]] = []
        position = 0
        while position < len(data) and not self._is_lost:
            before = position
            position += self._step(data, position)
            self.offset += position - before
            if self._fragment_left == 0:
                self._end_fragment(found)
        self.offset += len(data) - position
        return found

    def _step(self, data: bytes, position: int) -> int:
        """Take what belongs together from `position` on; returns how many bytes that were."""
        if self._pdu_left and self._pdu_type != P_DATA_TF:
            taken = min(self._pdu_left, len(data) - position)
            self._pdu_left -= taken
            return taken
        if self._fragment_left > 0:
            taken = min(self._fragment_left, len(data) - position)
            if self._flags & 1 and len(self._command) < MAXIMUM_COMMAND_BYTES:
                self._command += data[position : position + taken]
            elif self._report is not None and not self._flags & 1:
                self._report += data[position : position + taken]
            self._fragment_left -= taken
            self._pdu_left -= taken
            return taken
        # The headers of a PDU and of a fragment have the same length.
        taken = min(HEADER_BYTES - len(self._head), len(data) - position)
        self._head += data[position : position + taken]
        if len(self._head) == HEADER_BYTES:
            self._begin_fragment() if self._pdu_left else self._begin_pdu(self.offset + taken - HEADER_BYTES)
            self._head.clear()
        return taken

    def _begin_pdu(self, offset: int) -> None:
        self._pdu_type, self._pdu_left = struct.unpack(">BxI", self._head)
        self._is_lost = not 1 <= self._pdu_type <= 7
        if self._pdu_type == P_DATA_TF and self.data_starts_at is None:
            self.data_starts_at = offset

    def _begin_fragment(self) -> None:
        length, self._context_id, self._flags = struct.unpack(">IBB", self._head)
        self._pdu_left -= HEADER_BYTES
        self._fragment_left = length - 2
        self._is_lost = not 0 <= self._fragment_left <= self._pdu_left

    def _end_fragment(self, found: list[tuple[int, Command]]) -> None:
        self._fragment_left = -1
        if self._flags & 3 == 3:
            command = read_command(self._context_id, bytes(self._command))
            self._report = bytearray() if command.field == N_EVENT_REPORT_RQ else None
            found.append((self.offset, command))
            self._command.clear()
        elif self._flags & 3 == 2 and self._report is not None:
            self.reports.append(bytes(self._report))
            self._report = None


class Reframer:
    """Holds bytes back until their PDU is whole; what is no DICOM, or too long to hold, passes as it comes."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._is_passing = False

    def feed(self, data: bytes) -> list[bytes]:
        """The PDUs that became whole, each as its bytes."""
        if self._is_passing:
            return [data]
        self._held += data
        whole: list[bytes] = []
        while len(self._held) >= HEADER_BYTES:
            pdu_type, length = struct.unpack_from(">BxI", self._held)
            if not 1 <= pdu_type <= 7 or length > MAXIMUM_HELD_BYTES:
                self._is_passing = True
                whole.append(self.rest())
                break
            end = HEADER_BYTES + length
            if len(self._held) < end:
                break
            whole.append(bytes(self._held[:end]))
            del self._held[:end]
        return whole

    def rest(self) -> bytes:
        """What is held now, for when the stream ends in the middle of a PDU."""
        rest = bytes(self._held)
        self._held.clear()
        return rest


def replace_status(unit: bytes, choose: Callable[[Command], int | None]) -> bytes:
    """The PDU with the status of its C-STORE-RSPs replaced where `choose` gives another one."""
    if unit[0] != P_DATA_TF:
        return unit
    changed = bytearray(unit)
    position = HEADER_BYTES
    while position + HEADER_BYTES <= len(unit):
        length, context_id, flags = struct.unpack_from(">IBB", unit, position)
        start, position = position + HEADER_BYTES, position + 4 + length
        if flags & 3 == 3:
            command = read_command(context_id, unit[start:position])
            if command.field == C_STORE_RSP and command.status is not None:
                status = choose(command)
                if status is not None:
                    struct.pack_into("<H", changed, start + command.status_offset, status)
    return bytes(changed)


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One whole C-STORE-RSP that was passed on: `status` as the sender got it, `replaced` what the SCP had answered.

    `association` counts connections from 1, `time` is in seconds since 1970.
    """

    association: int
    context_id: int
    message_id: int
    sop_instance_uid: str
    status: int
    replaced: int | None
    time: float


@dataclass(frozen=True, slots=True)
class RequestEntry:
    """One C-STORE-RQ of which the whole command set was passed on, and of its data set perhaps nothing."""

    association: int
    message_id: int
    sop_instance_uid: str
    time: float


class Journal:
    """Every whole C-STORE-RSP that was passed on, in `entries`, and in a JSON lines file when there is a path.

    An entry is written before the last byte of its response goes out: what is not here, the sender has not seen.
    `requests` are the C-STORE-RQs, and `reports` the data sets of the peer's N-EVENT-REPORT-RQs, in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.entries: list[JournalEntry] = []
        self.requests: list[RequestEntry] = []
        self.reports: list[bytes] = []
        self._lock = threading.Lock()
        self._file = path.open("a", encoding="utf-8") if path else None

    def write(self, association: int, response: Command, requests: dict[int, str], replaced: int | None) -> None:
        message_id = response.responded_to or 0
        entry = JournalEntry(
            association,
            response.context_id,
            message_id,
            requests.get(message_id, response.sop_instance_uid),
            -1 if response.status is None else response.status,
            replaced,
            time.time(),
        )
        with self._lock:
            self.entries.append(entry)
            if self._file:
                self._file.write(json.dumps(asdict(entry)) + "\n")
                self._file.flush()

    def note_request(self, association: int, request: Command) -> None:
        entry = RequestEntry(association, request.message_id or 0, request.sop_instance_uid, time.time())
        with self._lock:
            self.requests.append(entry)

    def close(self) -> None:
        if self._file:
            self._file.close()
