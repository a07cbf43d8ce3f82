"""C-FIND as its user: matches, the ends that a list of them can have, cancelling, and identifiers in every syntax."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import DataElement, Dataset

from asyncstore.dimse.query_messages import CCancelRQ, CFindRQ, CFindRSP
from asyncstore.errors import (
    AssociationLost,
    LocalProtocolError,
    OperationFailed,
    RemoteProtocolError,
    SourceError,
)
from asyncstore.services import identifiers
from asyncstore.services.identifiers import decode_identifier, decode_keys, encode_identifier, encode_keys
from asyncstore.services.query import RELATIONAL_QUERIES, KeyQuery, Matches
from asyncstore.status import Status
from asyncstore.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    PATIENT_ROOT_FIND,
    STUDY_ROOT_FIND,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
    VERIFICATION,
)
from asyncstore.upper_layer.pdu import AssociateAC, AssociateRQ, ReleaseRQ
from asyncstore.upper_layer.user_information import ExtendedNegotiation, UserInformation
from tests.support.associations import LIMIT_SECONDS, accepting, inside, to
from tests.support.wire import ScriptedSCP, Wire, _result

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.every_loop

CONTEXTS = [(STUDY_ROOT_FIND, (IMPLICIT_VR_LITTLE_ENDIAN,)), (VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,))]


def identifier(**values: str) -> Dataset:
    data_set = Dataset()
    for name, value in values.items():
        setattr(data_set, name, value)
    return data_set


QUERY = identifier(QueryRetrieveLevel="STUDY", PatientID="4711", StudyInstanceUID="")


def match(uid: str) -> bytes:
    return encode_identifier(identifier(StudyInstanceUID=uid), IMPLICIT_VR_LITTLE_ENDIAN)


def pending(wire: Wire, data_set: bytes | None, status: int = 0xFF00, message_id: int = 1) -> None:
    response = CFindRSP(message_id, Status(status), STUDY_ROOT_FIND, has_data_set=data_set is not None)
    wire.send_message(1, response, data_set)


def final(wire: Wire, status: int = 0x0000, message_id: int = 1) -> None:
    wire.send_message(1, CFindRSP(message_id, Status(status), STUDY_ROOT_FIND))


def answering(*matches: bytes | None, last: int = 0x0000) -> Callable[[Wire], object]:
    """A script: answers one query with these matches."""

    def script(wire: Wire) -> None:
        wire.read_message()
        for each in matches:
            pending(wire, each)
        final(wire, last)
        wire.answer_release()

    return accepting(script)


async def take_all(matches: Matches, came: list[str]) -> None:
    async for found in matches:
        came.append(str(found.StudyInstanceUID))  # noqa: PERF401 - what came before an error counts


async def uids_from(scp: ScriptedSCP, **options: Any) -> list[str]:
    with anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS) as association:
            return [str(found.StudyInstanceUID) async for found in association.find(QUERY, **options)]


async def test_the_matches_come_in_order_and_the_query_is_what_was_asked() -> None:
    asked: list[Any] = []

    def script(wire: Wire) -> None:
        asked.append(wire.read_message())
        pending(wire, match("1.2"))
        pending(wire, match("1.3"), 0xFF01)
        final(wire)
        wire.answer_release()

    with ScriptedSCP(accepting(script)) as scp:
        assert await uids_from(scp) == ["1.2", "1.3"]
    assert asked[0].message == CFindRQ(1, STUDY_ROOT_FIND)
    assert decode_identifier(asked[0].data_set, IMPLICIT_VR_LITTLE_ENDIAN) == QUERY


@pytest.mark.parametrize("last", [0x0000, 0x0001, 0xB001])
async def test_a_success_or_a_warning_ends_the_list(last: int) -> None:
    with ScriptedSCP(answering(match("1.2"), last=last)) as scp:
        assert await uids_from(scp) == ["1.2"]


@pytest.mark.parametrize(
    ("last", "text"),
    [
        (0xA700, "the peer refused the query: .*0xA700"),
        (0xA900, "the peer refused the query: .*0xA900"),
        (0xC000, "the peer refused the query: .*0xC000"),
        (0xFE00, "the peer ended its list of matches early: .*0xFE00"),
    ],
)
async def test_any_other_end_is_an_error_after_the_matches(last: int, text: str) -> None:
    came: list[str] = []
    with ScriptedSCP(answering(match("1.2"), last=last)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS) as association:
            matches = association.find(QUERY)
            with pytest.raises(OperationFailed, match=text) as caught:
                await take_all(matches, came)
            assert [found async for found in matches] == []
    assert came == ["1.2"]
    assert caught.value.status.value == last


async def test_a_query_that_is_closed_early_is_cancelled_and_the_association_goes_on() -> None:
    def script(wire: Wire) -> None:
        wire.read_message()
        for number in range(3):
            pending(wire, match(f"1.{number}"))
        assert wire.read_message().message == CCancelRQ(1)
        pending(wire, match("1.99"))  # was on its way
        final(wire, 0xFE00)
        wire.read_message()
        pending(wire, match("1.7"), message_id=2)
        final(wire, message_id=2)
        wire.answer_release()

    with ScriptedSCP(accepting(script)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS) as association:
            async with association.find(QUERY) as matches:
                async for found in matches:
                    assert found.StudyInstanceUID == "1.0"
                    break
            assert matches.status == Status(0xFE00)
            assert not association.outstanding
            assert [found async for found in matches] == []
            assert [str(found.StudyInstanceUID) async for found in association.find(QUERY)] == ["1.7"]


async def test_a_query_that_is_over_or_was_never_sent_is_not_cancelled() -> None:
    with ScriptedSCP(answering(match("1.2"))) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS) as association:
            async with association.find(QUERY) as matches:
                assert len([found async for found in matches]) == 1
            await association.find(QUERY).aclose()


async def test_an_association_that_ends_amid_the_matches_ends_them() -> None:
    def script(wire: Wire) -> None:
        wire.read_message()
        pending(wire, match("1.2"))
        wire.rst()

    with ScriptedSCP(accepting(script)) as scp, pytest.raises(AssociationLost):
        await uids_from(scp)


@pytest.mark.parametrize(
    ("data_set", "field"), [(None, "Command Data Set Type"), (b"\x08\x00\x05\x00\xff\xff\xff\x7fab", "Identifier")]
)
async def test_a_match_that_cannot_be_read_is_an_error_of_the_peer(data_set: bytes | None, field: str) -> None:
    def script(wire: Wire) -> None:
        wire.read_message()
        pending(wire, data_set)
        wire.drain()

    with ScriptedSCP(accepting(script)) as scp, pytest.raises(RemoteProtocolError) as caught:
        await uids_from(scp)
    assert caught.value.field == field


async def test_a_query_needs_a_context_of_its_model_and_an_identifier_that_can_be_encoded() -> None:
    bad = identifier(PatientID="4711")
    bad.add(DataElement(0x00280010, "US", 70000, already_converted=True))
    with ScriptedSCP(accepting(Wire.answer_release)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS) as association:
            with pytest.raises(LocalProtocolError, match="Patient Root"):
                await anext(association.find(QUERY, model=PATIENT_ROOT_FIND))
            with pytest.raises(SourceError, match="cannot be encoded"):
                await anext(association.find(bad))
            assert not association.outstanding


@pytest.mark.parametrize("accepted", [RELATIONAL_QUERIES, None])
async def test_relational_queries_are_negotiated(accepted: bytes | None) -> None:
    def script(wire: Wire) -> None:
        request = wire.expect(AssociateRQ)
        assert request.user_information.extended_negotiations == (
            ExtendedNegotiation(STUDY_ROOT_FIND, RELATIONAL_QUERIES),
        )
        answers = () if accepted is None else (ExtendedNegotiation(STUDY_ROOT_FIND, accepted),)
        information = UserInformation(implementation_class_uid="1.2.3", extended_negotiations=answers)
        results = tuple(_result(context, None) for context in request.presentation_contexts)
        wire.send(AssociateAC(request.called_ae_title, request.calling_ae_title, results, information))
        wire.answer_release()

    proposed = {STUDY_ROOT_FIND: RELATIONAL_QUERIES}
    with ScriptedSCP(script) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS, extended_negotiations=proposed) as association:
            assert association.extended_negotiations.get(STUDY_ROOT_FIND) == accepted


async def test_a_task_that_is_cancelled_amid_a_query_aborts_its_association() -> None:
    def script(wire: Wire) -> None:
        wire.read_message()
        pending(wire, match("1.2"))
        wire.drain()
        assert not any(isinstance(unit, ReleaseRQ) for unit in wire.received)

    with ScriptedSCP(accepting(script)) as scp, anyio.fail_after(LIMIT_SECONDS):
        with anyio.CancelScope() as scope:
            async with to(scp, contexts=CONTEXTS) as association, association.find(QUERY) as matches:
                async for _ in matches:
                    scope.cancel()
        assert scope.cancelled_caught


values = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\\"), max_size=16).map(
    str.strip
)


@given(values, values, st.sampled_from(sorted(UNCOMPRESSED_TRANSFER_SYNTAXES)))
def test_an_identifier_is_read_as_it_was_written(patient_id: str, accession: str, syntax: str) -> None:
    data_set = identifier(PatientID=patient_id, AccessionNumber=accession, StudyInstanceUID="")
    encoded = encode_identifier(data_set, syntax)
    assert len(encoded) % 2 == 0
    decoded = decode_identifier(encoded, syntax)
    for name in ("PatientID", "AccessionNumber", "StudyInstanceUID"):
        assert (decoded[name].value or "") == (data_set[name].value or "")


uids = st.lists(st.from_regex(r"[12](\.[1-9][0-9]{0,6}){1,6}", fullmatch=True), max_size=3).map("\\".join)


@given(uids, uids, st.sampled_from(["STUDY", "SERIES", "IMAGE"]), st.booleans())
def test_keys_are_what_pydicom_writes_and_reads(study: str, series: str, level: str, is_implicit: bool) -> None:
    syntax = IMPLICIT_VR_LITTLE_ENDIAN if is_implicit else EXPLICIT_VR_LITTLE_ENDIAN
    keys = {
        identifiers.QUERY_RETRIEVE_LEVEL: level,
        identifiers.STUDY_INSTANCE_UID: study,
        identifiers.SERIES_INSTANCE_UID: series,
        identifiers.STUDY_RELATED_INSTANCES: "7",
    }
    data_set = identifier(QueryRetrieveLevel=level, NumberOfStudyRelatedInstances="7")
    data_set.StudyInstanceUID = study.split("\\") if study else ""
    data_set.SeriesInstanceUID = series.split("\\") if series else ""
    encoded = encode_keys(keys, syntax)
    assert encoded == encode_identifier(data_set, syntax)
    assert decode_keys(encoded, syntax) == keys


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_keys_or_a_value_error(data: bytes, is_implicit: bool) -> None:
    with contextlib.suppress(ValueError):
        decode_keys(data, IMPLICIT_VR_LITTLE_ENDIAN if is_implicit else EXPLICIT_VR_LITTLE_ENDIAN)


async def test_a_query_by_keys_gives_text_by_tag_and_refuses_a_match_that_is_cut_short() -> None:
    keys = {identifiers.QUERY_RETRIEVE_LEVEL: "STUDY", identifiers.STUDY_INSTANCE_UID: ""}

    def script(wire: Wire) -> None:
        wire.read_message()
        pending(wire, match("1.2"))
        pending(wire, match("1.3")[:-1])
        wire.drain()

    with ScriptedSCP(accepting(script)) as scp, anyio.fail_after(LIMIT_SECONDS):
        async with to(scp, contexts=CONTEXTS) as association:
            query = KeyQuery(inside(association), keys, model=STUDY_ROOT_FIND)
            assert await anext(query) == {identifiers.STUDY_INSTANCE_UID: "1.2"}
            with pytest.raises(RemoteProtocolError):
                await anext(query)
