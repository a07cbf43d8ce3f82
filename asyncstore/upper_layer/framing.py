"""How a message lies on the wire: P-DATA-TF headers are written, the data set's bytes go between them untouched.

A C-STORE request is a command set in one or more P-DATA-TF PDUs, then the data set cut into fragments, one PDV in each
PDU (PS3.8 9.3.5, PS3.8 Annex E). Every fragment but the last has the same size, so the 12 bytes before each of them are
the same too:

    | 04 | 00 | PDU length (4) | PDV length (4) | context ID | control | data ...

`Framer` lays a message out as `Run`s. A run of a source that reads from a file is one contiguous piece of a reusable
wire buffer with holes between the headers: the file fills all holes with one preadv, the socket takes the piece with
one send. A run of a data set that is already in memory is a list of parts, headers and views in turn, for one sendmsg.
Either way no byte of a data set is copied in Python.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asyncstore.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

HEADER_BYTES: Final = 12
_HEADER: Final = struct.Struct(">BxIIBB")
_P_DATA_TF: Final = 0x04
# PS3.8 Annex E.2: the message control header.
_DATA_SET: Final = 0x00
_COMMAND: Final = 0x01
_LAST: Final = 0x02

# What was read should still be in the processor's cache when it is sent, on each of several associations: 1 MiB a run
# took a sixth longer.
RUN_BYTES: Final = 1 << 17
# Where every read waits for a disk or a network, what counts is how seldom that is.
LONG_RUN_BYTES: Final = 1 << 20
# The most buffers that one preadv or sendmsg takes on Linux is 1024; a part of a run is a header and a view.
_MAXIMUM_FRAMES: Final = 500
# For a peer that sets no limit (0), or one beyond reason: one fragment fills a run.
_MAXIMUM_FRAGMENT_BYTES: Final = RUN_BYTES - HEADER_BYTES
MINIMUM_LENGTH: Final = 8


@dataclass(slots=True)
class Run:
    """One send's worth of a message: fill `holes` with the data set's bytes from `offset`, then send `parts`.

    `is_last` says that the message is complete after it. The first run of a message gets its command set by
    `put_command`, which can wait until the holes are filled: a Message ID is taken when there is room for an operation,
    and the file is read while there is none.
    """

    parts: list[memoryview | bytes]
    holes: Sequence[memoryview]
    offset: int
    is_last: bool
    total_bytes: int
    frame_bytes: int
    command_bytes: int = 0

    def put_command(self, command_pdus: bytes) -> None:
        """Have the PDUs of a command set go out before the data, in the same send."""
        self.parts.insert(0, command_pdus)
        self.command_bytes = len(command_pdus)
        self.total_bytes += len(command_pdus)

    @property
    def data_bytes(self) -> int:
        """How many bytes of the data set the run carries."""
        frames_bytes = self.total_bytes - self.command_bytes
        return frames_bytes - -(-frames_bytes // self.frame_bytes) * HEADER_BYTES

    def end_of_pdu(self, sent_bytes: int) -> int:
        """Where the PDU ends in whose middle the sending stopped; `sent_bytes` itself when it stopped between two.

        Command PDUs count as one.
        """
        if sent_bytes <= self.command_bytes:
            return self.command_bytes if sent_bytes else 0
        frames = -(-(sent_bytes - self.command_bytes) // self.frame_bytes)
        return min(self.command_bytes + frames * self.frame_bytes, self.total_bytes)


def fragment_capacity(maximum_length: int, own_limit: int = 0) -> int:
    """How many data bytes fit into one PDV, given the peer's Maximum Length Received and a limit of our own (0: none).

    The PDU header is not counted in the maximum length (PS3.8 D.1.1), the PDV's 6 bytes are. Fragments are of even
    length. Raises RemoteProtocolError for a maximum that has no room for a byte of data.
    """
    limits = [limit for limit in (maximum_length, own_limit) if limit]
    if limits and min(limits) < MINIMUM_LENGTH:
        raise RemoteProtocolError(
            f"{min(limits)} leaves no room for data: at least {MINIMUM_LENGTH} is needed",
            pdu="A-ASSOCIATE",
            field="Maximum Length Received",
        )
    return min([*limits, _MAXIMUM_FRAGMENT_BYTES + 6]) - 6 & ~1


def frame_command(context_id: int, command_set: bytes, capacity: int) -> bytes:
    """The P-DATA-TF PDUs of a whole command set."""
    if len(command_set) <= capacity:
        return _header(context_id, len(command_set), _COMMAND | _LAST) + command_set
    pieces = [command_set[start : start + capacity] for start in range(0, len(command_set), capacity)]
    controls = [_COMMAND] * (len(pieces) - 1) + [_COMMAND | _LAST]
    return b"".join(
        _header(context_id, len(piece), control) + piece for piece, control in zip(pieces, controls, strict=True)
    )


class Framer:
    """Lays messages out for one association, in fragments of `capacity` bytes.

    Has one wire buffer, from the first run with holes on, which is free again as soon as a run was sent: take one run
    at a time. `makes_long_runs` is for sources that are slow to read, and may be changed between two runs.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.frame_bytes = capacity + HEADER_BYTES
        self.makes_long_runs = False
        self._frames = self._frames_in(RUN_BYTES)
        self._long_frames = self._frames_in(LONG_RUN_BYTES)
        self._wire = memoryview(b"")
        self._holes: list[memoryview] = []
        self._stamped_for = 0  # context ID in the full frames' headers
        self._stamped = 0  # how many frames carry that header

    def runs_from_memory(self, context_id: int, data_set: memoryview) -> Iterable[Run]:
        """The runs of a message whose data set is in memory: nothing is left to fill."""
        length = len(data_set)
        if not 0 < length <= self.capacity:
            return self._runs_of_fragments(context_id, data_set)
        header = _header(context_id, length, _DATA_SET | _LAST)
        return (Run([header, data_set], (), 0, True, length + HEADER_BYTES, self.frame_bytes),)

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
        """Give the wire buffer back; the next run with holes gets a new one."""
        self._wire = memoryview(b"")
        self._holes = []
        self._stamped = 0

    def _frames_in(self, run_bytes: int) -> int:
        return max(1, min(run_bytes // self.frame_bytes, _MAXIMUM_FRAMES))

    def _stamp(self, context_id: int, frames: int) -> None:
        """Write the header of a full frame before the first `frames` holes, where it is not there already."""
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
        """Make the last of `frames` frames the message's last fragment, of the bytes that remain."""
        last_bytes = run_bytes - (frames - 1) * self.capacity
        at = (frames - 1) * self.frame_bytes
        self._wire[at : at + HEADER_BYTES] = _header(context_id, last_bytes, _DATA_SET | _LAST)
        self._stamped = min(self._stamped, frames - 1)
        if last_bytes:
            holes[-1] = holes[-1][:last_bytes]
        else:
            holes.pop()


def _header(context_id: int, data_bytes: int, control: int) -> bytes:
    return _HEADER.pack(_P_DATA_TF, data_bytes + 6, data_bytes + 2, context_id, control)
