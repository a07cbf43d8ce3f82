"""The file that controls a run: its lines, when they are carried out, and what is said of the others."""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from asyncstore.cli.control import Control
from asyncstore.net.peer import Peer
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.status import SUCCESS, Status
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.limits import Limits, association_counts, rates
from tests.cli.commands.test_storescu import beside, copies

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Awaitable
    from pathlib import Path

    from asyncstore.services.storage_scp import Arrival

MIB = 1024**2


class Controlled:
    """A transfer that does not run, and the file that controls it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.transfer = Transfer(Peer("pacs.example", 104), [])
        self.control = Control(str(path), self.transfer)
        self._mtime_ns = 10**18

    async def says(self, text: str, *, is_first: bool = False) -> Limits:
        """The limits after the file has come to say this."""
        self.path.write_text(text)
        self._mtime_ns += 1
        os.utime(self.path, ns=(self._mtime_ns, self._mtime_ns))
        await self.control.look(is_first=is_first)
        return self.transfer.limits

    @property
    def is_stopped(self) -> bool:
        return self.transfer._destination.is_stopped


@pytest.fixture
def controlled(tmp_path: Path) -> Controlled:
    return Controlled(tmp_path / "run.ctl")


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", Limits()),
        ("bwlimit 10M", Limits(10.0 * MIB)),
        ("BWLIMIT\t10M\r\n", Limits(10.0 * MIB)),
        ("bwlimit 08:00,20M 18:00,off", Limits(rates("08:00,20M 18:00,off"))),
        ("associations 2\n", Limits(associations=association_counts("2"))),
        ("associations auto\n", Limits(associations=association_counts("auto"))),
        ("pause", Limits(is_paused=True)),
        ("pause\nresume\n", Limits()),
        ("# bwlimit 1M\n\nbwlimit 10M  # by day\npause\n", Limits(10.0 * MIB, is_paused=True)),
        ("bwlimit 1M\nbwlimit 2M\nbwlimit off\n", Limits()),
    ],
)
@pytest.mark.anyio
async def test_its_lines_are_carried_out_in_order(controlled: Controlled, text: str, limits: Limits) -> None:
    assert await controlled.says(text) == limits
    assert not controlled.is_stopped


@pytest.mark.anyio
async def test_what_it_does_not_mention_stays_as_it_is(controlled: Controlled) -> None:
    await controlled.says("bwlimit 10M")
    await controlled.says("pause")
    assert await controlled.says("associations 3") == Limits(10.0 * MIB, association_counts("3"), is_paused=True)
    controlled.path.unlink()
    await controlled.control.look()
    assert await controlled.says("resume") == Limits(10.0 * MIB, association_counts("3"))


@pytest.mark.anyio
async def test_it_is_read_again_only_when_it_has_changed(controlled: Controlled) -> None:
    await controlled.says("pause")
    controlled.transfer.limit(Limits())
    await controlled.control.look()
    assert controlled.transfer.limits == Limits()


@pytest.mark.anyio
async def test_a_stop_drains_unless_it_was_there_before(
    controlled: Controlled, caplog: pytest.LogCaptureFixture
) -> None:
    await controlled.says("stop", is_first=True)
    assert not controlled.is_stopped
    assert "'stop' is passed over: it was there before the run began" in caplog.text
    await controlled.says("stop")
    assert controlled.is_stopped
    assert str(controlled.transfer._destination.stopped_because) == "the control file says stop"


@pytest.mark.parametrize(
    ("line", "because"),
    [
        ("hurry", "a line is bwlimit RATE, associations N, pause, resume or stop"),
        ("stop now", "a line is bwlimit RATE"),
        ("bwlimit", "'' is not a rate with its unit"),
        ("bwlimit 20", "'20' is not a rate with its unit"),
        ("associations many", "'many' is not auto or a number"),
    ],
)
@pytest.mark.anyio
async def test_a_line_that_makes_no_sense_is_told_once_and_the_others_hold(
    controlled: Controlled, line: str, because: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = f"bwlimit 10M\n{line}\npause\n"
    with caplog.at_level(logging.WARNING, "asyncstore"):
        assert await controlled.says(text) == Limits(10.0 * MIB, is_paused=True)
        await controlled.says(text)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"'{line}' is passed over: {because}" in record.getMessage()


@pytest.mark.anyio
async def test_a_line_is_told_without_its_control_characters(
    controlled: Controlled, caplog: pytest.LogCaptureFixture
) -> None:
    await controlled.says("\x1b[2Jhurry" + "y" * 500)
    (record,) = caplog.records
    assert "\x1b" not in record.getMessage()
    assert len(record.getMessage()) < 300 + len(str(controlled.path))


@pytest.mark.anyio
async def test_a_file_that_is_not_there_is_awaited(controlled: Controlled, caplog: pytest.LogCaptureFixture) -> None:
    await controlled.control.look(is_first=True)
    assert await controlled.says("pause") == Limits(is_paused=True)
    assert not caplog.records


@pytest.mark.anyio
async def test_a_file_that_cannot_be_read_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    controlled = Controlled(tmp_path)
    await controlled.control.look(is_first=True)
    await controlled.control.look()
    (record,) = caplog.records
    assert record.getMessage() == f"cannot read {tmp_path}: Is a directory"


def says(control: Path, text: str) -> None:
    """Let a file say something else at once: a run that looks sees no half of it."""
    written = control.with_suffix(".new")
    written.write_text(text)
    written.replace(control)


def test_a_run_is_paused_resumed_and_stopped_by_its_file(tmp_path: Path) -> None:
    """The receiver answers nothing for good until the file has said what comes next."""
    (tmp_path / "in").mkdir()
    copies(tmp_path / "in", 12)
    control = tmp_path / "run.ctl"
    says(control, "pause\n")

    def answer(arrival: Arrival) -> Status:
        arrived.append(arrival)
        if len(arrived) == 2:
            says(control, "bwlimit 1k\nstop\n")  # the third one takes two seconds: the run sees it before that
        return SUCCESS

    async def resume(process: subprocess.Popen[bytes]) -> None:
        says(control, "resume\nassociations 1\nbwlimit 2k\n")

    arrived: list[Arrival] = []
    scp = StorageSCP(on_store=answer)
    code, _, stderr = beside(scp, "-v", "-w", "1", "--control", control, tmp_path / "in", act=resume)
    assert code == 4
    assert 2 <= len(arrived) < 12
    assert re.search("Stopped early: the control file says stop; .* left: run it again\n", stderr)
    assert "I: Bandwidth: 2 KiB/s\n" in stderr
    assert "Aborting" not in stderr


def test_a_run_that_is_paused_from_the_beginning_opens_no_association(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    copies(tmp_path / "in", 1)
    done: list[int] = []

    async def terminate(process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        line = await anyio.to_thread.run_sync(process.stderr.readline)
        assert line == b"I: Sending nothing now: paused\n"
        done.append(scp.associations)
        process.terminate()

    control = tmp_path / "run.ctl"
    says(control, "pause\n")
    scp = StorageSCP()
    code, _, _ = beside(scp, "-v", "--control", control, tmp_path / "in", act=terminate)
    assert (code, done, scp.associations) == (143, [0], 0)


def test_a_run_that_has_used_up_its_time_ends_with_code_4(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    copies(tmp_path / "in", 20)

    async def slow(arrival: Arrival) -> Status:
        await anyio.sleep(0.5)
        return SUCCESS

    def answer(arrival: Arrival) -> Awaitable[Status]:
        return slow(arrival)

    scp = StorageSCP(on_store=answer)
    code, _, stderr = beside(scp, "-j", "1", "-w", "1", "--max-duration", "5s", tmp_path / "in")
    assert code == 4
    assert re.search("Stopped early: it has lasted as long as it may; .* left: run it again\n", stderr)
    assert 0 < scp.stored < 20
