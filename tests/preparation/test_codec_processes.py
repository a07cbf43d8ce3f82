"""Processes that decompress: what crashes, hangs or takes all memory costs one instance, and nothing is left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.errors import SourceChanged
from asyncstore.inputs.opening import instance_from, instance_from_bytes
from asyncstore.preparation import codec_processes
from asyncstore.preparation.codec_processes import CodecProcesses, NoCodecProcess
from asyncstore.preparation.reencode import CannotConvert
from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN
from tests.support import codecs
from tests.support.process import children, descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RLE = codecs.BUNDLED / "MR_small_RLE.dcm"
JPEG_LS = codecs.BUNDLED / "MR_small_jpeg_ls_lossless.dcm"
JPEG_LOSSLESS = codecs.BUNDLED / "SC_rgb_jpeg_gdcm.dcm"


@pytest.fixture
def processes() -> Iterator[CodecProcesses]:
    """One process; when it has ended, no child and no descriptor is left."""
    before = children(), descriptors()
    processes = CodecProcesses(1)
    yield processes
    processes.close()
    assert (children(), descriptors()) == before


def decompressed(processes: CodecProcesses, path: Path) -> bytes:
    source, _ = processes.recoded(instance_from(path), EXPLICIT_VR_LITTLE_ENDIAN)
    data = bytearray(source.length_bytes)
    source.read_into((memoryview(data),), 0)
    source.close()
    return bytes(data)


def test_no_process_starts_before_an_instance_needs_one_and_one_serves_many(processes: CodecProcesses) -> None:
    before = children()
    assert decompressed(processes, RLE) == decompressed(processes, RLE)
    assert len(children() - before) == 1


def test_an_instance_in_memory_is_decompressed_as_one_in_a_file_is(processes: CodecProcesses) -> None:
    in_file = instance_from(RLE)
    data = RLE.read_bytes()[in_file.data_set_offset :]
    in_memory = instance_from_bytes(data, transfer_syntax_uid=in_file.transfer_syntax_uid)
    source, _ = processes.recoded(in_memory, EXPLICIT_VR_LITTLE_ENDIAN)
    assert source.length_bytes == len(decompressed(processes, RLE))


def test_a_file_that_changed_after_it_was_scanned_is_not_decompressed(
    processes: CodecProcesses, tmp_path: Path
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(RLE.read_bytes())
    instance = instance_from(path)
    instance.let_go()
    path.write_bytes(RLE.read_bytes() + b"\0\0")
    with pytest.raises(SourceChanged):
        processes.recoded(instance, EXPLICIT_VR_LITTLE_ENDIAN)


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
def test_a_damaged_file_has_a_reason_and_the_next_one_is_decompressed(
    processes: CodecProcesses, tmp_path: Path, cut: float
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(RLE.read_bytes()[: int(len(RLE.read_bytes()) * cut)])
    with pytest.raises(CannotConvert):
        decompressed(processes, path)
    assert decompressed(processes, RLE)


@pytest.mark.parametrize("path", [JPEG_LOSSLESS, JPEG_LS])
def test_a_codec_that_crashes_costs_the_instances_that_need_it(
    processes: CodecProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    monkeypatch.syspath_prepend(codecs.broken_codec(tmp_path, codecs.CRASHES))
    with pytest.raises(CannotConvert, match=r"the codec crashed 3 times \(SIGSEGV\)"):
        decompressed(processes, path)
    assert decompressed(processes, RLE)


def test_a_codec_that_never_ends_is_ended(
    processes: CodecProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_processes, "_SECONDS", 3.0)
    monkeypatch.syspath_prepend(codecs.broken_codec(tmp_path, codecs.NEVER_ENDS))
    with pytest.raises(CannotConvert, match="it took too long"):
        decompressed(processes, JPEG_LOSSLESS)


@pytest.mark.parametrize(
    ("path", "reason"), [(JPEG_LOSSLESS, "cannot be decoded"), (JPEG_LS, "it needs more than 2048 MiB of memory")]
)
def test_a_codec_that_takes_all_memory_fails_instead_of_getting_it(
    processes: CodecProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path, reason: str
) -> None:
    monkeypatch.syspath_prepend(codecs.broken_codec(tmp_path, codecs.TAKES_ALL_MEMORY))
    with pytest.raises(CannotConvert, match=reason):
        decompressed(processes, path)


def test_a_missing_codec_is_told_by_the_name_of_what_to_install(
    processes: CodecProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('there is none')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CannotConvert) as caught:
        decompressed(processes, RLE)
    needed = "decompressing RLE Lossless needs a codec that is not installed: pip install '.[codecs]' in the source of "
    assert str(caught.value).startswith(needed)


def test_an_instance_whose_process_was_killed_is_tried_again(processes: CodecProcesses) -> None:
    before = children()
    expected = decompressed(processes, RLE)
    for _ in range(3):
        (process,) = children() - before
        os.kill(process, signal.SIGKILL)
        assert decompressed(processes, RLE) == expected


def test_closing_ends_a_process_at_work_and_its_thread(
    processes: CodecProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    marker = tmp_path / "begun"
    os.mkfifo(marker)
    begins = f"open({str(marker)!r}, 'w').close(); {codecs.NEVER_ENDS}"
    monkeypatch.syspath_prepend(codecs.broken_codec(tmp_path, begins))
    raised: list[Exception] = []

    def run() -> None:
        try:
            decompressed(processes, JPEG_LOSSLESS)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    marker.open().close()  # until the codec is at work
    processes.close()
    thread.join(20)
    assert not thread.is_alive()
    assert isinstance(raised[0], CannotConvert | NoCodecProcess)
    assert children() == before


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for a process by its descriptor")
def test_a_process_ends_when_the_program_that_asks_it_is_killed(tmp_path: Path) -> None:
    marker = tmp_path / "begun"
    os.mkfifo(marker)
    codecs.broken_codec(tmp_path, f"open({str(marker)!r}, 'w').close(); {codecs.NEVER_ENDS}")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from asyncstore.preparation.codec_processes import CodecProcesses\n"
        "from asyncstore.inputs.opening import instance_from\n"
        f"CodecProcesses(1).recoded(instance_from({str(JPEG_LOSSLESS)!r}), {EXPLICIT_VR_LITTLE_ENDIAN!r})"
    )
    with subprocess.Popen([sys.executable, "-c", script], env=_environment()) as asking:
        marker.open().close()
        (process,) = children(asking.pid)
        descriptor = os.pidfd_open(process)
        try:
            asking.kill()
            assert select.select([descriptor], [], [], 20)[0], "it goes on"
        finally:
            os.close(descriptor)


def _environment() -> dict[str, Any]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
