"""Our association request: its length is known before it is made."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncstore.upper_layer.contexts import propose
from asyncstore.upper_layer.pdu import AssociateRQ
from asyncstore.upper_layer.request import information_of_requestor, request_bytes
from asyncstore.upper_layer.user_information import OperationsWindow, RoleSelection, UserIdentity

uids = st.text("0123456789.", min_size=1, max_size=64)
contexts = st.lists(st.tuples(uids, st.lists(uids, min_size=1, max_size=5)), min_size=1, max_size=128)
identities = st.none() | st.builds(UserIdentity, st.just(2), st.binary(max_size=300), st.binary(max_size=300))


@given(contexts, st.integers(0, 0xFFFFFFFF), st.integers(1, 0xFFFF), identities, st.lists(uids, max_size=3))
def test_the_length_of_a_request_is_known_from_its_parts(
    proposed: list[tuple[str, list[str]]],
    maximum_length: int,
    window: int,
    identity: UserIdentity | None,
    both_roles: list[str],
) -> None:
    information = information_of_requestor(
        maximum_length=maximum_length, window=window, user_identity=identity, both_roles=both_roles
    )
    request = AssociateRQ("CALLED", "CALLING", propose(proposed), information)
    assert request_bytes(information, proposed) == len(request.encode())


def test_a_window_of_1_proposes_none() -> None:
    assert information_of_requestor(maximum_length=0, window=1).operations_window is None
    assert information_of_requestor(maximum_length=0, window=2).operations_window == OperationsWindow(2, 1)


def test_the_peer_may_perform_and_invoke_where_both_roles_are_taken() -> None:
    roles = information_of_requestor(maximum_length=0, both_roles=["1.2"]).role_selections
    assert roles == (RoleSelection("1.2", scu=True, scp=True),)
