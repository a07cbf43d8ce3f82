"""A web service that stores what is posted to it, over associations that stay open between requests.

    python web_service.py 8080 pacs.example 11112 ARCHIVE
    curl --data-binary @ct.dcm http://localhost:8080/instances

Each POST has one DICOM file as its body. The answer is 200 with a JSON object once the archive has the instance, 502 if
it has not, 400 if the body is not a DICOM file. The HTTP here is the least that works: in a web framework, a handler
calls `await archive.store(...)` in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import signal
import sys

import asyncstore

CT, MR, SECONDARY_CAPTURE = (f"1.2.840.10008.5.1.4.1.1.{number}" for number in (2, 4, 7))
SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]  # Explicit and Implicit VR Little Endian
CONTEXTS = [(sop_class, SYNTAXES) for sop_class in (CT, MR, SECONDARY_CAPTURE)]
IDLE_SECONDS = 20.0  # many archives abort an association that says nothing for 30 seconds: we release it before
MAXIMUM_BODY_BYTES = 512 * 1024 * 1024

Waiting = tuple[asyncstore.Instance, "asyncio.Future[asyncstore.Outcome]"]


class Archive:
    """Up to `associations` to one peer: opened when they are needed, kept open, and opened again when they end."""

    def __init__(self, peer: asyncstore.Peer, *, associations: int = 4) -> None:
        self._peer = peer
        self._waiting: asyncio.Queue[Waiting] = asyncio.Queue()
        self._associations = associations
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Archive:
        # An association is entered and left by one task, so each has a task of its own.
        self._tasks = [asyncio.create_task(self._keep_one()) for _ in range(self._associations)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def store(self, instance: asyncstore.Instance) -> asyncstore.Outcome:
        """Store one instance. Raises AssociateError or AssociationLost if the archive cannot be reached."""
        result: asyncio.Future[asyncstore.Outcome] = asyncio.get_running_loop().create_future()
        await self._waiting.put((instance, result))
        return await result

    async def _keep_one(self) -> None:
        while True:
            waiting: Waiting | None = await self._waiting.get()
            while waiting is not None:
                waiting = await self._store_on_a_new_association(waiting)

    async def _store_on_a_new_association(self, waiting: Waiting | None) -> Waiting | None:
        """Store this instance and those that come; returns one that came when the association had ended already."""
        try:
            async with asyncstore.associate(self._peer, CONTEXTS, calling_ae_title="WEB") as association:
                while waiting is not None:
                    instance, result = waiting
                    outcome = await association.store(instance)
                    if not result.cancelled():  # the client may have gone
                        result.set_result(outcome)
                    waiting = await self._next_within(IDLE_SECONDS)
                    if not association.is_open:
                        return waiting
        except asyncstore.AsyncStoreError as error:
            if waiting is not None and not waiting[1].done():
                waiting[1].set_exception(error)
        return None

    async def _next_within(self, seconds: float) -> Waiting | None:
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self._waiting.get(), seconds)
        return None


async def answer_to(method: str, path: str, body: bytes, archive: Archive) -> tuple[int, dict[str, object]]:
    """The status and the JSON object for one request."""
    if (method, path) != ("POST", "/instances"):
        return 404, {"error": "POST a DICOM file to /instances"}
    try:
        instance = asyncstore.instance_from_bytes(body)
    except asyncstore.SourceError as error:
        return 400, {"error": str(error)}
    try:
        outcome = await archive.store(instance)
    except asyncstore.AsyncStoreError as error:
        return 502, {"error": str(error), "retryable": error.retryable}
    return (200 if outcome.is_stored else 502), {
        "sop_instance_uid": instance.sop_instance_uid,
        "state": outcome.state.value,
        "reason": outcome.reason,
        "retryable": outcome.retryable,
    }


async def serve_one(archive: Archive, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read one HTTP request, and answer it."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # the client has gone
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            length = int(fields.get("content-length", 0))
            if not 0 <= length <= MAXIMUM_BODY_BYTES:
                raise ValueError("the body is too long")
            if fields.get("expect") == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            status, answer = await answer_to(method, path, await reader.readexactly(length), archive)
        except (ValueError, asyncio.LimitOverrunError) as error:
            status, answer = 400, {"error": f"not a request that is understood here: {error}"}
        content = json.dumps(answer).encode()
        writer.write(
            f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode()
        )
        writer.write(content)
        await writer.drain()
    writer.close()


async def main(port: int, peer: asyncstore.Peer) -> None:
    """Serve until SIGINT or SIGTERM; the associations are released then."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with Archive(peer) as archive:
        server = await asyncio.start_server(functools.partial(serve_one, archive), "127.0.0.1", port)
        async with server:
            print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
            await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), asyncstore.Peer(sys.argv[2], int(sys.argv[3]), ae_title=sys.argv[4])))
