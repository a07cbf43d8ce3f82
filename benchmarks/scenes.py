"""The scenes of the comparison: which files go to which receiver, and who sends them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ROUND_TRIP_SECONDS: Final = 0.020

_OURS: Final = ("asyncstore", "asyncstore -j 1")
_PEERS: Final = ("DCMTK storescu", "DCMTK dcmsend", "dicom-rs -c 1", "dicom-rs -c 2", "dicom-rs -c 4")
_BY_TLS: Final = (
    "asyncstore --tls",
    "asyncstore -j 1 --tls",
    "asyncstore -j 4 --tls",
    "DCMTK storescu +tls",
    "dicom-rs -c 1 --tls",
    "dicom-rs -c 2 --tls",
    "dicom-rs -c 4 --tls",
)
_SLOW_PEERS: Final = ("gdcmscu", "pynetdicom", "dcmjs-dimse")
_EVERYBODY: Final = (*_OURS, *_PEERS, *_SLOW_PEERS)


@dataclass(frozen=True, slots=True)
class Scene:
    """One table: `senders` in turn send the first `count` files of the set `files` to `receiver`.

    `--scene` takes the name, or the `group` of several scenes. `round_trip_seconds` puts the delay proxy between the
    two. `cold` empties the page cache before every run. `first_byte` names the senders of which is measured too how
    long they take until their first byte arrives. `most_rounds` bounds scenes that last for minutes; with one round
    there is no warm-up.
    """

    name: str
    group: str
    title: str
    files: str
    receiver: str
    senders: tuple[str, ...]
    count: int | None = None
    smoke_count: int | None = None
    round_trip_seconds: float = 0.0
    cold: bool = False
    first_byte: tuple[str, ...] = ()
    most_rounds: int | None = None


SCENES: Final[tuple[Scene, ...]] = (
    Scene("small", "small", "10,000 x 9 KB", "small", "storescp", _EVERYBODY),
    Scene("ct", "ct", "2,000 x 512 KB", "ct", "storescp", _EVERYBODY),
    Scene("big", "big", "4 x 256 MB", "big", "storescp", (*_OURS, *_PEERS, "pynetdicom", "dcmjs-dimse")),
    # Runs so short that the start-up counts.
    Scene("one", "short", "one file of 9 KB", "small", "storescp", ("asyncstore", *_PEERS), count=1, smoke_count=1),
    Scene("short-small", "short", "2,000 x 9 KB", "small", "storescp", ("asyncstore", *_PEERS), 2_000, 10),
    Scene("short-ct", "short", "500 x 512 KB", "ct", "storescp", ("asyncstore", *_PEERS), 500, 3),
    Scene(
        "stock",
        "stock",
        "500 x 512 KB, receiver as installed: Nagle's algorithm on",
        "ct",
        "stock storescp",
        _EVERYBODY,
        count=500,
        smoke_count=3,
    ),
    Scene(
        "orthanc",
        "orthanc",
        "500 x 512 KB, stock Orthanc",
        "ct",
        "orthanc",
        _EVERYBODY,
        count=500,
        smoke_count=3,
    ),
    Scene(
        "latency",
        "latency",
        "500 x 512 KB, 20 ms round trip, a receiver without an operations window",
        "ct",
        "storescp",
        (
            "asyncstore",
            "asyncstore -j 16",
            "DCMTK storescu",
            "DCMTK dcmsend",
            "dicom-rs -c 1",
            "dicom-rs -c 2",
            "dicom-rs -c 4",
            "dicom-rs -c 16",
            *_SLOW_PEERS,
        ),
        count=500,
        smoke_count=4,
        round_trip_seconds=ROUND_TRIP_SECONDS,
    ),
    Scene("tls-small", "tls", "10,000 x 9 KB by TLS", "small", "storescp +tls", _BY_TLS),
    Scene("tls-ct", "tls", "2,000 x 512 KB by TLS", "ct", "storescp +tls", _BY_TLS),
    Scene("tls-big", "tls", "4 x 256 MB by TLS", "big", "storescp +tls", _BY_TLS),
    Scene(
        "window-dcmjs",
        "window",
        "1,000 x 9 KB, 20 ms round trip, one association, dcmjs-dimse SCP with an operations window of 16",
        "small",
        "dcmjs-dimse",
        ("asyncstore -j 1 -w 16", "asyncstore -j 1 -w 1", "DCMTK dcmsend", "dcmjs-dimse"),
        count=1_000,
        smoke_count=20,
        round_trip_seconds=ROUND_TRIP_SECONDS,
    ),
    Scene(
        "window-asyncstore",
        "window",
        "1,000 x 9 KB, 20 ms round trip, one association, asyncstore storescp with an operations window",
        "small",
        "asyncstore",
        ("asyncstore -j 1 -w 16", "asyncstore -j 1 -w 1", "DCMTK dcmsend", "dcmjs-dimse"),
        count=1_000,
        smoke_count=20,
        round_trip_seconds=ROUND_TRIP_SECONDS,
    ),
    Scene(
        "cold-small",
        "cold",
        "10,000 x 9 KB, page cache emptied before every run",
        "small",
        "storescp",
        ("asyncstore", *_PEERS),
        cold=True,
    ),
    Scene(
        "cold-many",
        "cold",
        "60,000 x 9 KB, page cache emptied before every run",
        "many",
        "storescp",
        ("asyncstore", *_PEERS),
        cold=True,
    ),
    Scene(
        "cold-ct",
        "cold",
        "2,000 x 512 KB, page cache emptied before every run",
        "ct",
        "storescp",
        ("asyncstore", *_PEERS),
        cold=True,
    ),
    # Both rows are asyncstore: other programs cannot be given a slow disk from here. What differs is only whether a
    # read that finds its data not in memory leaves the event loop (slow_files.py, --inline).
    Scene(
        "slow",
        "slow",
        "500 x 512 KB, 10 ms for each open and each read of a file",
        "ct",
        "storescp",
        ("asyncstore -j 8", "asyncstore -j 8, inline reads"),
        count=500,
        smoke_count=4,
    ),
    Scene(
        "tree",
        "tree",
        "1,000,000 x 1.5 KB: peak memory and time until the first byte",
        "tree",
        "asyncstore",
        ("asyncstore",),
        first_byte=("asyncstore", "DCMTK storescu", "DCMTK dcmsend", "dicom-rs -c 4"),
        most_rounds=1,
    ),
    Scene(
        "growth-10000",
        "growth",
        "the first 10,000 of 1,000,000 x 1.5 KB",
        "tree",
        "asyncstore",
        ("asyncstore",),
        count=10_000,
        smoke_count=100,
    ),
    Scene(
        "growth-1000000",
        "growth",
        "all of 1,000,000 x 1.5 KB",
        "tree",
        "asyncstore",
        ("asyncstore",),
        most_rounds=1,
    ),
)

NAMES: Final = tuple(dict.fromkeys(name for scene in SCENES for name in (scene.group, scene.name)))

# Enough to see ours beside the two that are quick to start; a smoke run is over in seconds.
SMOKE_PEERS: Final = frozenset(
    {"DCMTK dcmsend", "DCMTK storescu", "dicom-rs -c 4", "DCMTK storescu +tls", "dicom-rs -c 4 --tls"}
)
SMOKE_ROUND_TRIP_SECONDS: Final = 0.005
