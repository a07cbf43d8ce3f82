"""The ceiling: how fast the machine moves the same bytes when nobody thinks about DICOM.

    python benchmarks/limit.py                 the big and the ct files, five rounds
    python benchmarks/limit.py --set ct --connections 2
    python benchmarks/limit.py --receiver storescp --associations 1 2 4 8
    python benchmarks/limit.py --smoke

The files are framed beforehand into P-DATA-TF PDUs as a Storage SCU would send them (PS3.8 9.3.5): a C-STORE-RQ, then
the data set in fragments that fill the receiver's maximum length. A plain loop pushes these bytes through a TCP
connection on loopback into a process that reads and discards. Two figures:

    socket only     the bytes are in memory already: what the two ends of a socket cost
    read + send     preadv from one file in the page cache into a 1 MiB buffer, then send: what any sender must do

Seconds run from the first send until the receiver has confirmed the last byte. For `read + send` the whole process is
given too, the interpreter's start included, because that is what compare.py measures. Nobody waits for answers here, so
nobody can be faster with one connection.

`--receiver` measures the ceiling of a real receiver instead: what a sender gets from it that costs nothing. The bytes
are in memory and the associations established before the clock runs, nothing is done for an instance but to send it and
to see that its answer is a success. It runs until the last answer has come. With as many associations and one operation
outstanding on each, no sender can be faster with this receiver on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

if not __package__:
    # Run as a script: the project comes first, and this directory's profile.py must not stand for Python's own.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.data import cache_directory, prepare
from benchmarks.measure import HERE, background, free_port, machine, run_process
from benchmarks.receivers import RECEIVERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from benchmarks.data import Files
    from benchmarks.measure import Run

WORKER: Final = str(HERE / "limit_worker.py")
SENDER: Final = str(HERE / "limit_sender.py")
_DATA, _COMMAND, _LAST = 0x00, 0x01, 0x02


def _implicit(element: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0x0000, element, len(value)) + value


def _uid(text: bytes) -> bytes:
    return text + b"\0" * (len(text) % 2)


def _store_request(message_id: int, sop_class_uid: bytes, sop_instance_uid: bytes) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1.1)."""
    elements = b"".join(
        (
            _implicit(0x0002, _uid(sop_class_uid)),
            _implicit(0x0100, struct.pack("<H", 0x0001)),
            _implicit(0x0110, struct.pack("<H", message_id)),
            _implicit(0x0700, struct.pack("<H", 2)),
            _implicit(0x0800, struct.pack("<H", 1)),
            _implicit(0x1000, _uid(sop_instance_uid)),
        )
    )
    return _implicit(0x0000, struct.pack("<I", len(elements))) + elements


def _pdu(control: int, data: bytes | memoryview) -> bytes:
    """One P-DATA-TF PDU that holds one fragment."""
    return struct.pack(">BBIIBB", 0x04, 0, len(data) + 6, len(data) + 2, 1, control) + data


def _framed(path: Path, number: int, maximum_length: int) -> Iterator[bytes]:
    """One file as the PDUs of a C-STORE request."""
    data = path.read_bytes()
    # The File Meta Information that data.py writes: fixed places for the two UIDs, the group's length first.
    meta_end = 144 + int.from_bytes(data[140:144], "little")
    sop_class, sop_instance = _meta_value(data, 0x0002), _meta_value(data, 0x0003)
    yield _pdu(_COMMAND | _LAST, _store_request(number % 65535 + 1, sop_class, sop_instance))
    data_set = memoryview(data)[meta_end:]
    room = maximum_length - 6
    for start in range(0, len(data_set), room):
        piece = data_set[start : start + room]
        yield _pdu(_DATA | (_LAST if start + room >= len(data_set) else 0), piece)


def _meta_value(data: bytes, element: int) -> bytes:
    at = data.index(struct.pack("<HH2s", 0x0002, element, b"UI"), 132)
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    return data[at + 8 : at + 8 + length].rstrip(b"\0")


def framed_file(files: Files, maximum_length: int) -> Path:
    """One file that holds the whole set as PDUs, made once and kept beside the set."""
    target = cache_directory() / f"{files.name}-{files.total_bytes}-{maximum_length}.pdus"
    if target.exists():
        return target
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            for number, path in enumerate(files.paths()):
                file.writelines(_framed(path, number, maximum_length))
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _run_worker(script: str, *arguments: object) -> Run:
    """Run a worker, which prints the seconds that its loop took; raises SubprocessError when it failed."""
    run = run_process([sys.executable, script, *map(str, arguments)])
    if run.exit_code != 0:
        raise subprocess.SubprocessError(run.output)
    return run


def _measure(path: Path, connections: int, rounds: int) -> dict[str, Any]:
    """Both figures, the median of the rounds after a warm-up."""
    size = path.stat().st_size
    loops: dict[str, list[float]] = {"memory": [], "file": []}
    whole: list[float] = []
    cpu: list[float] = []
    port = free_port()
    with background([sys.executable, WORKER, "sink", str(port)], [port]):
        for number in range(rounds + 1):
            for source in loops:
                run = _run_worker(WORKER, source, port, path, connections)
                if number == 0:
                    continue
                loops[source].append(float(run.output))
                if source == "file":
                    whole.append(run.seconds)
                    cpu.append(run.cpu_seconds)
    return {
        "bytes": size,
        "connections": connections,
        "socket_only_bytes_per_second": size / median(loops["memory"]),
        "read_and_send_bytes_per_second": size / median(loops["file"]),
        "read_and_send_process_bytes_per_second": size / median(whole),
        "read_and_send_process_seconds": median(whole),
        "read_and_send_cpu_seconds": median(cpu),
    }


def _print(name: str, figures: dict[str, Any]) -> None:
    print(f"{name}: {figures['bytes']:,} bytes as P-DATA-TF PDUs, {figures['connections']} connection(s)")
    for label, key in (
        ("socket only (from memory)", "socket_only_bytes_per_second"),
        ("read + send (page cache, preadv)", "read_and_send_bytes_per_second"),
        ("read + send, whole process", "read_and_send_process_bytes_per_second"),
    ):
        print(f"  {label:36}{figures[key]:>16,.0f} bytes/s")
    print(f"  {'whole process':36}{figures['read_and_send_process_seconds']:>16.3f} s")
    print(f"  {'CPU of the sender, user + sys':36}{figures['read_and_send_cpu_seconds']:>16.3f} s")


def _measure_receiver(files: Files, path: Path, port: int, counts: Iterable[int], rounds: int) -> dict[str, Any]:
    """What the receiver takes over so many associations, the median of the rounds after a warm-up."""
    # An association without an instance would be no association: the big set has four.
    loops: dict[int, list[float]] = {min(count, files.count): [] for count in counts}
    for number in range(rounds + 1):
        for count, seconds in loops.items():
            run = _run_worker(SENDER, port, path, count)
            if number > 0:
                seconds.append(float(run.output))
    size = path.stat().st_size
    return {
        "bytes": size,
        "instances": files.count,
        "associations": {
            count: {
                "bytes_per_second": size / median(seconds),
                "instances_per_second": files.count / median(seconds),
                "seconds": median(seconds),
            }
            for count, seconds in loops.items()
        },
    }


def _print_receiver(name: str, figures: dict[str, Any]) -> None:
    print(f"{name}: {figures['instances']:,} instances, {figures['bytes']:,} bytes as P-DATA-TF PDUs")
    for count, row in figures["associations"].items():
        print(
            f"  {f'{count} association(s)':20}{row['bytes_per_second']:>16,.0f} bytes/s"
            f"{row['instances_per_second']:>12,.1f} instances/s{row['seconds']:>10.3f} s"
        )


def _measure_sockets_of(arguments: argparse.Namespace, rounds: int) -> dict[str, Any]:
    """The ceiling of the machine for each set."""
    sets = {}
    for name in arguments.sets:
        path = framed_file(_files(name, arguments), arguments.pdu)
        sets[name] = _measure(path, arguments.connections, rounds)
        if not arguments.json:
            _print(name, sets[name])
    return {"sets": sets}


def _measure_receiver_of(arguments: argparse.Namespace, rounds: int) -> dict[str, Any]:
    """The ceiling of the receiver for each set."""
    receiver = RECEIVERS[arguments.receiver]
    if not arguments.json:
        print(f"What a sender that costs nothing gets from {receiver.description} on this machine,")
        print("one operation outstanding on each association: no sender can be faster.")
    sets = {}
    with receiver.start() as endpoint:
        for name in arguments.sets:
            files = _files(name, arguments)
            path = framed_file(files, arguments.pdu)
            sets[name] = _measure_receiver(files, path, endpoint.port, arguments.associations, rounds)
            if not arguments.json:
                _print_receiver(name, sets[name])
    return {"receiver": receiver.description, "sets": sets}


def _files(name: str, arguments: argparse.Namespace) -> Files:
    return prepare(f"smoke-{name}" if arguments.smoke else name)


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="How fast this machine moves the bytes of the benchmarks at best.")
    parser.add_argument("--set", nargs="+", choices=("ct", "big", "small"), default=["ct", "big"], dest="sets")
    parser.add_argument("--connections", type=int, default=1, help="in parallel, from one process (1)")
    parser.add_argument("--receiver", choices=("storescp", "asyncstore"), help="measure the ceiling of this receiver")
    parser.add_argument(
        "--associations",
        nargs="+",
        type=_at_least_one,
        default=[1, 2, 4, 8],
        metavar="COUNT",
        help="with --receiver: in parallel, one figure for each count, at most one for each instance (1 2 4 8)",
    )
    parser.add_argument("--pdu", type=int, default=16384, metavar="BYTES", help="the receiver's maximum length (16384)")
    parser.add_argument("--rounds", type=int, default=5, help="after a warm-up (5)")
    parser.add_argument("--smoke", action="store_true", help="tiny files, one round")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main() -> int:
    """Measure the ceiling."""
    arguments = _parser().parse_args()
    missing = RECEIVERS[arguments.receiver].missing() if arguments.receiver else None
    if missing:
        print(f"{arguments.receiver}: {missing}", file=sys.stderr)
        return 0
    measure = _measure_receiver_of if arguments.receiver else _measure_sockets_of
    result = {"machine": machine(), "maximum_length": arguments.pdu}
    result |= measure(arguments, 1 if arguments.smoke else arguments.rounds)
    if arguments.json:
        print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
