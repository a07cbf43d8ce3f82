"""Runs a whole process and says what it cost; knows the machine it runs on.

Nothing here knows DICOM. Seconds are wall clock from the start of the process to its end, CPU seconds are the process's
own (os.wait4), and the peak of resident memory is the kernel's high-water mark of the running program.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

HERE: Final = Path(__file__).resolve().parent
PROJECT: Final = HERE.parent
_SAMPLE_SECONDS: Final = 0.01
IN_MEMORY: Final = "The files were in memory"


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a process came to; `exit_code` is negative where a signal ended it."""

    seconds: float
    user_seconds: float
    system_seconds: float
    peak_rss_bytes: int
    exit_code: int
    timed_out: bool
    output: str

    @property
    def cpu_seconds(self) -> float:
        """User and system time together."""
        return self.user_seconds + self.system_seconds


class _PeakMemory(threading.Thread):
    """Follows VmHWM of a process until it ends.

    ru_maxrss would not do: it keeps what the process was before exec, which is a copy of this interpreter.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak_bytes = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(_SAMPLE_SECONDS):
            with contextlib.suppress(OSError, ValueError, IndexError):
                status = Path(f"/proc/{self.pid}/status").read_text()
                self.peak_bytes = int(status.split("VmHWM:", 1)[1].split(None, 1)[0]) * 1024


def run_process(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path = PROJECT,
    timeout_seconds: float = 900.0,
) -> Run:
    """Run `command` to its end and measure it; what it prints is kept, the last 4 KB of it."""
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=directory
        )
        memory = _PeakMemory(process.pid)
        memory.start()
        overdue = threading.Event()

        def end() -> None:
            overdue.set()
            os.kill(process.pid, signal.SIGKILL)

        timer = threading.Timer(timeout_seconds, end)
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            timer.cancel()
            memory.ended.set()
            memory.join()
        seconds = time.perf_counter() - started
        # Popen must not wait for a process that is already reaped.
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(max(output.tell() - 4096, 0))
        return Run(
            seconds=seconds,
            user_seconds=usage.ru_utime,
            system_seconds=usage.ru_stime,
            peak_rss_bytes=memory.peak_bytes or usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            exit_code=process.returncode,
            timed_out=overdue.is_set(),
            output=output.read().decode(errors="replace"),
        )


def end_process(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """End a process that was started here: asked first, then killed."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def background(
    command: Sequence[str],
    ports: Sequence[int],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path = PROJECT,
    output: Path | None = None,
    at_once: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs while the block does; the block begins when it listens on all of `ports`.

    `at_once` kills it after the block, for one that takes seconds to end and has nothing to lose.
    """
    with open(output or os.devnull, "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=directory
        )
        try:
            for port in ports:
                wait_until_listening(process, port)
            yield process
        finally:
            if at_once:
                process.kill()
            end_process(process)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    """Ask the kernel's tables, because a connection for trial would be an association to the receiver."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    return True
    if not Path("/proc/net/tcp").exists():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
    return False


def wait_until_listening(process: subprocess.Popen[bytes], port: int, timeout_seconds: float = 30.0) -> None:
    """Return when somebody listens on `port`; RuntimeError when the process ends first or time is up."""
    deadline = time.monotonic() + timeout_seconds
    while not _listens(port):
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode} before it listened on port {port}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} does not listen on port {port}")
        time.sleep(0.02)


def seconds_to_first_byte(
    command: Sequence[str],
    listener: socket.socket,
    *,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = 900.0,
) -> float | None:
    """How long a sender takes from its start until its first byte arrives at `listener`; it is ended then."""
    listener.settimeout(timeout_seconds)
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=PROJECT,
    )
    try:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(timeout_seconds)
            return time.perf_counter() - started if connection.recv(1) else None
    except TimeoutError:
        return None
    finally:
        end_process(process)


def drop_from_page_cache(paths: Iterable[Path], *, everything: bool) -> str:
    """Make the files cold; returns how as a sentence: by the kernel's drop_caches where permitted, else file by file.

    `everything` empties the whole machine's cache, directories and inodes too; without it only the files are named.
    Files on a RAM disk stay in memory: it says so then.
    """
    # Pages that are not written yet cannot be dropped.
    os.sync()
    try:
        if not everything:
            raise PermissionError
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        stay = [_stays_in_memory(path) for path in paths]
        if sum(stay) > len(stay) / 2:
            return f"{IN_MEMORY}, since they are not on a disk: set ASYNCSTORE_BENCHMARK_DISK."
        return "Page cache emptied by posix_fadvise DONTNEED."
    return "Page cache emptied by drop_caches."


def _stays_in_memory(path: Path) -> bool:
    """Drop the pages of one file, and say whether they are still there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return bool(os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT))
    except BlockingIOError:
        return False
    except OSError:  # the file system cannot tell, as that of a RAM disk
        return True
    finally:
        os.close(descriptor)


def output_of(command: Sequence[str]) -> str | None:
    """What a command prints, or None where it does not exist or takes too long."""
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False, cwd=PROJECT
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout + result.stderr


@cache
def native_program(name: str) -> str | None:
    """The path of a compiled program, or None.

    pynetdicom and python-gdcm install scripts that are called storescu, storescp and gdcmscu as DCMTK's and GDCM's
    programs are: those are passed over. Debian installs Orthanc where only root looks.
    """
    for directory in [*os.get_exec_path(), "/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin"]:
        path = Path(directory, name)
        with contextlib.suppress(OSError):
            if os.access(path, os.X_OK) and path.is_file():
                with path.open("rb") as file:
                    if file.read(2) != b"#!":
                        return str(path)
    return None


def machine() -> dict[str, object]:
    """What the numbers were measured on."""
    model = platform.processor()
    memory_bytes = 0
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    with contextlib.suppress(OSError, ValueError, AttributeError):
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_bytes": memory_bytes,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
