"""A process that decompresses for another one: a codec that crashes, hangs or takes all memory costs one instance.

It reads requests from a socket, one at a time: a line of JSON, and with it the descriptor of an open file that has the
data set. The answer is a line of JSON, and the descriptor of a file without a name that has the new one.

The system ends the process when an instance takes too long, whatever the codec does. The process ends by itself when
the one that asks it is gone.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, Final

from asyncstore.errors import SourceError
from asyncstore.preparation.compress import Compression
from asyncstore.preparation.convert import reencode_spooled, write_converted
from asyncstore.preparation.decompress import Decompression
from asyncstore.preparation.layout import Layout
from asyncstore.preparation.reencode import CannotConvert, Unsuitable
from asyncstore.preparation.spool import Spool, TemporarySource
from asyncstore.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
    name_of,
)

if TYPE_CHECKING:
    from asyncstore.instances.source import DataSource

LONGEST_MESSAGE_BYTES: Final = 65536
# Of memory that is the process's own. A frame is held a few times while it is decoded; files do not count.
_MEMORY_BYTES: Final = 2 << 30
# The slowest decoder gave 20 times as many bytes of pixels on an idle machine.
_BYTES_PER_SECOND: Final = 1e6


def receive(connection: socket.socket) -> tuple[dict[str, Any], int | None] | None:
    """The next message, and the descriptor that came with it, if any; None when the other side is gone."""
    data, descriptors = b"", []
    with contextlib.suppress(ConnectionError):
        while not data.endswith(b"\n") and len(data) < LONGEST_MESSAGE_BYTES:
            more, received, _, _ = socket.recv_fds(connection, LONGEST_MESSAGE_BYTES, 1)
            descriptors += received
            if not more:
                break
            data += more
    if not data.endswith(b"\n"):
        for descriptor in descriptors:
            os.close(descriptor)
        return None
    return json.loads(data), descriptors[0] if descriptors else None


def send(connection: socket.socket, message: dict[str, Any], descriptor: int | None) -> None:
    """Send a message, with a descriptor if there is one, and close that."""
    try:
        socket.send_fds(connection, [json.dumps(message).encode() + b"\n"], [] if descriptor is None else [descriptor])
    finally:
        if descriptor is not None:
            os.close(descriptor)


def main() -> None:
    """Answer the requests that come from the socket whose descriptor is the only argument."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    _limit_memory()
    warnings.simplefilter("ignore")
    logging.disable()
    gc.set_threshold(50_000)
    while (request := receive(connection)) is not None:
        message, descriptor = request
        assert descriptor is not None
        answer, result = _answer(message, descriptor)
        signal.setitimer(signal.ITIMER_REAL, 0)
        with contextlib.suppress(ConnectionError):
            send(connection, answer, result)


def _end_with(connection: socket.socket) -> None:
    """End this process when the other side of its socket is gone, even in the middle of an instance."""
    poll = select.poll()
    poll.register(connection, 0)  # it is told of a hangup whatever it asks for
    poll.poll()
    os._exit(1)


def _limit_memory() -> None:
    import resource

    with contextlib.suppress(OSError, ValueError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))


def _answer(message: dict[str, Any], descriptor: int) -> tuple[dict[str, Any], int | None]:
    signal.setitimer(signal.ITIMER_REAL, message["seconds"])
    with open(descriptor, "rb", buffering=0) as file, contextlib.closing(_Source(file, message)) as source:
        convert = _decompressed if message["to"] in UNCOMPRESSED_TRANSFER_SYNTAXES else _compressed
        try:
            result, length, changes = convert(source, message)
        except MemoryError:
            return {"reason": f"it needs more than {_MEMORY_BYTES >> 20} MiB of memory to be converted"}, None
        except Unsuitable as error:
            return {"reason": str(error), "is_unsuitable": True}, None
        except SourceError as error:
            return {"reason": str(error), "retryable": error.retryable}, None
        except Exception as error:  # of pydicom or a codec
            return {"reason": f"it cannot be converted: {type(error).__name__}: {error}"[:1000]}, None
    return {"length": length, "changes": changes}, result


def _decompressed(source: DataSource, message: dict[str, Any]) -> tuple[int, int, tuple[str, ...]]:
    """An open file with the data set in the wanted transfer syntax, its length, and what was changed."""
    explicit, spool = Spool(), Spool()
    wanted = message["to"]
    try:
        changes = _decompress(source, message, explicit)
        if wanted == EXPLICIT_VR_LITTLE_ENDIAN:
            explicit, spool = spool, explicit
        elif wanted == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            write_converted(explicit.to_source(), EXPLICIT_VR_LITTLE_ENDIAN, wanted, spool.write)
        else:
            reencode_spooled(explicit, EXPLICIT_VR_LITTLE_ENDIAN, wanted, spool.write)
        return spool.to_descriptor(), spool.length_bytes, changes
    finally:
        explicit.discard()
        spool.discard()


def _decompress(source: DataSource, message: dict[str, Any], spool: Spool) -> tuple[str, ...]:
    layout = Layout(source)
    if layout.pixel_data_at is None:  # a report, say: only the name of its transfer syntax changes
        layout.write({}, lambda: None, spool.write)
        return ()
    decompression = Decompression(layout, message["from"])
    signal.setitimer(signal.ITIMER_REAL, message["seconds"] + decompression.length_bytes / _BYTES_PER_SECOND)
    decompression.run(spool.write)
    return decompression.changes


def _compressed(source: DataSource, message: dict[str, Any]) -> tuple[int, int, tuple[str, ...]]:
    """An open file with the compressed data set, and its length; nothing else is changed."""
    explicit, spool = Spool(), Spool()
    try:
        if message["from"] != EXPLICIT_VR_LITTLE_ENDIAN:
            write_converted(source, message["from"], EXPLICIT_VR_LITTLE_ENDIAN, explicit.write)
            source = explicit.to_source()
        compression = Compression(Layout(source), message["to"])
        length = compression.image.frames * compression.image.frame_bytes
        signal.setitimer(signal.ITIMER_REAL, message["seconds"] + 2 * length / _BYTES_PER_SECOND)
        compression.run(spool.write)
        result = spool.to_descriptor()
        written = TemporarySource(os.fdopen(os.dup(result), "rb", buffering=0), spool.length_bytes)
        if message["is_checked"] and not compression.is_right(written):
            os.close(result)
            raise Unsuitable(f"in {name_of(message['to'])} its pixels would not be the same")
        return result, spool.length_bytes, ()
    except CannotConvert as error:  # what is damaged is sent as it is, too
        raise Unsuitable(str(error)) from None
    finally:
        explicit.discard()
        spool.discard()


class _Source(TemporarySource):
    """The data set in a file that the other process has opened, and checks."""

    def __init__(self, file: Any, message: dict[str, Any]) -> None:
        super().__init__(file, message["length"])
        self.data_set_offset = message["offset"]


if __name__ == "__main__":
    main()
