"""Storage commitment as its user: the request, and reports that come as peers send them."""

from __future__ import annotations

import contextlib
import zlib
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from asyncstore.dimse.messages import CEchoRQ
from asyncstore.dimse.n_messages import NActionRQ, NActionRSP, NEventReportRQ, NEventReportRSP
from asyncstore.errors import Aborted, LocalProtocolError, OperationFailed
from asyncstore.net.acceptor import Acceptor
from asyncstore.services.identifiers import decode_identifier, encode_identifier
from asyncstore.services.references import CommitmentReport, Reference, encode_report, read_report
from asyncstore.services.storage_commitment import (
    PUSH_MODEL_INSTANCE,
    CommitmentReports,
    Remedy,
    new_transaction_uid,
    remedy_of,
    text_of_reason,
)
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_PUSH_MODEL,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
    VERIFICATION,
    is_well_formed,
)
from asyncstore.upper_layer.items import PresentationContext
from asyncstore.upper_layer.pdu import Abort, AssociateAC, AssociateRQ
from asyncstore.upper_layer.user_information import RoleSelection, UserInformation
from tests.support.archive import item_of
from tests.support.associations import LIMIT_SECONDS, accepting, to
from tests.support.files import element
from tests.support.wire import ScriptedSCP, Wire, play_scu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

pytestmark = pytest.mark.every_loop

SYNTAX = IMPLICIT_VR_LITTLE_ENDIAN
CONTEXTS = [(STORAGE_COMMITMENT_PUSH_MODEL, (SYNTAX,))]
TRANSACTION = "2.25.4711"
UIDS = ["1.2.1", "1.2.2", "1.2.3"]
REFERENCES = [Reference(CT_IMAGE_STORAGE, uid) for uid in UIDS]


def report_of(
    committed: Iterable[str],
    failed: dict[str, int] | None = None,
    *,
    transaction: str = TRANSACTION,
    syntax: str = SYNTAX,
) -> bytes:
    data_set = Dataset()
    if transaction:
        data_set.TransactionUID = transaction
    data_set.ReferencedSOPSequence = [item_of(Reference(CT_IMAGE_STORAGE, uid)) for uid in committed]
    items = []
    for uid, reason in (failed or {}).items():
        item = item_of(Reference(CT_IMAGE_STORAGE, uid))
        item.FailureReason = reason
        items.append(item)
    if items:
        data_set.FailedSOPSequence = items
    return encode_identifier(data_set, syntax)


def reports(wire: Wire, data_set: bytes, event_type: int = 1, message_id: int = 9) -> Any:
    """Send one report and read the answer."""
    request = NEventReportRQ(message_id, STORAGE_COMMITMENT_PUSH_MODEL, PUSH_MODEL_INSTANCE, event_type)
    wire.send_message(1, request, data_set)
    return wire.read_message().message


def answers_action(wire: Wire, status: int = 0x0000) -> Any:
    incoming: Any = wire.read_message()
    uids = (STORAGE_COMMITMENT_PUSH_MODEL, PUSH_MODEL_INSTANCE)
    wire.send_message(1, NActionRSP(incoming.message.message_id, Status(status), *uids, 1))
    return incoming


async def test_the_request_names_every_reference_and_the_report_comes_on_the_same_association() -> None:
    seen: list[Any] = []

    def script(wire: Wire) -> None:
        request = wire.accept()
        assert request.user_information.role_selections == ()
        seen.append(answers_action(wire))
        seen.append(reports(wire, report_of(UIDS[:2], {UIDS[2]: 0x0112}), 2))
        wire.answer_release()

    provider = CommitmentReports()
    providers = {STORAGE_COMMITMENT_PUSH_MODEL: provider}
    with ScriptedSCP(script) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS, providers=providers) as association:
            given = await association.request_commitment(REFERENCES, transaction_uid=TRANSACTION)
            answers = await provider.wait(given, REFERENCES)
    assert (answers.committed, answers.failed) == (set(UIDS[:2]), {UIDS[2]: 0x0112})
    action, answer = seen
    assert action.message == NActionRQ(1, STORAGE_COMMITMENT_PUSH_MODEL, PUSH_MODEL_INSTANCE, 1)
    data_set = decode_identifier(action.data_set, SYNTAX)
    assert data_set.TransactionUID == given == TRANSACTION
    assert [item.ReferencedSOPInstanceUID for item in data_set.ReferencedSOPSequence] == UIDS
    assert answer == NEventReportRSP(9, SUCCESS, STORAGE_COMMITMENT_PUSH_MODEL, PUSH_MODEL_INSTANCE, 2)


async def test_a_report_on_an_association_of_the_peer_may_come_before_the_answer_in_parts_and_twice() -> None:
    provider = CommitmentReports()

    def reports_in_parts(wire: Wire) -> list[Any]:
        information = UserInformation(
            implementation_class_uid="1.2.3",
            role_selections=(RoleSelection(STORAGE_COMMITMENT_PUSH_MODEL, False, True),),
        )
        contexts = (PresentationContext(1, STORAGE_COMMITMENT_PUSH_MODEL, (SYNTAX,)),)
        wire.send(AssociateRQ("STORESCU", "ARCHIVE", contexts, information))
        answer = wire.expect(AssociateAC)
        assert answer.user_information.role_selections == information.role_selections
        parts = [report_of(UIDS[:1]), report_of(UIDS[1:]), report_of(UIDS[1:])]
        given = [reports(wire, part, message_id=number).status for number, part in enumerate(parts, 1)]
        wire.release()
        return given

    with anyio.fail_after(LIMIT_SECONDS):
        async with Acceptor({STORAGE_COMMITMENT_PUSH_MODEL: provider}) as acceptor:

            def asks_back(wire: Wire) -> None:
                wire.accept()
                incoming: Any = wire.read_message()
                assert play_scu(reports_in_parts, acceptor.port) == [SUCCESS] * 3
                wire.send_message(1, NActionRSP(incoming.message.message_id, SUCCESS))
                wire.answer_release()

            with ScriptedSCP(asks_back) as scp:
                async with to(scp, contexts=CONTEXTS) as association:
                    await association.request_commitment(REFERENCES, transaction_uid=TRANSACTION)
                answers = await provider.wait(TRANSACTION, REFERENCES)
    assert (answers.committed, answers.failed) == (set(UIDS), {})


async def test_a_part_of_a_report_does_not_end_the_wait() -> None:
    provider = CommitmentReports()

    def part(wire: Wire) -> None:
        wire.associate([PresentationContext(1, STORAGE_COMMITMENT_PUSH_MODEL, (SYNTAX,))])
        reports(wire, report_of(UIDS[:2]))
        reports(wire, report_of(UIDS, transaction="2.25.1"), message_id=10)
        wire.release()

    with anyio.fail_after(LIMIT_SECONDS):
        async with Acceptor({STORAGE_COMMITMENT_PUSH_MODEL: provider}) as acceptor:
            await anyio.to_thread.run_sync(play_scu, part, acceptor.port)
    assert provider.answers_to(TRANSACTION).committed == set(UIDS[:2])
    assert not provider.answers_to(TRANSACTION).are_complete(UIDS)


@pytest.mark.parametrize(
    ("message", "data_set", "status"),
    [
        (NEventReportRQ(9, STORAGE_COMMITMENT_PUSH_MODEL, PUSH_MODEL_INSTANCE, 3), report_of(UIDS), 0x0113),
        (
            NEventReportRQ(9, STORAGE_COMMITMENT_PUSH_MODEL, PUSH_MODEL_INSTANCE, 1),
            b"\x08\0\x95\x11\xff\xff\0\0",
            0x0115,
        ),
        (
            NEventReportRQ(9, STORAGE_COMMITMENT_PUSH_MODEL, PUSH_MODEL_INSTANCE, 1),
            report_of(UIDS, transaction=""),
            0x0115,
        ),
        (NActionRQ(9, STORAGE_COMMITMENT_PUSH_MODEL, PUSH_MODEL_INSTANCE, 1), report_of(UIDS), 0x0211),
        (CEchoRQ(9), None, 0x0211),
    ],
    ids=["another event", "unreadable", "no transaction", "an action", "an echo"],
)
async def test_what_is_no_report_is_refused(message: Any, data_set: bytes | None, status: int) -> None:
    provider = CommitmentReports()

    def asks(wire: Wire) -> Any:
        wire.associate([PresentationContext(1, STORAGE_COMMITMENT_PUSH_MODEL, (SYNTAX,))])
        wire.send_message(1, message, data_set)
        answer = wire.read_message().message
        wire.release()
        return answer

    with anyio.fail_after(LIMIT_SECONDS):
        async with Acceptor({STORAGE_COMMITMENT_PUSH_MODEL: provider}) as acceptor:
            answer = await anyio.to_thread.run_sync(play_scu, asks, acceptor.port)
    assert answer.status.value == status
    assert provider.answers_to(TRANSACTION) == (set(), {})


async def test_a_report_that_could_not_be_noted_is_not_acknowledged() -> None:
    def fails(report: CommitmentReport) -> None:
        raise OSError("disk full")

    def asks(wire: Wire) -> Any:
        wire.associate([PresentationContext(1, STORAGE_COMMITMENT_PUSH_MODEL, (SYNTAX,))])
        answer = reports(wire, report_of(UIDS))
        wire.release()
        return answer

    provider = CommitmentReports(fails)
    with anyio.fail_after(LIMIT_SECONDS):
        async with Acceptor({STORAGE_COMMITMENT_PUSH_MODEL: provider}) as acceptor:
            answer = await anyio.to_thread.run_sync(play_scu, asks, acceptor.port)
    assert answer.status.value == 0x0110
    assert provider.answers_to(TRANSACTION) == (set(), {})


async def test_a_refusal_an_abort_and_a_missing_context_are_errors() -> None:
    def refuses(wire: Wire) -> None:
        wire.accept()
        answers_action(wire, 0x0110)
        wire.answer_release()

    with ScriptedSCP(refuses) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS) as association:
            with pytest.raises(OperationFailed, match="refused the request for commitment"):
                await association.request_commitment(REFERENCES)

    def aborts(wire: Wire) -> None:
        wire.accept()
        wire.read_message()
        wire.send(Abort(0, 0))

    async def ask(scp: ScriptedSCP) -> None:
        async with to(scp, contexts=CONTEXTS) as association:
            await association.request_commitment(REFERENCES)

    with ScriptedSCP(aborts) as scp, anyio.fail_after(LIMIT_SECONDS), pytest.raises(Aborted):
        await ask(scp)
    with ScriptedSCP(accepting(Wire.answer_release)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=[(VERIFICATION, (SYNTAX,))]) as association:
            with pytest.raises(LocalProtocolError, match="Storage Commitment"):
                await association.request_commitment(REFERENCES)


uids = st.from_regex(r"[12](\.[1-9][0-9]{0,6}){1,6}", fullmatch=True)


@given(
    st.sets(uids, max_size=5),
    st.dictionaries(uids, st.integers(1, 0xFFFF), max_size=5),
    st.sampled_from(sorted(UNCOMPRESSED_TRANSFER_SYNTAXES)),
)
def test_a_report_is_read_as_it_was_written(committed: set[str], failed: dict[str, int], syntax: str) -> None:
    report = read_report(report_of(committed, failed, syntax=syntax), syntax)
    assert report.transaction_uid == TRANSACTION
    assert {reference.sop_instance_uid for reference in report.committed} == committed
    assert {reference.sop_instance_uid: reason for reference, reason in report.failed.items()} == failed


@given(
    st.sets(uids, max_size=5),
    st.dictionaries(uids, st.integers(1, 0xFFFF), max_size=5),
    st.sampled_from(sorted(UNCOMPRESSED_TRANSFER_SYNTAXES)),
)
def test_pydicom_reads_the_report_that_we_write(committed: set[str], failed: dict[str, int], syntax: str) -> None:
    references = [Reference(CT_IMAGE_STORAGE, uid) for uid in committed]
    reasons = {Reference(CT_IMAGE_STORAGE, uid): reason for uid, reason in failed.items()}
    encoded = encode_report(TRANSACTION, references, reasons, syntax)
    data_set = decode_identifier(encoded, syntax)
    assert data_set.TransactionUID == TRANSACTION
    named = data_set.get("ReferencedSOPSequence") or ()
    assert [(each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID) for each in named] == references
    named = data_set.get("FailedSOPSequence") or ()
    assert {each.ReferencedSOPInstanceUID: each.FailureReason for each in named} == failed
    assert read_report(encoded, syntax) == (TRANSACTION, tuple(references), reasons)


def test_items_and_sequences_of_undefined_length_are_read() -> None:
    data_set = Dataset()
    data_set.TransactionUID = TRANSACTION
    data_set.ReferencedSOPSequence = [item_of(reference) for reference in REFERENCES]
    data_set["ReferencedSOPSequence"].is_undefined_length = True
    for item in data_set.ReferencedSOPSequence:
        item.is_undefined_length_sequence_item = True
    encoded = encode_identifier(data_set, EXPLICIT_VR_LITTLE_ENDIAN)
    assert b"\xfe\xff\x0d\xe0" in encoded
    assert read_report(encoded, EXPLICIT_VR_LITTLE_ENDIAN).committed == tuple(REFERENCES)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_report_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert read_report(data, EXPLICIT_VR_LITTLE_ENDIAN).transaction_uid


@pytest.mark.parametrize(
    ("reason", "remedy", "text"),
    [
        (0x0110, Remedy.ASK_AGAIN, "processing failure (0x0110)"),
        (0x0112, Remedy.SEND_AGAIN, "the peer does not have the instance (0x0112)"),
        (0x0119, Remedy.NONE, "the peer has it with another SOP class (0x0119)"),
        (0x0122, Remedy.NONE, "the peer does not support its SOP class (0x0122)"),
        (0x0131, Remedy.ASK_AGAIN, "the Transaction UID is in use (0x0131)"),
        (0x0213, Remedy.ASK_AGAIN, "resource limitation (0x0213)"),
        (0x4711, Remedy.NONE, "unknown failure reason (0x4711)"),
    ],
)
def test_each_reason_has_words_and_a_remedy(reason: int, remedy: Remedy, text: str) -> None:
    assert (remedy_of(reason), text_of_reason(reason)) == (remedy, text)


def test_each_request_has_a_transaction_of_its_own() -> None:
    given = {new_transaction_uid() for _ in range(100)}
    assert len(given) == 100
    assert all(is_well_formed(uid) for uid in given)


@pytest.mark.parametrize("read", [read_report, decode_identifier])
def test_a_deflated_data_set_of_a_peer_does_not_grow_without_limit(read: Callable[[bytes, str], object]) -> None:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = deflater.compress(bytes(32 << 20)) + deflater.flush()
    with pytest.raises(ValueError, match="grows to more than 16,777,216 bytes"):
        read(bomb, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)


def test_nothing_that_a_peer_wrote_is_printed_while_it_is_read(recwarn: pytest.WarningsRecorder) -> None:
    data = element(0x00080005, b"CS", b"ISO\x1b[2J ") + element(0x00100010, b"PN", b"Doe^Jane")
    decode_identifier(data, EXPLICIT_VR_LITTLE_ENDIAN)
    assert not recwarn.list
