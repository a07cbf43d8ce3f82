"""What the tests of transfers share: small files, a policy that does not wait, and the account that must agree."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from asyncstore.inputs.opening import instance_from_bytes
from asyncstore.instances.outcome import State
from asyncstore.net.peer import Peer
from asyncstore.services.storage_scp import StorageSCP
from asyncstore.status import SUCCESS
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import RetryPolicy, TransferOptions
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN
from tests.support import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import Protocol

    from asyncstore.instances.instance import Instance
    from asyncstore.instances.outcome import Outcome
    from asyncstore.services.storage_scp import Arrival

    class Listening(Protocol):
        """A server of the tests: StorageSCP, ScriptedSCP and FaultProxy alike."""

        host: str
        port: int


LOSSLESS_JPEG: Final = "1.2.840.10008.1.2.4.70"
UID_ROOT: Final = "1.2.826.0.1.3680043.8.498"
LIMIT_SECONDS: Final = 60.0
QUICK: Final = RetryPolicy(first_wait_seconds=0.01, cap_seconds=0.05, outage_seconds=5.0)

on_one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""For the heavier tests: what they show does not depend on the event loop."""


def write_files(
    directory: Path,
    count: int,
    *,
    first: int = 1,
    sop_classes: Sequence[str] = (CT_IMAGE_STORAGE,),
    transfer_syntax_uid: str = EXPLICIT_VR_LITTLE_ENDIAN,
    study: str = "",
    padding_bytes: int = 0,
) -> list[str]:
    """So many small DICOM files with different SOP Instance UIDs, the SOP classes in turn; their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    more = files.element(0x0020000D, b"UI", files.uid(study)) if study else b""
    more += files.element(0x7FE00010, b"OW", bytes(padding_bytes)) if padding_bytes else b""
    paths = []
    for number in range(first, first + count):
        sop_class_uid = sop_classes[number % len(sop_classes)]
        uid = uid_of(number)
        meta = files.file_meta(transfer_syntax_uid, sop_class_uid, uid)
        path = directory / f"{number:06}.dcm"
        path.write_bytes(files.dicom_file(meta=meta, body=files.data_set(sop_class_uid, uid, more=more)))
        paths.append(str(path))
    return paths


def uid_of(number: int) -> str:
    """The SOP Instance UID of a file of write_files."""
    return f"{UID_ROOT}.{number}"


def instance(
    number: int = 1, *, sop_class_uid: str = CT_IMAGE_STORAGE, transfer_syntax_uid: str = EXPLICIT_VR_LITTLE_ENDIAN
) -> Instance:
    """A small instance in memory."""
    data_set = files.data_set(sop_class_uid, uid_of(number))
    return instance_from_bytes(data_set, transfer_syntax_uid=transfer_syntax_uid)


def peer_at(server: Listening) -> Peer:
    return Peer(server.host, server.port)


def transfer_to(server: Listening, sources: Any, *, retry: RetryPolicy = QUICK, **options: Any) -> Transfer:
    """A transfer that retries without waiting."""
    return Transfer(peer_at(server), sources, options=TransferOptions(retry=retry, **options))


async def outcomes_of(transfer: Transfer) -> list[Outcome]:
    """Everything that a transfer hands out, within 20 seconds."""
    return await collect(transfer, [])


async def collect(transfer: Transfer, outcomes: list[Outcome]) -> list[Outcome]:
    """The same, also where the transfer ends with an exception."""
    with anyio.fail_after(LIMIT_SECONDS):
        async with transfer:
            async for outcome in transfer:
                outcomes.append(outcome)  # noqa: PERF401  (a list of them would be lost)
    return outcomes


class KeepingSCP(StorageSCP):
    """A StorageSCP that notes what arrives, and answers what `answer(arrival)` says."""

    def __init__(self, answer: Callable[[Arrival], Any] = lambda arrival: SUCCESS, **options: Any) -> None:
        super().__init__(on_store=self._note, **options)
        self.arrivals: list[Arrival] = []
        self._answer = answer

    @property
    def uids(self) -> Counter[str]:
        """How often each SOP Instance UID arrived."""
        return Counter(arrival.request.affected_sop_instance_uid for arrival in self.arrivals)

    def _note(self, arrival: Arrival) -> Any:
        self.arrivals.append(arrival)
        return self._answer(arrival)


def check_account(transfer: Transfer, outcomes: Iterable[Outcome], paths: Iterable[str] | None = None) -> None:
    """The report and the outcomes tell the same; with `paths`, each has exactly one outcome, or was left."""
    report = transfer.report
    states = Counter(outcome.state for outcome in outcomes)
    assert states[State.LEFT] == 0
    assert Counter({state: count for state, count in report.states.items() if state is not State.LEFT}) == states
    assert report.stored == states[State.STORED] + states[State.WARNING]
    assert report.finished_at is not None
    assert report.associations_open == 0
    if paths is not None:
        paths = list(paths)
        handed_out = Counter(outcome.path for outcome in outcomes)
        assert not handed_out - Counter(paths)
        if report.scan_finished:
            assert report.finished == len(paths)
