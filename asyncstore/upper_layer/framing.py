"""Lays out a message on the wire: writes P-DATA-TF headers, and leaves room for the bytes of the data set.

A C-STORE request is a command set in one or more P-DATA-TF PDUs, then the data set in fragments, one PDV per PDU (PS3.8
9.3.5, PS3.8 Annex E). All fragments but the last have the same size, so the 12 bytes before each of them are the same:

    | 04 | 00 | PDU length (4) | PDV length (4) | context ID | control | data ...

`Framer` turns a message into `Run`s. For a data set in a file, a run is one contiguous piece of a reusable wire buffer
with holes between the headers: one preadv fills all holes from the file, and one send sends the piece. For a data set
in memory, a run is a list of headers and views for one sendmsg. Either way Python copies no byte of the data set.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from asyncstore.errors import RemoteProtocolError
from asyncstore.record import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

HEADER_BYTES: Final = 12
_pack_header: Final = struct.Struct(">BxIIBB").pack
_P_DATA_TF: Final = 0x04
# PS3.8 Annex E.2: the message control header.
_DATA_SET: Final = 0x00
_COMMAND: Final = 0x01
_LAST: Final = 0x02

# The bytes of a run should still be in the processor's cache when they are sent, on each of several associations: runs
# of 1 MiB took a sixth longer.
RUN_BYTES: Final = 1 << 17
# If every read waits for a disk or a network, fewer and longer reads are better.
LONG_RUN_BYTES: Final = 1 << 20
# On Linux one preadv or sendmsg takes at most 1024 buffers; each frame needs two, a header and a view.
_MAXIMUM_FRAMES: Final = 500
# For a peer without a limit (0), or with a very large one: one fragment fills a run.
_MAXIMUM_FRAGMENT_BYTES: Final = RUN_BYTES - HEADER_BYTES
MINIMUM_LENGTH: Final = 8


@record(slots=True)
class Run:
    """The part of a message for one send: fill `holes` with the data set's bytes from `offset`, then send `parts`.

    `is_last` says that the run completes the message. `put_command` adds the command set to the first run. It may be
    called after the holes are filled: the file is read while the operations window is full, and the Message ID is taken
    when there is room.
    """

    parts: list[memoryview | bytes]
    holes: Sequence[memoryview]
    offset: int
    is_last: bool
    total_bytes: int
    frame_bytes: int
    command_bytes: int = 0

    def put_command(self, command_pdus: bytes) -> None:
        """Send the PDUs of a command set before the data, in the same send."""
        self.parts.insert(0, command_pdus)
        self.command_bytes = len(command_pdus)
        self.total_bytes += len(command_pdus)

    @property
    def data_bytes(self) -> int:
        """The number of bytes of the data set in the run."""
        frames_bytes = self.total_bytes - self.command_bytes
        return frames_bytes - -(-frames_bytes // self.frame_bytes) * HEADER_BYTES

    def end_of_pdu(self, sent_bytes: int) -> int:
        """The end of the PDU that was sent only in part; `sent_bytes` itself if the sending stopped between two PDUs.

        All command PDUs count as one.
        """
        if sent_bytes <= self.command_bytes:
            return self.command_bytes if sent_bytes else 0
        frames = -(-(sent_bytes - self.command_bytes) // self.frame_bytes)
        return min(self.command_bytes + frames * self.frame_bytes, self.total_bytes)


def fragment_capacity(maximum_length: int, own_limit: int = 0) -> int:
    """The data bytes that fit into one PDV, given the peer's Maximum Length Received and our own limit (0: none).

    The maximum length does not include the PDU header (PS3.8 D.1.1), but does include 6 bytes of the PDV. The result is
    even. Raises RemoteProtocolError if the maximum leaves no room for data.
    """
    limits = [limit for limit in (maximum_length, own_limit) if limit]
    if limits and min(limits) < MINIMUM_LENGTH:
        raise RemoteProtocolError(
            f"{min(limits)} leaves no room for data: at least {MINIMUM_LENGTH} is needed",
            pdu="A-ASSOCIATE",
            field="Maximum Length Received",
        )
    return min([*limits, _MAXIMUM_FRAGMENT_BYTES + 6]) - 6 & ~1


def run_of_pdus(pdus: bytes) -> Run:
    """The run of whole PDUs without data of a data set: a command set alone, say, which ends no data set."""
    return Run([pdus], (), 0, False, len(pdus), 1, len(pdus))


def frame_command(context_id: int, command_set: bytes, capacity: int) -> bytes:
    """The P-DATA-TF PDUs of a whole command set."""
    if len(command_set) <= capacity:
        return _header(context_id, len(command_set), _COMMAND | _LAST) + command_set
    return _frame(context_id, command_set, capacity, _COMMAND)


def frame_message(context_id: int, command_set: bytes, data_set: bytes | None, capacity: int) -> bytes:
    """The P-DATA-TF PDUs of a whole message whose data set is small: an identifier, say. None: it has no data set."""
    command = frame_command(context_id, command_set, capacity)
    return command if data_set is None else command + _frame(context_id, data_set, capacity, _DATA_SET)


def _frame(context_id: int, data: bytes, capacity: int, kind: int) -> bytes:
    pieces = [data[start : start + capacity] for start in range(0, max(len(data), 1), capacity)]
    controls = [kind] * (len(pieces) - 1) + [kind | _LAST]
    return b"".join(
        _header(context_id, len(piece), control) + piece for piece, control in zip(pieces, controls, strict=True)
    )


class Framer:
    """Lays out messages for one association, in fragments of `capacity` bytes.

    All runs with holes share one wire buffer, so send each run before you take the next. `makes_long_runs` is for
    sources that are slow to read, and may change between two runs.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.frame_bytes: int = capacity + HEADER_BYTES
        self.makes_long_runs = False
        self._frames = self._frames_in(RUN_BYTES)
        self._long_frames = self._frames_in(LONG_RUN_BYTES)
        self._wire = memoryview(b"")
        self._holes: list[memoryview] = []
        self._stamped_for = 0  # context ID in the full frames' headers
        self._stamped = 0  # how many frames carry that header

    def runs_from_memory(self, context_id: int, data_set: memoryview) -> Iterable[Run]:
        """The runs of a message whose data set is in memory; they have no holes."""
        length = len(data_set)
        if not 0 < length <= self.capacity:
            return self._runs_of_fragments(context_id, data_set)
        header = _header(context_id, length, _DATA_SET | _LAST)
        return (Run([header, data_set], (), 0, True, length + HEADER_BYTES, self.frame_bytes),)

    def small_message(self, context_id: int, command_set: bytes, data_set: memoryview) -> list[memoryview | bytes]:
        """The parts of a whole message for one send; its data set must fit one fragment. See `run_of_small`.

        The first part is everything before the data set, the second one the data set.
        """
        command_bytes, data_bytes = len(command_set), len(data_set)
        data_header = _pack_header(_P_DATA_TF, data_bytes + 6, data_bytes + 2, context_id, _DATA_SET | _LAST)
        if command_bytes > self.capacity:
            return [frame_command(context_id, command_set, self.capacity) + data_header, data_set]
        header = _pack_header(_P_DATA_TF, command_bytes + 6, command_bytes + 2, context_id, _COMMAND | _LAST)
        return [header + command_set + data_header, data_set]

    def run_of_small(self, parts: list[memoryview | bytes]) -> Run:
        """The run of such a message, if it is not sent at once."""
        before, data_set = parts
        total_bytes = len(before) + len(data_set)
        return Run(parts, (), 0, True, total_bytes, self.frame_bytes, len(before) - HEADER_BYTES)

    def _runs_of_fragments(self, context_id: int, data_set: memoryview) -> Iterator[Run]:
        length = len(data_set)
        full = _header(context_id, self.capacity, _DATA_SET)
        offset = 0
        while True:
            end = min(offset + self._frames * self.capacity, length)
            parts: list[memoryview | bytes] = []
            total = end - offset
            for start in range(offset, max(end, offset + 1), self.capacity):
                piece = data_set[start : min(start + self.capacity, end)]
                is_last = start + len(piece) == length
                parts.append(_header(context_id, len(piece), _DATA_SET | _LAST) if is_last else full)
                if piece:
                    parts.append(piece)
                total += HEADER_BYTES
            yield Run(parts, (), offset, end == length, total, self.frame_bytes)
            if end == length:
                return
            offset = end

    def runs_with_holes(self, context_id: int, length: int) -> Iterator[Run]:
        """The runs of a message whose data set of `length` bytes is read into the wire buffer."""
        if not self._wire:
            self._wire = memoryview(bytearray(self._long_frames * self.frame_bytes))
        offset = 0
        while True:
            left = length - offset
            frames = self._long_frames if self.makes_long_runs else self._frames
            run_bytes = frames * self.capacity
            is_last = run_bytes >= left
            if is_last:
                frames = -(-left // self.capacity) or 1
                run_bytes = left
            if self._stamped < frames or self._stamped_for != context_id:
                self._stamp(context_id, frames)
            holes = self._holes[:frames]
            if is_last:
                self._stamp_last(context_id, frames, run_bytes, holes)
            wire = self._wire[: frames * HEADER_BYTES + run_bytes]
            yield Run([wire], holes, offset, is_last, len(wire), self.frame_bytes)
            if is_last:
                return
            offset += run_bytes

    def let_go(self) -> None:
        """Free the wire buffer; the next run with holes gets a new one."""
        self._wire = memoryview(b"")
        self._holes = []
        self._stamped = 0

    def _frames_in(self, run_bytes: int) -> int:
        return max(1, min(run_bytes // self.frame_bytes, _MAXIMUM_FRAMES))

    def _stamp(self, context_id: int, frames: int) -> None:
        """Write the header of a full frame before each of the first `frames` holes, unless it is there already."""
        if self._stamped_for != context_id:
            self._stamped_for = context_id
            self._stamped = 0
        header = _header(context_id, self.capacity, _DATA_SET)
        for index in range(self._stamped, frames):
            at = index * self.frame_bytes
            self._wire[at : at + HEADER_BYTES] = header
            if index == len(self._holes):
                self._holes.append(self._wire[at + HEADER_BYTES : at + self.frame_bytes])
        self._stamped = frames

    def _stamp_last(self, context_id: int, frames: int, run_bytes: int, holes: list[memoryview]) -> None:
        """Make the last of `frames` frames the last fragment of the message, with the remaining bytes."""
        last_bytes = run_bytes - (frames - 1) * self.capacity
        at = (frames - 1) * self.frame_bytes
        self._wire[at : at + HEADER_BYTES] = _header(context_id, last_bytes, _DATA_SET | _LAST)
        self._stamped = min(self._stamped, frames - 1)
        if last_bytes:
            holes[-1] = holes[-1][:last_bytes]
        else:
            holes.pop()


def _header(context_id: int, data_bytes: int, control: int) -> bytes:
    return _pack_header(_P_DATA_TF, data_bytes + 6, data_bytes + 2, context_id, control)
