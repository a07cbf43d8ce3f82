"""The connection of a worker: what need not be on the disk at once, and what must."""

from __future__ import annotations

import pytest

from asyncstore.cluster.link import unhurried
from asyncstore.ledger.postgresql.database import connect
from tests.support.transfers import on_one_loop

pytestmark = on_one_loop
SETTING = "SHOW synchronous_commit"


@pytest.mark.parametrize("setting", ["on", "local", "off"])
async def test_only_an_unhurried_transaction_need_not_be_on_the_disk_when_it_ends(database: str, setting: str) -> None:
    connection = await connect(database, "test", {"synchronous_commit": setting})
    try:
        async with unhurried(connection):
            await connection.execute("CREATE TEMP TABLE kept ()")
            assert await connection.fetchval(SETTING) == "off"
        assert await connection.fetchval(SETTING) == setting
        assert await connection.fetch("SELECT * FROM kept") == []
    finally:
        await connection.close()
