"""Pump: an iterator that blocks holds up nobody. What it hands on, and when, is shown with the feed."""

from __future__ import annotations

import contextvars
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from asyncstore.aio.pump import Pump
from tests.support.transfers import LIMIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.every_loop

PROGRAM = """
import queue, sys, anyio, asyncstore

async def main():
    entries = queue.Queue()
    entries.put(sys.argv[1])
    async with asyncstore.StorageSCP() as scp:
        peer = asyncstore.Peer(scp.host, scp.port)
        async with asyncstore.Transfer(peer, iter(entries.get, None)) as transfer:
            async for outcome in transfer:
                print(outcome.state)
                break

anyio.run(main, backend=sys.argv[2], backend_options={"use_uvloop": True} if sys.argv[3:] else {})
"""


@pytest.mark.parametrize("loop", ["asyncio", "asyncio uvloop", "trio"])
def test_a_program_ends_although_an_iterator_that_it_left_blocks(loop: str) -> None:
    words = [sys.executable, "-c", PROGRAM, "no such file", *loop.split()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    assert (done.returncode, done.stdout) == (0, "source-problem\n"), done.stderr


async def test_the_iterator_sees_the_context_of_who_started_it() -> None:
    name = contextvars.ContextVar("name", default="nobody")

    def entries() -> Iterator[str]:
        yield name.get()

    name.set("caller")
    pump = Pump(entries())
    pump.start()
    assert await pump.take() == ["caller"]
    assert await pump.take() == []
