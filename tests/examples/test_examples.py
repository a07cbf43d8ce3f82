"""The examples do what the README says of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.from_thread
import anyio.to_thread
import pytest

import asyncstore
from tests.support import files
from tests.support.command import PROJECT
from tests.support.transfers import on_one_loop, write_files

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parent
READY_SECONDS = 60.0


@contextlib.contextmanager
def running(name: str, *arguments: str | Path | int) -> Iterator[subprocess.Popen[str]]:
    """An example at work; it must end by itself when the block does, after SIGTERM, and complain of nothing."""
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=READY_SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, errors) == (0, "")


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def request(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def stored_again(port: int, body: bytes) -> bool:
    """Post once more, as a client does that is told to try again."""
    status, answer = request(port, "POST", "/instances", body)
    return status == 200 or (answer["retryable"] and request(port, "POST", "/instances", body)[0] == 200)


@on_one_loop
async def test_the_web_service_stores_what_is_posted_over_a_few_associations_that_stay_open(tmp_path: Path) -> None:
    bodies = [Path(path).read_bytes() for path in write_files(tmp_path / "out", 12)]

    jpeg = files.dicom_file(meta=files.file_meta("1.2.840.10008.1.2.4.70"))

    def play() -> None:
        with running("web_service.py", 0, "127.0.0.1", scp.port, "ARCHIVE") as service:
            port = int(next_line(service).rpartition(" ")[2])
            for body in bodies:
                status, answer = request(port, "POST", "/instances", body)
                assert (status, answer["state"], answer["reason"]) == (200, "stored", "")
            assert request(port, "POST", "/instances", b"no DICOM file")[0] == 400
            assert request(port, "GET", "/instances")[0] == 404
            status, answer = request(port, "POST", "/instances", jpeg)
            assert (status, answer["state"]) == (502, "no-context")
            assert (scp.stored, scp.associations) == (12, 4)
            anyio.from_thread.run_sync(reset_all)
            assert stored_again(port, bodies[0])

    def reset_all() -> None:
        """What an archive does that restarts."""
        for association in tuple(scp._open):
            association.transport.close(reset=True)

    async with asyncstore.StorageSCP(ae_title="ARCHIVE", calling_ae_titles=["WEB"]) as scp:
        await anyio.to_thread.run_sync(play)


@on_one_loop
async def test_the_web_service_says_when_the_archive_cannot_be_reached(tmp_path: Path) -> None:
    (path,) = write_files(tmp_path, 1)
    async with asyncstore.StorageSCP() as scp:
        pass

    def play() -> None:
        with running("web_service.py", 0, "127.0.0.1", scp.port, "ARCHIVE") as service:
            port = int(next_line(service).rpartition(" ")[2])
            status, answer = request(port, "POST", "/instances", Path(path).read_bytes())
            assert (status, answer["retryable"]) == (502, True)

    await anyio.to_thread.run_sync(play)


@pytest.mark.timeout(180)  # it looks once a second, and twice before it takes a file
@on_one_loop
async def test_the_watcher_sends_what_comes_into_the_directory_and_nothing_twice(tmp_path: Path) -> None:
    first, second, third = write_files(tmp_path / "out", 3)
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    shutil.copy(first, incoming)

    def play(port: int) -> None:
        arguments = ("watch_directory.py", incoming, "127.0.0.1", port, "ARCHIVE")
        with running(*arguments) as watcher:
            assert next_line(watcher) == f"watching {incoming}"
            assert next_line(watcher) == f"stored {incoming / Path(first).name}"
            (incoming / "later").mkdir()
            shutil.copy(second, incoming / "later")
            assert next_line(watcher) == f"stored {incoming / 'later' / Path(second).name}"
        with running(*arguments) as watcher:
            assert next_line(watcher) == f"watching {incoming}"
            lines = {next_line(watcher), next_line(watcher)}
            assert lines == {f"resumed {path}" for path in incoming.rglob("*.dcm")}
            shutil.copy(third, incoming)
            assert next_line(watcher) == f"stored {incoming / Path(third).name}"

    async with asyncstore.StorageSCP() as scp:
        await anyio.to_thread.run_sync(play, scp.port)
    assert scp.stored == 3
    assert len(list(incoming.rglob("*.dcm"))) == 3
