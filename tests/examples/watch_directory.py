"""Sends each file that is put into a directory, until Ctrl-C. Nothing is moved or deleted there.

    python watch_directory.py incoming pacs.example 11112 ARCHIVE

A file is sent once it has kept its size and modification time from one look to the next, so a file that is still being
copied waits. The ledger `incoming.db` beside the directory keeps what is stored: begin again at any time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

import asyncstore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LOOK_SECONDS = 1.0


def stamps(directory: str) -> dict[str, tuple[int, int]]:
    """Size and modification time of each regular file in a directory and below it, by its path."""
    found = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            with contextlib.suppress(OSError):  # it has gone again
                status = os.stat(path)
                if stat.S_ISREG(status.st_mode):
                    found[path] = (status.st_size, status.st_mtime_ns)
    return found


async def arriving(directory: str, look_seconds: float = LOOK_SECONDS) -> AsyncIterator[str]:
    """Each new or changed file in a directory, for ever."""
    taken: dict[str, tuple[int, int]] = {}
    before: dict[str, tuple[int, int]] = {}
    while True:
        now = await anyio.to_thread.run_sync(stamps, directory)
        for path, stamp in now.items():
            if before.get(path) == stamp != taken.get(path):
                taken[path] = stamp
                yield path
        taken = {path: stamp for path, stamp in taken.items() if path in now}
        before = now
        await anyio.sleep(look_seconds)


class Say(asyncstore.Observer):
    """Prints when the archive takes nothing, and when it takes instances again."""

    def on_pause(self, waiting: asyncstore.Waiting) -> None:
        print(waiting, flush=True)

    def on_resume(self) -> None:
        print("sending again", flush=True)


async def main(directory: str, peer: asyncstore.Peer) -> None:
    """Watch until SIGINT or SIGTERM; what is in flight is finished then."""
    ledger = f"{directory.rstrip(os.sep)}.db"
    options = asyncstore.TransferOptions(retry=asyncstore.RetryPolicy.for_ledger(outage_seconds=7 * 24 * 3600.0))
    async with anyio.create_task_group() as group:
        async with asyncstore.Transfer(
            peer, arriving(directory), options=options, ledger=ledger, observer=Say()
        ) as transfer:
            group.start_soon(drain_on_signal, transfer)
            print(f"watching {directory}", flush=True)
            async for outcome in transfer:
                print(outcome.state, outcome.path, outcome.reason, flush=True)
        group.cancel_scope.cancel()
    print(f"{transfer.report.stored} stored, {transfer.report.failed} failed")


async def drain_on_signal(transfer: asyncstore.Transfer) -> None:
    """Stop the transfer at the first SIGINT or SIGTERM."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            transfer.drain()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], asyncstore.Peer(sys.argv[2], int(sys.argv[3]), ae_title=sys.argv[4]))
