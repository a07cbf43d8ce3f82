"""The metrics file: always whole, up to date, never in the way of something else, and no reason for a run to end."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from asyncstore.cli import metering
from asyncstore.cli.metering import Meter, MetricsFile
from asyncstore.net.peer import Peer
from asyncstore.status import Status
from asyncstore.transfer.engine import Transfer
from tests.cli.output.test_metrics import families, values
from tests.support import command
from tests.support.peers import LOOPBACK
from tests.support.transfers import KeepingSCP, on_one_loop, peer_at, uid_of, write_files

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from asyncstore.services.storage_scp import Arrival

PEER = Peer("pacs.example", 104, "ARCHIVE")


def send(port: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return command.run("storescu", LOOPBACK, port, *arguments)


@on_one_loop
async def test_a_run_leaves_its_last_numbers_and_its_exit_code(tmp_path: Path) -> None:
    def answer(arrival: Arrival) -> Status:
        return Status(0xA900 if arrival.request.affected_sop_instance_uid == uid_of(1) else 0)

    write_files(tmp_path / "in", 3)
    file = tmp_path / "in" / "night.prom"  # one's own file is not sent
    async with KeepingSCP(answer) as scp:
        done = await anyio.to_thread.run_sync(lambda: send(scp.port, "--metrics-file", file, tmp_path / "in"))
    assert done.returncode == 3
    text = file.read_text()
    states = {
        sample.labels["state"]: sample.value
        for sample in families(text)["asyncstore_instances"].samples
        if sample.value
    }
    assert states == {"stored": 2, "failed": 1}
    numbers = values(text)
    assert (numbers["asyncstore_finished"], numbers["asyncstore_exit_code"]) == (1, 3)
    assert numbers["asyncstore_answers_total"] == 3
    assert numbers["asyncstore_latest_answer_timestamp_seconds"] > numbers["asyncstore_start_timestamp_seconds"]
    assert sorted(os.listdir(tmp_path / "in")) == ["000001.dcm", "000002.dcm", "000003.dcm", "night.prom"]


class NotedMeter(Meter):
    """Says when it has written that an instance is in flight."""

    def __init__(self, path: str, peer: Peer) -> None:
        super().__init__(path, peer)
        self.written = anyio.Event()

    async def _write(self, *, is_last: bool = False) -> None:
        await super()._write(is_last=is_last)
        if self._now.view.in_flight:
            self.written.set()


@pytest.fixture
def meter(tmp_path: Path) -> NotedMeter:
    (tmp_path / "metrics").mkdir()
    meter = NotedMeter(str(tmp_path / "metrics" / "run.prom"), PEER)
    meter.begin()
    return meter


@on_one_loop
async def test_while_it_runs_the_numbers_are_those_of_now(
    meter: NotedMeter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "_EVERY_SECONDS", 0.01)
    may_answer = anyio.Event()

    async def answer() -> Status:
        await may_answer.wait()
        return Status(0)

    async with KeepingSCP(lambda _: answer()) as scp:
        transfer = Transfer(peer_at(scp), write_files(tmp_path / "in", 1))
        with anyio.fail_after(60):
            async with meter.watching(transfer), transfer:
                await meter.written.wait()
                numbers = values((tmp_path / "metrics" / "run.prom").read_text())
                may_answer.set()
                assert len([outcome async for outcome in transfer]) == 1
    assert (numbers["asyncstore_instances_in_flight"], numbers["asyncstore_associations_open"]) == (1, 1)
    assert (numbers["asyncstore_answers_total"], numbers["asyncstore_finished"]) == (0, 0)
    started, answered = (numbers[f"asyncstore_{name}_timestamp_seconds"] for name in ("start", "latest_answer"))
    assert started == answered


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no-such-directory/run.prom", "No such file or directory"),
        ("scan.dcm", "it is not a file of metrics, and is left as it is"),
        (".", "it is not a file of metrics, and is left as it is"),
    ],
)
def test_a_file_that_cannot_be_written_ends_the_run_before_it_begins(tmp_path: Path, name: str, reason: str) -> None:
    (path,) = write_files(tmp_path, 1)
    os.rename(path, tmp_path / "scan.dcm")
    content = (tmp_path / "scan.dcm").read_bytes()
    done = command.run("storescu", LOOPBACK, 1, "--metrics-file", name, path, directory=tmp_path)
    assert (done.returncode, done.stderr) == (6, f"E: cannot write the metrics {name}: {reason}\n")
    assert (tmp_path / "scan.dcm").read_bytes() == content


def test_a_device_is_no_file_of_metrics() -> None:
    with pytest.raises(OSError, match="not a file of metrics"):
        MetricsFile(os.devnull).check()


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "here.prom").symlink_to("there.prom")
    MetricsFile(str(tmp_path / "here.prom")).write("text\n")
    assert (tmp_path / "here.prom").is_symlink()
    assert (tmp_path / "there.prom").read_text() == "text\n"


@on_one_loop
async def test_a_file_that_cannot_be_written_any_more_is_told_once_and_tried_again(
    meter: Meter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "metrics"
    (directory / "run.prom").unlink()
    directory.rmdir()
    with caplog.at_level(logging.WARNING, "asyncstore"):
        await meter._write()
        await meter._write()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"cannot write the metrics {directory}/run.prom: No such file or directory"
    directory.mkdir()
    await meter.finish(Transfer(PEER, []).report, 0)
    assert values((directory / "run.prom").read_text())["asyncstore_finished"] == 1


def test_a_late_thread_does_not_take_the_last_numbers_away(tmp_path: Path) -> None:
    file = MetricsFile(str(tmp_path / "run.prom"))
    file.write("last\n", is_last=True)
    file.write("late\n")
    assert (tmp_path / "run.prom").read_text() == "last\n"


@on_one_loop
async def test_a_file_system_that_hangs_does_not_hold_up_the_end(
    meter: Meter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "_END_SECONDS", 0.01)
    may_go_on = threading.Event()
    monkeypatch.setattr(MetricsFile, "write", lambda *_, **__: may_go_on.wait(60))
    try:
        with caplog.at_level(logging.WARNING, "asyncstore"), anyio.fail_after(60):
            await meter.finish(Transfer(PEER, []).report, 0)
    finally:
        may_go_on.set()
    assert "the file system does not answer" in caplog.text


def test_the_metrics_need_a_file_of_their_own(tmp_path: Path) -> None:
    for other in ("--report", "--log-file"):
        file = tmp_path / "run.csv"
        done = command.run("storescu", LOOPBACK, 1, tmp_path, other, file, "--metrics-file", file)
        assert done.returncode == 2
        assert "the metrics file must be a file of its own" in done.stderr
