"""Real SCPs on loopback, for as long as a `with` block lasts.

Every context manager here starts a program of somebody else on a free port, waits until it takes connections, and stops
it by its process group. What it received lies in `RunningPeer.received`, what it printed is `RunningPeer.output()`.
A peer that is not installed skips the test; with ASYNCSTORE_REQUIRE_PEERS set it fails the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from asyncstore.uids import VERIFICATION
from tests.support.command import environment, words
from tests.support.ports import LOOPBACK as LOOPBACK
from tests.support.ports import free_port as free_port

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping, Sequence

START_SECONDS = 60.0
STOP_SECONDS = 20.0
# Nothing is wanted of a peer at its end. Most do nothing special at SIGTERM, which may be held up or ignored; Orthanc
# takes three seconds for it.
AT_ONCE: Final = (signal.SIGKILL,)
REQUIRE_VARIABLE = "ASYNCSTORE_REQUIRE_PEERS"
DCMJS_VARIABLE = "ASYNCSTORE_DCMJS_DIMSE"
_ODIL_SCRIPT = Path(__file__).with_name("odil_scp.py")
_DCMJS_SCRIPT = Path(__file__).with_name("dcmjs_scp.js")


class PeerFailed(AssertionError):
    """A peer ended, or took no connection, while it was being started."""


def require(program: str, package: str) -> str:
    """The full path of a peer's program; skips or fails the test when it is not installed.

    `package` is what the message tells to install ("dcmtk"). Debian keeps servers in /usr/sbin, which is not on every
    user's PATH, so it is looked through too. Always start a peer by this path and never by its name: in an activated
    environment `storescu` is pynetdicom's and `gdcmscu` the one of python-gdcm.
    """
    found = (shutil.which(program, path=where) for where in [*os.get_exec_path(), "/usr/sbin", "/usr/local/sbin"])
    path = next((path for path in found if path is not None and not _is_python_script(Path(path))), None)
    if path is None:
        _missing(f"{program} is not installed: apt-get install {package}")
    return path


def _is_python_script(path: Path) -> bool:
    """True for what pip or pyenv put there."""
    with path.open("rb") as file:
        head = file.read(512)
    return head.startswith(b"#!") and (b"python" in head or b"pyenv" in head)


def require_dcmjs_dimse() -> tuple[str, Path]:
    """Node, and the folder of dcmjs-dimse in the `node_modules` folder that ASYNCSTORE_DCMJS_DIMSE names.

    This peer is optional: when the variable is not set, the test is skipped even where peers are required.
    """
    named = os.environ.get(DCMJS_VARIABLE)
    if not named:
        pytest.skip(f"{DCMJS_VARIABLE} is not set: npm install dcmjs-dimse, and name the node_modules folder there")
    module = Path(named).absolute() / "dcmjs-dimse"
    if not module.is_dir():
        pytest.fail(f"{DCMJS_VARIABLE} names {named}, where there is no dcmjs-dimse")
    return require("node", "nodejs"), module


def _missing(message: str) -> NoReturn:
    if os.environ.get(REQUIRE_VARIABLE):
        pytest.fail(f"{message} ({REQUIRE_VARIABLE} is set)")
    pytest.skip(message)


@dataclass(slots=True)
class RunningPeer:
    """A program that accepts associations on `host`:`port` under `ae_title`."""

    port: int
    ae_title: str
    process: subprocess.Popen[bytes]
    log: Path
    received: Path
    host: str = LOOPBACK
    stop_signals: Sequence[signal.Signals] = AT_ONCE

    def output(self) -> str:
        """What it has printed so far, stdout and stderr together."""
        return self.log.read_text(errors="replace")

    def received_files(self) -> list[Path]:
        """Every file that it has stored, by name; a file that is still being written may be among them."""
        return sorted(path for path in self.received.rglob("*") if path.is_file())

    def clear(self) -> None:
        """Delete the files that it has stored, so that one process can serve many tests."""
        for path in self.received_files():
            path.unlink()

    def stop(self) -> None:
        """End the program and what it forked: by each signal in turn, STOP_SECONDS apart. Stopping twice is fine."""
        for number in self.stop_signals:
            # A forked child of storescp outlives its parent and is in the parent's group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
                break


@contextlib.contextmanager
def _running(
    directory: Path,
    name: str,
    ae_title: str,
    command: Callable[[int], Sequence[str]],
    environment: Mapping[str, str] | None = None,
    stop_signals: Sequence[signal.Signals] = AT_ONCE,
) -> Iterator[RunningPeer]:
    """Start `command(port)` and wait until the port takes connections; another port is tried when it ends at once."""
    received = directory / "received"
    received.mkdir(parents=True, exist_ok=True)
    log = directory / f"{name}.log"
    for attempt in (1, 2, 3):
        port = free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        peer = RunningPeer(port, ae_title, process, log, received, stop_signals=stop_signals)
        try:
            if _wait_until_listening(peer, name, port):
                yield peer
                return
        finally:
            peer.stop()
        if attempt == 3:
            raise PeerFailed(f"{name} ended with {process.returncode}: {peer.output()[-2000:]}")


def _wait_until_listening(peer: RunningPeer, name: str, port: int) -> bool:
    """True once a connection was taken; False when the program has ended, because somebody took its port perhaps."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection((peer.host, port), timeout=1).close()
        except OSError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                peer.process.wait(0.02)
                return False
        else:
            return True
    raise PeerFailed(f"{name} took no connection within {START_SECONDS:g} s: {peer.output()[-2000:]}")


@contextlib.contextmanager
def dcmtk_storescp(
    directory: Path,
    *options: str,
    ignore: bool = False,
    fork: bool = True,
    accept_all: bool = True,
    no_delay: bool = True,
) -> Iterator[RunningPeer]:
    """DCMTK's storescp, which keeps what it receives bit by bit in `received`, or discards it with `ignore`.

    `options` go to the command line as they are ("--reject", "--max-pdu", "4096"). Without `fork` it serves one
    association at a time, without `accept_all` it takes uncompressed transfer syntaxes only, and without `no_delay` its
    answers wait for the delayed ACK as those of a stock storescp do.
    """
    program = require("storescp", "dcmtk")
    switches = [*(["--fork"] if fork else []), *(["+xa"] if accept_all else []), *options]
    where = ["--ignore"] if ignore else ["+B", "-od", str(directory / "received")]
    with _running(
        directory,
        "storescp",
        "STORESCP",
        lambda port: [program, *switches, *where, str(port)],
        {"TCP_NODELAY": "1"} if no_delay else None,
    ) as peer:
        yield peer


@contextlib.contextmanager
def pynetdicom_storescp(directory: Path, *options: str, ignore: bool = False) -> Iterator[RunningPeer]:
    """The storescp application of pynetdicom, in this Python; slow, and strict about what it decodes."""
    where = ["--ignore"] if ignore else ["-od", str(directory / "received")]
    with _running(
        directory,
        "pynetdicom",
        "STORESCP",
        lambda port: [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-ba", LOOPBACK, *where, *options],
    ) as peer:
        yield peer


@contextlib.contextmanager
def asyncstore_storescp(directory: Path, *options: str, ignore: bool = False) -> Iterator[RunningPeer]:
    """Our own storescp as a process: the other end for other people's senders, and for many instances."""
    where = ["--ignore"] if ignore else ["-od", str(directory / "received")]
    with _running(
        directory,
        "asyncstore",
        "STORESCP",
        lambda port: words("storescp", port, "-v", "-ba", LOOPBACK, *where, *options),
        environment(),
        stop_signals=(signal.SIGTERM, signal.SIGKILL),  # its summary is wanted
    ) as peer:
        yield peer


@contextlib.contextmanager
def dcmjs_scp(
    directory: Path,
    *,
    invoked: int = 16,
    performed: int = 16,
    hold: int = 4,
    maximum_length: int = 65536,
    tls: Mapping[str, str] | None = None,
    report_port: int = 0,
) -> Iterator[RunningPeer]:
    """dcmjs-dimse under node: an SCP with a real asynchronous operations window, which answers out of order.

    It answers the proposed window with `invoked` and `performed` at most, holds `hold` requests back (or those that
    came before a short silence) and answers the newest first. `output()` is a JSON line per request and response, with
    the Message ID and how many were outstanding. With `tls` (files: key, cert, ca) it demands a certificate. It commits
    to what it stored, and reports to STORESCU at `report_port`, or on the same association.
    """
    node, module = require_dcmjs_dimse()
    settings = {
        "directory": str(directory / "received"),
        "module": str(module),
        "invoked": invoked,
        "performed": performed,
        "hold": hold,
        "maximumLength": maximum_length,
        "tls": tls,
        "reportPort": report_port,
    }
    with _running(
        directory, "dcmjs", "DCMJS", lambda port: [node, str(_DCMJS_SCRIPT), json.dumps({**settings, "port": port})]
    ) as peer:
        yield peer


@contextlib.contextmanager
def odil_scp(directory: Path) -> Iterator[RunningPeer]:
    """odil's StoreSCP in the system's Python, one association at a time; its port is closed in between.

    This peer is optional: where that Python has no odil, the test is skipped even if peers are required.
    """
    python = "/usr/bin/python3"
    if not Path(python).exists() or subprocess.run([python, "-c", "import odil"], capture_output=True).returncode:
        pytest.skip("odil is not installed: apt-get install python3-odil")
    command = [python, str(_ODIL_SCRIPT)]
    with _running(directory, "odil", "ODIL", lambda port: [*command, str(port), str(directory / "received")]) as peer:
        yield peer


@dataclass(slots=True)
class RunningOrthanc(RunningPeer):
    """Orthanc, and its REST API on loopback."""

    http_port: int = 0
    _opener: urllib.request.OpenerDirector = field(
        default_factory=lambda: urllib.request.build_opener(urllib.request.ProxyHandler({}))
    )

    def get(self, path: str, data: bytes | None = None) -> bytes:
        """The body of GET `path`, or of POST when there is `data`."""
        url = f"http://{self.host}:{self.http_port}{path}"
        with self._opener.open(url, data, timeout=START_SECONDS) as response:
            body: bytes = response.read()
            return body

    def instance_ids(self) -> list[str]:
        """Orthanc's own identifiers of everything that it holds."""
        identifiers: list[str] = json.loads(self.get("/instances"))
        return identifiers

    def sop_instance_uids(self) -> set[str]:
        """The SOP Instance UIDs of everything that it holds."""
        records: list[dict[str, Any]] = json.loads(self.get("/instances?expand"))
        return {record["MainDicomTags"]["SOPInstanceUID"] for record in records}

    def instance_file(self, sop_instance_uid: str) -> bytes:
        """One instance as the DICOM file that Orthanc keeps; KeyError when it holds no such instance."""
        found: list[dict[str, Any]] = json.loads(self.get("/tools/lookup", sop_instance_uid.encode()))
        for record in found:
            if record["Type"] == "Instance":
                return self.get(f"/instances/{record['ID']}/file")
        raise KeyError(sop_instance_uid)

    def clear(self) -> None:
        """Delete everything that it holds, so that one Orthanc can serve many tests."""
        for identifier in self.instance_ids():
            url = f"http://{self.host}:{self.http_port}/instances/{identifier}"
            self._opener.open(urllib.request.Request(url, method="DELETE"), timeout=START_SECONDS).close()


def _orthanc_settings(directory: Path, port: int, http_port: int, extra: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Name": "asyncstore tests",
        "StorageDirectory": str(directory / "received"),
        "IndexDirectory": str(directory / "index"),
        "HttpPort": http_port,
        "HttpBindAddresses": [LOOPBACK],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomPort": port,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "UnknownSopClassAccepted": True,
        "OverwriteInstances": True,
        "Plugins": [],
        "SaveJobs": False,
        **extra,
    }


@contextlib.contextmanager
def orthanc(directory: Path, **settings: Any) -> Iterator[RunningOrthanc]:
    """Orthanc with an empty archive of its own; `settings` override its configuration (`OverwriteInstances=False`).

    Its start takes about a second: share one among the tests of a module, and `clear()` it between them.
    """
    program = require("Orthanc", "orthanc")
    configuration = directory / "orthanc.json"
    http_port = 0

    def command(port: int) -> list[str]:
        nonlocal http_port
        http_port = free_port()
        configuration.write_text(json.dumps(_orthanc_settings(directory, port, http_port, settings)))
        return [program, str(configuration)]

    with _running(directory, "orthanc", "ORTHANC", command) as peer:
        if not _wait_until_listening(peer, "orthanc", http_port):  # which it does after it takes associations
            raise PeerFailed(f"orthanc has no REST API: {peer.output()[-2000:]}")
        yield RunningOrthanc(
            peer.port, peer.ae_title, peer.process, peer.log, peer.received, peer.host, http_port=http_port
        )


@dataclass(frozen=True, slots=True)
class ReceivedByPynetdicom:
    """One C-STORE-RQ as pynetdicom decoded it; `data_set` has the bytes that came."""

    message_id: int
    context_id: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    priority: int
    data_set: bytes


@dataclass(slots=True)
class InProcessSCP:
    """pynetdicom's server in threads of this process."""

    port: int
    received: list[ReceivedByPynetdicom]
    host: str = LOOPBACK
    ae_title: str = "PYNETDICOM"


@contextlib.contextmanager
def pynetdicom_server(
    *,
    status: int = 0x0000,
    maximum_length: int = 16382,
    called_ae_title: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    on_user_identity: Callable[[Any], tuple[bool, bytes | None]] | None = None,
) -> Iterator[InProcessSCP]:
    """pynetdicom in this process: starts in milliseconds, keeps every request in memory, answers all with `status`.

    With `called_ae_title` it rejects whoever calls another, with `ssl_context` it is called by TLS, and
    `on_user_identity` decides about the user identities that come.
    """
    from pynetdicom import AE, AllStoragePresentationContexts, evt
    from pynetdicom._globals import ALL_TRANSFER_SYNTAXES

    received: list[ReceivedByPynetdicom] = []

    def handle_store(event: Any) -> int:
        request, context = event.request, event.context
        received.append(
            ReceivedByPynetdicom(
                request.MessageID,
                context.context_id,
                str(request.AffectedSOPClassUID),
                str(request.AffectedSOPInstanceUID),
                str(context.transfer_syntax),
                event.assoc.requestor.ae_title.strip(),
                request.Priority,
                request.DataSet.getvalue(),
            )
        )
        return status

    entity = AE(ae_title=called_ae_title or "PYNETDICOM")
    entity.require_called_aet = called_ae_title is not None
    entity.maximum_pdu_size = maximum_length
    for context in AllStoragePresentationContexts:
        assert context.abstract_syntax is not None
        entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    entity.add_supported_context(VERIFICATION)
    handlers: list[Any] = [(evt.EVT_C_STORE, handle_store)]
    if on_user_identity is not None:
        handlers.append((evt.EVT_USER_ID, on_user_identity))
    server = entity.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers, ssl_context=ssl_context)
    assert server is not None
    try:
        yield InProcessSCP(server.server_address[1], received)
    finally:
        server.shutdown()


@contextlib.contextmanager
def dcmtk_qrscp(directory: Path) -> Iterator[RunningPeer]:
    """DCMTK's dcmqrscp with an empty archive; several associations at once make it lose instances."""
    program = require("dcmqrscp", "dcmtk")
    configuration = directory / "dcmqrscp.cfg"

    def settings(port: int) -> str:
        tables = "".join(f"{name}Table BEGIN\n{name}Table END\n" for name in ("Host", "Vendor"))
        area = f"AETable BEGIN\nQR {directory / 'received'} RW (1000, 1024mb) ANY\nAETable END\n"
        return f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n{tables}{area}"

    def words(port: int) -> list[str]:
        configuration.write_text(settings(port))
        return [program, "-c", str(configuration)]

    with _running(directory, "dcmqrscp", "QR", words) as peer:
        yield peer
