"""Hypothesis strategies for what goes over the wire: legal PDUs and their parts, and ways to cut bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from asyncstore.upper_layer.items import PresentationContext, PresentationContextResult
from asyncstore.upper_layer.pdu import (
    PDU,
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    DataTF,
    Fragment,
    ReleaseRP,
    ReleaseRQ,
)
from asyncstore.upper_layer.user_information import (
    CommonExtendedNegotiation,
    ExtendedNegotiation,
    OperationsWindow,
    RoleSelection,
    UserIdentity,
    UserInformation,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hypothesis.strategies import DrawFn, SearchStrategy

bytes_values = st.integers(0, 255)
context_ids = st.integers(0, 127).map(lambda n: 2 * n + 1)
uids = st.text("0123456789.", min_size=1, max_size=64)
ae_titles = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=16).map(str.strip)
version_names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=16)

presentation_contexts = st.builds(
    PresentationContext, context_ids, uids, st.lists(uids, min_size=1, max_size=4).map(tuple)
)
context_results = st.one_of(
    st.builds(PresentationContextResult, context_ids, st.just(0), uids),
    st.builds(PresentationContextResult, context_ids, st.integers(1, 4), st.one_of(st.just(""), uids)),
)
operations_windows = st.builds(OperationsWindow, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
role_selections = st.builds(RoleSelection, uids, st.booleans(), st.booleans())
extended_negotiations = st.builds(ExtendedNegotiation, uids, st.binary(max_size=20))
common_extended_negotiations = st.builds(CommonExtendedNegotiation, uids, uids, st.lists(uids, max_size=3).map(tuple))
user_identities = st.builds(
    UserIdentity, st.integers(1, 5), st.binary(max_size=20), st.binary(max_size=20), st.booleans()
)
user_information = st.builds(
    UserInformation,
    maximum_length=st.integers(0, 0xFFFFFFFF),
    implementation_class_uid=st.one_of(st.just(""), uids),
    implementation_version_name=version_names,
    operations_window=st.none() | operations_windows,
    role_selections=st.lists(role_selections, max_size=2).map(tuple),
    extended_negotiations=st.lists(extended_negotiations, max_size=2).map(tuple),
    common_extended_negotiations=st.lists(common_extended_negotiations, max_size=2).map(tuple),
    user_identity=st.none() | user_identities,
    user_identity_response=st.none() | st.binary(max_size=20),
)

associate_requests = st.builds(
    AssociateRQ,
    ae_titles,
    ae_titles,
    st.lists(presentation_contexts, max_size=4, unique_by=lambda context: context.context_id).map(tuple),
    user_information,
    uids,
    st.integers(0, 0xFFFF),
)
associate_answers = st.builds(
    AssociateAC,
    ae_titles,
    ae_titles,
    st.lists(context_results, max_size=4, unique_by=lambda result: result.context_id).map(tuple),
    user_information,
    uids,
    st.integers(0, 0xFFFF),
)
rejections = st.builds(AssociateRJ, bytes_values, bytes_values, bytes_values)
aborts = st.builds(Abort, bytes_values, bytes_values)
fragments = st.builds(Fragment, context_ids, st.booleans(), st.booleans(), st.binary(max_size=60))
data_pdus = st.builds(DataTF, st.lists(fragments, min_size=1, max_size=4).map(tuple))

pdus: SearchStrategy[PDU] = st.one_of(
    associate_requests,
    associate_answers,
    rejections,
    data_pdus,
    st.just(ReleaseRQ()),
    st.just(ReleaseRP()),
    aborts,
)


@st.composite
def damaged(draw: DrawFn, wire: SearchStrategy[bytes]) -> bytes:
    """Bytes of `wire` with a few of them overwritten, taken out or put in: nearly legal ones."""
    data = bytearray(draw(wire))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(("overwrite", "delete", "insert")))
        stop = at if kind == "insert" else at + 1
        data[at:stop] = b"" if kind == "delete" else bytes((draw(bytes_values),))
    return bytes(data)


def pieces(draw: Callable[[SearchStrategy[list[int]]], Sequence[int]], data: bytes) -> list[bytes]:
    """`data` cut at any points, empty pieces included."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
