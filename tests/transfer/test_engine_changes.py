"""Instances that are changed on the way: what arrives, and what outcome, report and ledger say of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from pydicom import dcmread

import asyncstore
from asyncstore.errors import SourceError
from asyncstore.instances.outcome import MAY_LACK_CHANGES, State
from asyncstore.ledger.sqlite.commitments import CommitmentRecord
from asyncstore.ledger.sqlite.reader import LedgerReader
from asyncstore.preparation.attributes.change import AttributeChange
from asyncstore.preparation.attributes.originals import Originals
from asyncstore.preparation.attributes.rules import Rules, setting
from asyncstore.preparation.attributes.uids import NewUIDs
from asyncstore.preparation.attributes.value_map import ValueMap
from asyncstore.preparation.prepare import Changed, Preparation
from asyncstore.transfer.engine import Transfer
from asyncstore.transfer.options import TransferOptions
from asyncstore.transfer.proof.expected import Expected
from asyncstore.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from tests.support import files
from tests.support.transfers import QUICK, KeepingSCP, outcomes_of, peer_at, uid_of, write_files

if TYPE_CHECKING:
    from asyncstore.preparation.conversions import Contexts
    from asyncstore.preparation.prepare import Prepared, Preparer

pytestmark = pytest.mark.anyio

KEY = b"a key of the test, not secret"


def preparer(rules: Rules) -> Preparation:
    return Preparation(AttributeChange(rules, Originals()))


def write_patients(directory: Path, patients: list[str], *, pixels: int = 64) -> list[str]:
    """A file for each patient."""
    paths = write_files(directory, len(patients), study="1.2.3.55")
    for number, (path, patient) in enumerate(zip(paths, patients, strict=True), 1):
        more = files.element(0x00100020, b"LO", patient.encode() + b" " * (len(patient) & 1))
        more += files.element(0x0020000D, b"UI", files.uid("1.2.3.55"))
        more += files.element(0x7FE00010, b"OW", bytes([number % 256]) * pixels)
        meta = files.file_meta(sop_instance_uid=uid_of(number))
        Path(path).write_bytes(
            files.dicom_file(meta=meta, body=files.data_set(sop_instance_uid=uid_of(number), more=more))
        )
    return paths


def kept_by(directory: Path) -> dict[str, asyncstore.Instance]:
    return {each.sop_instance_uid: each for each in map(asyncstore.instance_from, directory.iterdir())}


@pytest.mark.parametrize("pixels", [64, 300_000])
@pytest.mark.parametrize("syntax", [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])
async def test_each_instance_arrives_changed_and_says_how(tmp_path: Path, pixels: int, syntax: str) -> None:
    write_patients(tmp_path / "in", ["old"] * 9 + ["new"], pixels=pixels)
    (tmp_path / "out").mkdir()
    options = TransferOptions(
        prepare=preparer(Rules(instructions=(setting("PatientID", "new"),), uids=NewUIDs(KEY))),
        only_transfer_syntax=syntax,
    )
    async with KeepingSCP(output_directory=tmp_path / "out") as scp:
        transfer = Transfer(peer_at(scp), tmp_path / "in", options=options, ledger=tmp_path / "run.db")
        outcomes = await outcomes_of(transfer)
    assert [outcome.state for outcome in outcomes] == [State.STORED] * 10
    kept = kept_by(tmp_path / "out")
    new = {NewUIDs(KEY).of(uid_of(number).encode()).decode(): number for number in range(1, 11)}
    assert kept.keys() == new.keys() == {outcome.sent_sop_instance_uid for outcome in outcomes}
    for uid, instance in kept.items():
        data_set = dcmread(instance.path or "")
        assert (data_set.PatientID, data_set.SOPInstanceUID) == ("new", uid)
        assert data_set.file_meta.MediaStorageSOPInstanceUID == uid
        assert data_set.PixelData == bytes([new[uid]]) * pixels
    assert transfer.report.changes["PatientID set"] == 9
    assert transfer.report.changes["UIDs replaced"] == 10
    await anyio.to_thread.run_sync(check_ledger, tmp_path / "run.db", new, dict(transfer.report.changes))


def check_ledger(path: Path, new: dict[str, int], changes: dict[str, int]) -> None:
    """What the ledger, and whoever asks it, says of those instances."""
    with LedgerReader(path) as reader:
        rows = list(reader.rows())
        assert {(row.sop_instance_uid, row.sent_sop_instance_uid) for row in rows} == {
            (uid_of(number), uid) for uid, number in new.items()
        }
        study = NewUIDs(KEY).of(b"1.2.3.55").decode()
        assert {row.sent_study_instance_uid for row in rows} == {study}
        assert {count.change: count.instances for count in reader.by_change()} == changes
        with Expected(lambda path, detail: pytest.fail(f"{path}: {detail}")) as expected:
            expected.add_ledger(reader)
            (only,) = expected.studies()
        assert (only.study_instance_uid, set(only.instances)) == (study, set(new))
    with CommitmentRecord(str(path)) as record:
        assert {each.sop_instance_uid for each in record.uncommitted(0, 100)} == set(new)


async def test_an_instance_that_the_table_does_not_know_is_not_sent_and_sent_once_it_does(tmp_path: Path) -> None:
    patients = [f"P{number}" for number in range(40)]
    paths = write_patients(tmp_path / "in", patients)
    (tmp_path / "out").mkdir()
    table = tmp_path / "map.csv"

    def options(known: list[str]) -> TransferOptions:
        table.write_text("PatientID,PatientID\n" + "".join(f"{patient},N{patient}\n" for patient in known))
        return TransferOptions(prepare=preparer(Rules(table=ValueMap(table))))

    async with KeepingSCP(output_directory=tmp_path / "out") as scp:
        first = Transfer(peer_at(scp), tmp_path / "in", options=options(patients[2:]), ledger=tmp_path / "run.db")
        failed = [outcome for outcome in await outcomes_of(first) if not outcome.is_stored]
        assert sorted(outcome.path or "" for outcome in failed) == paths[:2]
        assert {(outcome.state, outcome.reason, outcome.attempts) for outcome in failed} == {
            (State.SOURCE_PROBLEM, "its PatientID is not in the map", 0)
        }
        assert (first.report.failed, first.report.stored) == (2, 38)
        assert len(kept_by(tmp_path / "out")) == 38
        second = Transfer(peer_at(scp), tmp_path / "in", options=options(patients), ledger=tmp_path / "run.db")
        await outcomes_of(second)
    assert (second.report.resumed, second.report.states[State.STORED], second.report.failed) == (38, 2, 0)
    assert {dcmread(each.path or "").PatientID for each in kept_by(tmp_path / "out").values()} == {
        f"N{patient}" for patient in patients
    }


@pytest.mark.parametrize(
    ("first", "second"),
    [(None, "1"), ("1", None), ("1", "2")],
)
async def test_a_run_with_other_rules_than_its_ledger_is_refused(
    tmp_path: Path, first: str | None, second: str | None
) -> None:
    write_patients(tmp_path / "in", ["old"])
    ledger = tmp_path / "run.db"

    def options(value: str | None) -> TransferOptions:
        rules = Rules(instructions=() if value is None else (setting("PatientID", value),))
        return TransferOptions(prepare=None if value is None else preparer(rules))

    async with KeepingSCP() as scp:
        for _ in range(2):
            await outcomes_of(Transfer(peer_at(scp), tmp_path / "in", options=options(first), ledger=ledger))
        with pytest.raises(asyncstore.LedgerError, match=r"other rules for their attributes \(--set\):"):
            await outcomes_of(Transfer(peer_at(scp), tmp_path / "in", options=options(second), ledger=ledger))
    assert await anyio.to_thread.run_sync(count_runs, ledger) == 2


async def test_a_function_of_the_caller_changes_instances(tmp_path: Path) -> None:
    write_patients(tmp_path / "in", ["old"] * 5)
    (tmp_path / "out").mkdir()

    def change(instance: asyncstore.Instance) -> Changed | None:
        if instance.sop_instance_uid == uid_of(1):
            return None
        if instance.sop_instance_uid == uid_of(2):
            raise asyncstore.SourceError("not this one")
        data = files.read_all(instance.source).replace(b"old ", b"mine")
        source = asyncstore.BytesSource(data)
        return Changed(dataclasses.replace(instance, source=source, data_set_length=len(data)), ("made mine",))

    async with KeepingSCP(output_directory=tmp_path / "out") as scp:
        options = TransferOptions(prepare=Preparation(change))
        transfer = Transfer(peer_at(scp), tmp_path / "in", options=options)
        outcomes = {
            outcome.instance.sop_instance_uid: outcome for outcome in await outcomes_of(transfer) if outcome.instance
        }
    kept = {uid: dcmread(each.path or "").PatientID for uid, each in kept_by(tmp_path / "out").items()}
    assert kept == {uid_of(1): "old", **{uid_of(number): "mine" for number in (3, 4, 5)}}
    assert outcomes[uid_of(1)].changes == ()
    assert outcomes[uid_of(2)].reason == "not this one"
    assert outcomes[uid_of(3)].changes == ("made mine",)
    assert outcomes[uid_of(3)].sent_uids is None


async def test_a_preparer_of_the_caller_does_all_of_it(tmp_path: Path) -> None:
    write_patients(tmp_path / "in", ["old"] * 3)

    class Mine:
        def prepare(self, instance: asyncstore.Instance, contexts: Contexts) -> Prepared | asyncstore.Outcome:
            if instance.sop_instance_uid == uid_of(2):
                return asyncstore.Outcome(State.SOURCE_PROBLEM, instance.path, instance, reason="no", attempts=0)
            return Preparation().prepare(instance, contexts)

    mine: Preparer = Mine()
    async with KeepingSCP() as scp:
        transfer = Transfer(peer_at(scp), tmp_path / "in", options=TransferOptions(prepare=mine))
        outcomes = await outcomes_of(transfer)
    assert sorted((outcome.state, outcome.reason) for outcome in outcomes) == [
        (State.SOURCE_PROBLEM, "no"),
        (State.STORED, ""),
        (State.STORED, ""),
    ]


def broken_outcome_of(tmp_path: Path, prepare: Preparer) -> asyncstore.Outcome:
    """What becomes of the second of three instances, while the others are stored."""
    write_patients(tmp_path / "in", ["old"] * 3)

    async def send() -> list[asyncstore.Outcome]:
        async with KeepingSCP() as scp:
            return await outcomes_of(
                Transfer(peer_at(scp), tmp_path / "in", options=TransferOptions(prepare=prepare, associations=1))
            )

    outcomes = {each.instance.sop_instance_uid: each for each in anyio.run(send) if each.instance is not None}
    assert [outcomes[uid_of(number)].state for number in (1, 3)] == [State.STORED] * 2
    return outcomes[uid_of(2)]


class Breaks:
    """A change that breaks over the second instance; `at_once` as one that runs in the event loop."""

    def __init__(self, does: object, *, at_once: bool) -> None:
        self.does = does
        if at_once:
            self.at_once = self.__call__

    def __call__(self, instance: asyncstore.Instance) -> Any:
        if instance.sop_instance_uid != uid_of(2):
            return None
        if isinstance(self.does, Exception):
            raise self.does
        return self.does


class Preparers:
    """A Preparer of the caller with the same fault."""

    def __init__(self, breaks: Breaks, *, at_once: bool) -> None:
        self.breaks = breaks
        if at_once:
            self.prepare_now = self.prepare

    def prepare(self, instance: asyncstore.Instance, contexts: Contexts, *_: object) -> Any:
        result = self.breaks(instance)
        return Preparation().prepare(instance, contexts) if result is None else result


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("is_change", [False, True])
@pytest.mark.parametrize(
    ("does", "reason"),
    [
        (ZeroDivisionError("by 0"), "preparing it failed: ZeroDivisionError('by 0')"),
        (OSError(5, "Input/output error"), "preparing it failed: OSError(5, 'Input/output error')"),
        (MemoryError(), "preparing it failed: MemoryError()"),
        ("no instance", ""),
    ],
)
def test_a_mistake_of_the_caller_costs_its_instance(
    tmp_path: Path, does: object, reason: str, *, is_change: bool, at_once: bool
) -> None:
    breaks = Breaks(does, at_once=at_once)
    outcome = broken_outcome_of(tmp_path, Preparation(breaks) if is_change else Preparers(breaks, at_once=at_once))
    assert (outcome.state, outcome.attempts) == (State.SOURCE_PROBLEM, 0)
    if not reason:
        reason = "preparing it failed: AttributeError" if is_change else "preparing it gave 'no instance'"
    assert outcome.reason.startswith(reason)
    assert isinstance(outcome.error, SourceError)
    if isinstance(does, Exception):
        assert outcome.error.__cause__ is does
        assert does.__traceback__ is None  # its frames have the data set


def test_what_is_prepared_for_another_context_is_not_sent(tmp_path: Path) -> None:
    class Mistaken:
        def prepare(self, instance: asyncstore.Instance, contexts: Contexts) -> Prepared | asyncstore.Outcome:
            prepared = Preparation().prepare(instance, contexts)
            if instance.sop_instance_uid == uid_of(2) and isinstance(prepared, asyncstore.Prepared):
                prepared.context_id += 100
            return prepared

    outcome = broken_outcome_of(tmp_path, Mistaken())
    assert outcome.reason.startswith("it was prepared for a presentation context that was not accepted: ")


@pytest.mark.parametrize("does", [ZeroDivisionError("by 0"), "no instance"])
def test_a_dry_run_tells_of_the_mistake(tmp_path: Path, does: object) -> None:
    write_patients(tmp_path / "in", ["old"] * 2)
    instance = asyncstore.instance_from(tmp_path / "in" / sorted(p.name for p in (tmp_path / "in").iterdir())[1])
    with pytest.raises(SourceError, match="preparing it failed: "):
        Preparation(Breaks(does, at_once=False)).changes_of(instance)


@pytest.mark.parametrize(
    ("rules", "patient", "may_lack"),
    [
        (Rules(instructions=(setting("PatientID", "new"),)), "old", True),
        (Rules(instructions=(setting("PatientID", "new"),)), "new", False),  # it was so in the file
        (Rules(uids=NewUIDs(KEY)), "old", False),  # nobody else has instances of that UID
    ],
)
async def test_what_the_peer_had_before_may_lack_the_changes(
    tmp_path: Path, rules: Rules, patient: str, *, may_lack: bool
) -> None:
    write_patients(tmp_path / "in", [patient])
    async with KeepingSCP(lambda _: 0x0111) as scp:
        options = TransferOptions(prepare=preparer(rules))
        (outcome,) = await outcomes_of(Transfer(peer_at(scp), tmp_path / "in", options=options))
    assert outcome.state is State.DUPLICATE
    assert outcome.reason.endswith(MAY_LACK_CHANGES) is may_lack


async def test_an_earlier_attempt_had_the_changes(tmp_path: Path) -> None:
    write_patients(tmp_path / "in", ["old"])
    answers = iter((0x0110, 0x0111))
    async with KeepingSCP(lambda _: next(answers)) as scp:
        rules = Rules(instructions=(setting("PatientID", "new"),))
        options = TransferOptions(prepare=preparer(rules), retry=QUICK)
        (outcome,) = await outcomes_of(Transfer(peer_at(scp), tmp_path / "in", options=options))
    assert (outcome.state, outcome.attempts) == (State.DUPLICATE, 2)
    assert outcome.reason == "Duplicate SOP instance (0x0111)"


async def test_a_row_that_has_changed_is_told_and_stays_as_it_was_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_patients(tmp_path / "in", ["A", "B"])
    (tmp_path / "out").mkdir()
    table = tmp_path / "map.csv"
    told = "The table of values has changed: what is stored already keeps the values that it was sent with"

    async def send(scp: KeepingSCP, rows: str) -> asyncstore.Report:
        table.write_text("PatientID,PatientID\n" + rows)
        caplog.clear()
        options = TransferOptions(prepare=preparer(Rules(table=ValueMap(table))))
        transfer = Transfer(peer_at(scp), tmp_path / "in", options=options, ledger=tmp_path / "run.db")
        await outcomes_of(transfer)
        return transfer.report

    async with KeepingSCP(output_directory=tmp_path / "out") as scp:
        for rows, stored, resumed, is_told in (
            ("A,1\n", 1, 0, False),
            ("A,1\n", 0, 1, False),
            ("A,2\nB,3\n", 1, 1, True),
            ("A,2\nB,3\n", 0, 2, False),
        ):
            report = await send(scp, rows)
            assert (report.states[State.STORED], report.resumed) == (stored, resumed)
            assert (told in caplog.messages) is is_told
    patients = {dcmread(each.path or "").PatientID for each in kept_by(tmp_path / "out").values()}
    assert patients == {"1", "3"}


def count_runs(path: Path) -> int:
    with LedgerReader(path) as reader:
        return len(reader.runs())
