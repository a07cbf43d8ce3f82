"""What the tests of associations share: instances of any length, whom to associate with, and what must not be left."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from asyncstore.instances.instance import Instance
from asyncstore.instances.source import BytesSource, FileSource
from asyncstore.net import transport
from asyncstore.net.peer import Peer, Timeouts
from asyncstore.net.transport import SocketTransport
from asyncstore.preparation.prepare import Prepared, prepare
from asyncstore.services import storage
from asyncstore.services.scu import Association, associate
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    VERIFICATION,
)
from asyncstore.upper_layer import pdu
from asyncstore.upper_layer.user_information import OperationsWindow
from tests.support import files
from tests.support.process import descriptors as descriptors

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Any

    import pytest

    from asyncstore.dimse.operations import OnResponse, Operation
    from asyncstore.instances.source import DataSource
    from asyncstore.net.requestor import Requestor
    from tests.support.wire import Script, Wire

TINY_SECONDS: Final = 0.4
LIMIT_SECONDS: Final = 60.0
MR_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.4"
UNCOMPRESSED: Final = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)
CONTEXTS: Final = (
    (CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,)),
    (CT_IMAGE_STORAGE, (IMPLICIT_VR_LITTLE_ENDIAN,)),
    (VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)),
)


class Listening(Protocol):
    """Anything that accepts associations."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def ae_title(self) -> str: ...


def to(scp: Listening, *, timeouts: Timeouts | None = None, **options: Any) -> Association:
    """An association to be entered: CONTEXTS unless there are others in the options."""
    options.setdefault("contexts", CONTEXTS)
    return associate(Peer(scp.host, scp.port, scp.ae_title), timeouts=timeouts or Timeouts(), **options)


def tiny(**seconds: float) -> Timeouts:
    """Timeouts of which one is to run out soon: `tiny(dimse_seconds=0.2)`."""
    return Timeouts(**({"acse_seconds": 10.0, "dimse_seconds": 10.0, "network_seconds": 10.0} | seconds))


def set_timeouts(association: Association, **seconds: float) -> None:
    """Give the peer `tiny` timeouts from now on; what came before may have taken its time, as on a busy machine.

    An earlier deadline for answers may be noticed late: the task that watches it sleeps by the one from before.
    """
    inside(association).timeouts = tiny(**seconds)


_PATTERN: Final = bytes((index * 7 + index // 251) & 0xFF for index in range(1 << 16))


def pattern(length: int) -> bytes:
    """Bytes that are no data set; no stretch of 250 bytes comes twice within 64 KiB."""
    return (_PATTERN * (length // len(_PATTERN) + 1))[:length]


class ReadPiecewise(BytesSource):
    """Bytes that are read into holes, as a file's are: what tests of reading that fails or lasts are made from."""

    def view(self) -> memoryview | None:
        """None, as if they were on a disk."""
        return None


def instance_of(source: DataSource, uid: str = "1.2.3.4", path: str | None = None) -> Instance:
    """A CT image, in Explicit VR Little Endian so far as anybody looks."""
    length = source.length_bytes
    return Instance(path, CT_IMAGE_STORAGE, uid, EXPLICIT_VR_LITTLE_ENDIAN, 0, length, source, length, 0)


def instance(length: int = 1000, uid: str = "1.2.3.4") -> Instance:
    """An instance in memory, whose data set is `pattern(length)`."""
    return instance_of(BytesSource(pattern(length)), uid)


def instance_in(path: Path, length: int, uid: str = "1.2.3.4") -> Instance:
    """The same in a file, read when it is sent."""
    path.write_bytes(pattern(length))
    status = path.stat()
    return instance_of(FileSource(str(path), 0, length, length, status.st_mtime_ns), uid, str(path))


def image(uid: str = "1.2.3.4", value_bytes: int = 1000) -> bytes:
    """A data set that pydicom can read, in Explicit VR Little Endian."""
    more = (
        files.element(0x0020000D, b"UI", files.uid("1.2.3.55"))
        + files.element(0x0020000E, b"UI", files.uid("1.2.3.66"))
        + files.element(0x7FE00010, b"OB", pattern(value_bytes))
    )
    return files.data_set(sop_instance_uid=uid, more=more)


def image_in_memory(value_bytes: int = 1000, uid: str = "1.2.3.4") -> Instance:
    """An instance with that data set, which a receiver that looks at it keeps."""
    return instance_of(BytesSource(image(uid, value_bytes)), uid)


def image_file(path: Path, uid: str = "1.2.3.4", value_bytes: int = 1000) -> Path:
    """A DICOM file with that data set."""
    meta = files.file_meta(sop_instance_uid=uid)
    path.write_bytes(files.dicom_file(meta=meta, body=image(uid, value_bytes)))
    return path


def inside(association: Association) -> Requestor:
    """What an association does not show to callers."""
    return association._requestor


async def send(association: Association, instance: Instance, on_response: OnResponse, **options: Any) -> Operation:
    """Write one C-STORE request, for which the peer accepted a context, and leave its answer to `on_response`."""
    prepared = prepare(instance, inside(association).contexts)
    assert isinstance(prepared, Prepared)
    return await storage.send(inside(association), prepared, on_response, **options)


def accepting(script: Callable[[Wire], object], **options: Any) -> Script:
    """A script that accepts the association first."""

    def play(wire: Wire) -> None:
        wire.accept(**options)
        script(wire)

    return play


def with_window(window: int) -> dict[str, OperationsWindow]:
    """What makes `Wire.accept` grant a window."""
    return {"operations_window": OperationsWindow(window, 1)}


def fragments_of(units: Sequence[pdu.PDU]) -> list[pdu.Fragment]:
    """The fragments in the P-DATA-TF PDUs among these."""
    return [fragment for unit in units if isinstance(unit, pdu.DataTF) for fragment in unit.fragments]


def has_last_data_fragment(units: Sequence[pdu.PDU]) -> bool:
    """Whether a data set came to its end in these."""
    return any(fragment.is_last and not fragment.is_command for fragment in fragments_of(units))


def units_of(stream: bytes) -> Iterator[pdu.PDU]:
    """The whole PDUs at the beginning of a stream; what is cut off at its end is not among them."""
    while len(stream) >= 6:
        length = int.from_bytes(stream[2:6], "big")
        if len(stream) < 6 + length:
            return
        yield pdu.decode(stream[0], stream[6 : 6 + length])
        stream = stream[6 + length :]


class StallingTransport(SocketTransport):
    """A transport that stops taking bytes where it is told to, until the wait for it is cancelled."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.room: int | None = None
        self.has_stalled = anyio.Event()

    def stall_after(self, count: int) -> None:
        self.room = count

    def send_some(self, parts: Sequence[memoryview | bytes]) -> int:
        if self.room is None:
            return super().send_some(parts)
        data = b"".join(parts)[: self.room]
        sent = super().send_some((data,)) if data else 0
        self.room -= sent
        return sent

    async def wait_writable(self) -> None:
        if self.room is None:
            await super().wait_writable()
            return
        self.has_stalled.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.room = None


async def connect_stalling(peer: Peer, timeout_seconds: float) -> StallingTransport:
    """Opens a connection that can be made to stall; given as `connect`, `stalling` finds it."""
    return StallingTransport((await transport.connect(peer, timeout_seconds))._socket)


def stalling(association: Association) -> StallingTransport:
    """The transport of an association that was opened by `connect_stalling`."""
    transport = inside(association).transport
    assert isinstance(transport, StallingTransport)
    return transport


def take_add_reader_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the proactor event loop of Windows, which has none, and no add_writer either."""

    class Loop:
        def add_reader(self, *_: object) -> None:
            raise NotImplementedError

        add_writer = add_reader

    monkeypatch.setattr(transport, "asyncio", types.SimpleNamespace(get_running_loop=Loop))


def tasks() -> int:
    """How many tasks the event loop runs."""
    return len(anyio.get_running_tasks())
