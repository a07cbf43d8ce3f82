"""The senders that are compared, each at its best flags and with TCP_NODELAY=1.

    python benchmarks/peers.py          lists every sender and receiver: found or not, version, command
    python benchmarks/peers.py --smoke  sends a few tiny files with every sender that was found

DCMTK, gdcmscu and node are looked for on PATH (scripts of the same names are passed over), dicom-rs's dicom-storescu
there or where DICOM_RS_STORESCU says, pynetdicom in this interpreter, dcmjs-dimse in the `node_modules` directory that
ASYNCSTORE_DCMJS_DIMSE names.

Senders that need many milliseconds for each instance get a part of the files; what counts is then the rate.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if not __package__:
    # Run as a script: the project comes first, and this directory's profile.py must not stand for Python's own.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.certificates import certificates
from benchmarks.measure import HERE, native_program, output_of, run_process
from benchmarks.versions import (
    asyncstore_version,
    dcmjs_version,
    dcmtk_version,
    dicom_rs_program,
    dicom_rs_version,
    gdcm_version,
    pynetdicom_version,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.measure import Run

# pydicom is not loaded by --help, and neither by a transfer whose files need no conversion.
_ASYNCSTORE_WARM_UP: Final = (sys.executable, "-m", "asyncstore", "storescu", "--help")


@dataclass(frozen=True, slots=True)
class Sender:
    """A program that sends the files below a directory to a port of 127.0.0.1.

    `command` gets the port and the directory. `parts` says how many instances of a kind of file ("small", "ct", "big",
    "tree") it is given at most. `explains` tells of a run with another exit code than 0 whether all was sent. `warm_up`
    is a command that brings the program itself into memory.
    """

    name: str
    family: str
    command: Callable[[int, Path], list[str]]
    version: Callable[[], str | None]
    parts: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    explains: Callable[[Run], bool] = lambda run: False
    note: str = ""
    warm_up: tuple[str, ...] = ()

    def run(self, port: int, directory: Path, timeout_seconds: float) -> Run:
        """Send everything below `directory` and measure the process."""
        return run_process(
            self.command(port, directory), environment=self.full_environment(), timeout_seconds=timeout_seconds
        )

    def full_environment(self) -> dict[str, str]:
        """The environment that the sender runs in: TCP_NODELAY=1 on top of ours."""
        return {**os.environ, "TCP_NODELAY": "1", **self.environment}

    def succeeded(self, run: Run) -> bool:
        """Whether the sender says that it sent everything."""
        return not run.timed_out and (run.exit_code == 0 or self.explains(run))


def asyncstore(name: str, *options: str) -> Sender:
    """A row of our own: storescu with these options on top."""

    def command(port: int, directory: Path) -> list[str]:
        program = [sys.executable, "-m", "asyncstore", "storescu", "-r"]
        return [*program, *options, "127.0.0.1", str(port), str(directory)]

    return Sender(name, "asyncstore", command, asyncstore_version, warm_up=_ASYNCSTORE_WARM_UP)


def asyncstore_slow(name: str, *wrapper_options: str) -> Sender:
    """A row of our own over a slow source: 10 ms for each open and each read of a file (slow_files.py)."""

    def command(port: int, directory: Path) -> list[str]:
        program = [sys.executable, str(HERE / "slow_files.py"), "--root", str(directory), *wrapper_options, "--"]
        return [*program, "storescu", "-r", "-j", "8", "127.0.0.1", str(port), str(directory)]

    return Sender(name, "asyncstore", command, asyncstore_version, warm_up=_ASYNCSTORE_WARM_UP)


def asyncstore_tls(name: str, *options: str) -> Sender:
    """A row of our own over TLS, with certificates of both."""

    def command(port: int, directory: Path) -> list[str]:
        file = certificates().file
        keys = ["--tls-ca", file("ca.crt"), "--tls-cert", file("sender.crt"), "--tls-key", file("sender.key")]
        program = [sys.executable, "-m", "asyncstore", "storescu", "-r", *options, "--tls", *keys]
        return [*program, "127.0.0.1", str(port), str(directory)]

    return Sender(name, "asyncstore", command, asyncstore_version, warm_up=_ASYNCSTORE_WARM_UP)


def _dcmtk_tls() -> Sender:
    path = native_program("storescu") or "storescu"

    def command(port: int, directory: Path) -> list[str]:
        file = certificates().file
        keys = ["+tls", file("sender.key"), file("sender.crt"), "+cf", file("ca.crt")]
        options = ["+sd", "+r", "+fo", "-nh", "-pdu", "131072"]
        return [path, *options, *keys, "127.0.0.1", str(port), str(directory)]

    return Sender("DCMTK storescu +tls", "dcmtk", command, lambda: dcmtk_version("storescu"))


def _dicom_rs_tls(connections: int) -> Sender:
    def command(port: int, directory: Path) -> list[str]:
        file = certificates().file
        keys = ["--tls", "--key", file("sender.key"), "--cert", file("sender.crt"), "--add-certs", file("ca.crt")]
        options = ["--fail-first", "--never-transcode", "--max-pdu-length", "131072", "-c", str(connections)]
        program = dicom_rs_program() or "dicom-storescu"
        return [program, *options, *keys, f"ANY-SCP@127.0.0.1:{port}", str(directory)]

    note = "dicom-rs needs `cargo install dicom-storescu --features tls` for this row."
    return Sender(f"dicom-rs -c {connections} --tls", "dicom-rs", command, _dicom_rs_tls_version, note=note)


@cache
def _dicom_rs_tls_version() -> str | None:
    """The version of dicom-rs's dicom-storescu, or None if it was built without TLS."""
    program = dicom_rs_program()
    return dicom_rs_version() if program and "--tls" in (output_of([program, "--help"]) or "") else None


def _dcmtk(name: str, program: str, *options: str) -> Sender:
    path = native_program(program) or program

    def command(port: int, directory: Path) -> list[str]:
        return [path, "+sd", "+r", *options, "-pdu", "131072", "127.0.0.1", str(port), str(directory)]

    return Sender(name, "dcmtk", command, lambda: dcmtk_version(program), warm_up=(path, "--version"))


def _dicom_rs(connections: int) -> Sender:
    def command(port: int, directory: Path) -> list[str]:
        options = ["--fail-first", "--never-transcode", "--max-pdu-length", "131072", "-c", str(connections)]
        return [dicom_rs_program() or "dicom-storescu", *options, f"ANY-SCP@127.0.0.1:{port}", str(directory)]

    warm_up = (dicom_rs_program() or "dicom-storescu", "--version")
    return Sender(f"dicom-rs -c {connections}", "dicom-rs", command, dicom_rs_version, warm_up=warm_up)


def _gdcm_command(port: int, directory: Path) -> list[str]:
    program = native_program("gdcmscu") or "gdcmscu"
    return [program, "--store", "--call", "ANY-SCP", "-H", "127.0.0.1", "-p", str(port), "-r", "-i", str(directory)]


def _gdcm_ended_after_the_last(run: Run) -> bool:
    # It sends everything, waits for every answer, and then falls over its own release.
    return run.exit_code == -6 and "ProtocolStream as nullptr" in run.output


def _pynetdicom_command(port: int, directory: Path) -> list[str]:
    program = [sys.executable, "-m", "pynetdicom", "storescu", "-r", "-cx", "-pdu", "131072"]
    return [*program, "127.0.0.1", str(port), str(directory)]


def _dcmjs_command(port: int, directory: Path) -> list[str]:
    return ["node", str(HERE / "dcmjs_storescu.js"), str(port), "16", str(directory)]


def _senders() -> list[Sender]:
    return [
        asyncstore("asyncstore"),
        asyncstore("asyncstore -j 1", "-j", "1"),
        asyncstore("asyncstore -j 2", "-j", "2"),
        asyncstore("asyncstore -j 4", "-j", "4"),
        asyncstore("asyncstore -j 16", "-j", "16"),
        asyncstore("asyncstore -j 1 -w 16", "-j", "1", "-w", "16"),
        asyncstore("asyncstore -j 1 -w 1", "-j", "1", "-w", "1"),
        asyncstore_slow("asyncstore -j 8"),
        asyncstore_slow("asyncstore -j 8, inline reads", "--inline"),
        # -R is left out: it makes storescu read every file twice.
        _dcmtk("DCMTK storescu", "storescu", "+fo", "-nh"),
        _dcmtk("DCMTK dcmsend", "dcmsend", "+fo", "-nh", "-nuc", "-dn"),
        asyncstore_tls("asyncstore --tls"),
        asyncstore_tls("asyncstore -j 1 --tls", "-j", "1"),
        asyncstore_tls("asyncstore -j 4 --tls", "-j", "4"),
        _dcmtk_tls(),
        _dicom_rs_tls(1),
        _dicom_rs_tls(2),
        _dicom_rs_tls(4),
        _dicom_rs(1),
        _dicom_rs(2),
        _dicom_rs(4),
        _dicom_rs(16),
        Sender(
            "gdcmscu",
            "gdcm",
            _gdcm_command,
            gdcm_version,
            parts={"small": 100, "ct": 100, "tree": 100},
            explains=_gdcm_ended_after_the_last,
            note="gdcmscu 3.0 ends in an abort (SIGABRT) on release; a run that ended there counts as complete.",
        ),
        Sender(
            "pynetdicom",
            "pynetdicom",
            _pynetdicom_command,
            pynetdicom_version,
            parts={"small": 100, "ct": 100, "big": 1, "tree": 100},
            note="pynetdicom's exit code says nothing about its instances.",
        ),
        Sender(
            "dcmjs-dimse",
            "dcmjs-dimse",
            _dcmjs_command,
            dcmjs_version,
            parts={"small": 400, "ct": 100, "big": 1, "tree": 400},
            environment={"NODE_OPTIONS": "--max-old-space-size=8192"},
        ),
    ]


SENDERS: Final[dict[str, Sender]] = {sender.name: sender for sender in _senders()}


def smoke() -> int:
    """Send a few tiny files with every sender that was found; 1 when one of them failed."""
    from benchmarks.data import part, prepare
    from benchmarks.receivers import RECEIVERS, choose_receiver

    files = part(prepare("smoke-ct"), 3)
    failed = 0
    with RECEIVERS[choose_receiver("storescp", "asyncstore")].start() as endpoint:
        for sender in SENDERS.values():
            if sender.version() is None or sender.name.endswith("tls"):
                continue
            run = sender.run(endpoint.port, files.root, 60)
            good = sender.succeeded(run)
            failed += not good
            print(f"{sender.name:32}{'sent' if good else f'failed, exit {run.exit_code}: {run.output[-300:]}'}")
    return 1 if failed else 0


def main() -> int:
    """List the peers, or try them."""
    from benchmarks.receivers import RECEIVERS

    parser = argparse.ArgumentParser(description="List the senders and receivers that the benchmarks can use.")
    parser.add_argument("--smoke", action="store_true", help="send a few tiny files with each sender that was found")
    if parser.parse_args().smoke:
        return smoke()
    for sender in SENDERS.values():
        print(f"{sender.name:32}{sender.version() or 'not available'}")
        print(f"{'':32}{' '.join(sender.command(11112, Path('DIRECTORY')))}")
    for receiver in RECEIVERS.values():
        missing = receiver.missing()
        print(f"{receiver.name:32}{missing or receiver.description}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
