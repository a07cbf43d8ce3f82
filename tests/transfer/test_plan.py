"""Plan: what an association proposes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.transfer.options import TransferOptions
from asyncstore.transfer.plan import Plan
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_SOP_CLASSES,
    UNCOMPRESSED_TRANSFER_SYNTAXES,
)
from asyncstore.upper_layer.contexts import propose
from asyncstore.upper_layer.pdu import MAXIMUM_CONTEXTS, AssociateRQ
from asyncstore.upper_layer.request import information_of_requestor
from asyncstore.upper_layer.user_information import UserIdentity
from tests.support.transfers import LOSSLESS_JPEG

CT = (CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN)
CT_JPEG = (CT_IMAGE_STORAGE, LOSSLESS_JPEG)
CLASSES = list(STORAGE_SOP_CLASSES)
MANY = [(uid, EXPLICIT_VR_LITTLE_ENDIAN) for uid in CLASSES[:130]]

pairs = st.tuples(
    st.sampled_from([*CLASSES[:20], *(f"1.2.3.{number}" for number in range(100))]),
    st.sampled_from([*UNCOMPRESSED_TRANSFER_SYNTAXES, LOSSLESS_JPEG]),
)
options = st.builds(
    TransferOptions,
    only_transfer_syntax=st.none() | st.sampled_from(UNCOMPRESSED_TRANSFER_SYNTAXES),
    only_needed_contexts=st.booleans(),
    convert=st.booleans(),
)


def plan_of(**chosen: object) -> Plan:
    return Plan(TransferOptions(**chosen))  # type: ignore[arg-type]


def test_a_pair_gets_its_own_context_and_one_to_convert_into() -> None:
    proposal = plan_of().propose([CT_JPEG])
    assert proposal.contexts[:2] == (
        (CT_IMAGE_STORAGE, (LOSSLESS_JPEG,)),
        (CT_IMAGE_STORAGE, UNCOMPRESSED_TRANSFER_SYNTAXES),
    )
    assert proposal.pairs == {CT_JPEG}


def test_the_rest_is_filled_with_the_storage_classes_of_the_standard() -> None:
    proposal = plan_of().propose([CT])
    assert len(proposal.contexts) > 100
    assert {uid for uid, _ in proposal.contexts} <= set(STORAGE_SOP_CLASSES)
    assert len(set(proposal.contexts)) == len(proposal.contexts)


def test_the_rest_is_filled_up_to_128_contexts_if_they_are_short() -> None:
    proposal = plan_of(only_transfer_syntax=IMPLICIT_VR_LITTLE_ENDIAN).propose([CT])
    assert len(proposal.contexts) == MAXIMUM_CONTEXTS


@given(st.lists(pairs, min_size=1, max_size=40), options, st.integers(1, 0xFFFF), st.binary(max_size=20_000))
def test_default_contexts_leave_the_request_shorter_than_16_000_bytes(
    needed: list[tuple[str, str]], chosen: TransferOptions, window: int, token: bytes
) -> None:
    chosen = dataclasses.replace(chosen, window=window, user_identity=UserIdentity(5, token))
    plan = Plan(chosen)
    needed_only, filled = (plan.propose(needed, filled=filled).contexts for filled in (False, True))
    information = information_of_requestor(maximum_length=16382, window=window, user_identity=chosen.user_identity)
    length = len(AssociateRQ("CALLED", "CALLING", propose(filled), information).encode())
    assert filled[: len(needed_only)] == needed_only
    assert length < 16_000 or filled == needed_only
    if not chosen.only_needed_contexts and len(filled) < MAXIMUM_CONTEXTS:
        assert length > 16_000 - 200  # there was no room for another one


def test_without_need_for_more_only_the_pairs_themselves_are_proposed() -> None:
    proposal = plan_of(only_needed_contexts=True).propose([CT, CT_JPEG])
    assert proposal.contexts == ((CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,)), (CT_IMAGE_STORAGE, (LOSSLESS_JPEG,)))


def test_without_conversion_nothing_is_proposed_to_convert_into() -> None:
    proposal = plan_of(convert=False, only_needed_contexts=False).propose([CT_JPEG])
    assert proposal.contexts[0] == (CT_IMAGE_STORAGE, (LOSSLESS_JPEG,))
    assert proposal.contexts[1][0] != CT_IMAGE_STORAGE


def test_a_chosen_transfer_syntax_is_proposed_alone() -> None:
    proposal = plan_of(only_transfer_syntax=IMPLICIT_VR_LITTLE_ENDIAN).propose([CT, CT_JPEG])
    assert {syntaxes for _, syntaxes in proposal.contexts} == {(IMPLICIT_VR_LITTLE_ENDIAN,)}
    assert proposal.pairs == {CT, CT_JPEG}


def test_what_was_seen_before_is_proposed_behind_what_is_needed_now() -> None:
    plan = plan_of(only_needed_contexts=True)
    plan.see(CT_JPEG)
    plan.see(CT)
    assert [syntaxes for _, syntaxes in plan.propose([CT]).contexts] == [(EXPLICIT_VR_LITTLE_ENDIAN,), (LOSSLESS_JPEG,)]


def test_a_further_association_proposes_what_was_seen_and_no_more() -> None:
    plan = plan_of()
    plan.see(CT)
    own, uncompressed = plan.propose([CT_JPEG], filled=False).contexts[:2]
    assert (own, uncompressed[0]) == ((CT_JPEG[0], (CT_JPEG[1],)), CT_JPEG[0])
    proposal = plan.propose([CT_JPEG], filled=False)
    assert len(proposal.contexts) == 3
    assert proposal.pairs == {CT_JPEG, CT}


@pytest.mark.parametrize("only_needed_contexts", [False, True])
def test_one_proposal_after_the_other_carries_130_sop_classes(only_needed_contexts: bool) -> None:
    plan = plan_of(only_needed_contexts=only_needed_contexts)
    left = list(MANY)
    for pair in left:
        plan.see(pair)
    rounds = 0
    while left:
        proposal = plan.propose(left)
        assert proposal.contexts[0][0] == left[0][0]
        left = [pair for pair in left if pair not in proposal.pairs]
        rounds += 1
    assert rounds == (2 if only_needed_contexts else 3)


@given(st.lists(pairs, max_size=200), st.lists(pairs, min_size=1, max_size=200), options)
def test_a_proposal_never_has_more_than_128_contexts_and_serves_what_it_says(
    seen: list[tuple[str, str]], needed: list[tuple[str, str]], chosen: TransferOptions
) -> None:
    plan = Plan(chosen)
    for pair in seen:
        plan.see(pair)
    proposal = plan.propose(needed)
    assert len(propose(proposal.contexts)) <= MAXIMUM_CONTEXTS
    assert needed[0] in proposal.pairs
    for sop_class_uid, transfer_syntax_uid in proposal.pairs:
        assert (sop_class_uid, (chosen.only_transfer_syntax or transfer_syntax_uid,)) in proposal.contexts
