"""Which presentation contexts are proposed, and which of them can be used."""

from __future__ import annotations

import pytest

from asyncstore.errors import LocalProtocolError
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    VERIFICATION,
)
from asyncstore.upper_layer.contexts import AcceptedContext, AcceptedContexts, propose
from asyncstore.upper_layer.items import PresentationContext, PresentationContextResult
from tests.support.associations import MR_IMAGE_STORAGE

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
PROPOSED = propose(
    [(CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)), (MR_IMAGE_STORAGE, (JPEG_BASELINE,))]
)


def accepted(*transfer_syntaxes: str) -> AcceptedContexts:
    return AcceptedContexts(
        AcceptedContext(2 * index + 1, CT_IMAGE_STORAGE, uid) for index, uid in enumerate(transfer_syntaxes)
    )


def test_contexts_are_numbered_with_odd_numbers_from_1() -> None:
    numbered = tuple(PROPOSED)
    assert numbered == (
        PresentationContext(1, CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)),
        PresentationContext(3, MR_IMAGE_STORAGE, (JPEG_BASELINE,)),
    )


def test_the_128th_context_has_the_number_255() -> None:
    contexts = propose([(CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,))] * 128)
    assert contexts[-1].context_id == 255


@pytest.mark.parametrize("count", [0, 129])
def test_an_association_has_1_to_128_contexts(count: int) -> None:
    with pytest.raises(LocalProtocolError, match="1 to 128"):
        propose([(CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,))] * count)


def test_an_accepted_context_is_found_by_class_and_transfer_syntax() -> None:
    results = [
        PresentationContextResult(1, 0, IMPLICIT_VR_LITTLE_ENDIAN),
        PresentationContextResult(3, 0, JPEG_BASELINE),
    ]
    contexts = AcceptedContexts.of(PROPOSED, results)
    assert contexts
    assert contexts.find(CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN) == 1
    assert contexts.find(MR_IMAGE_STORAGE, JPEG_BASELINE) == 3
    assert contexts.find(CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN) is None
    assert contexts.find(MR_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN) is None


@pytest.mark.parametrize(
    "result",
    [
        PresentationContextResult(1, 1, IMPLICIT_VR_LITTLE_ENDIAN),
        PresentationContextResult(1, 3, ""),
        PresentationContextResult(1, 4, ""),
        PresentationContextResult(5, 0, IMPLICIT_VR_LITTLE_ENDIAN),
        PresentationContextResult(1, 0, JPEG_BASELINE),
    ],
    ids=["user rejection", "class", "syntaxes", "never proposed", "another syntax"],
)
def test_any_other_result_gives_no_context(result: PresentationContextResult) -> None:
    assert not AcceptedContexts.of(PROPOSED, [result])


def test_a_class_that_was_refused_without_a_word_may_be_accepted_another_time() -> None:
    contexts = AcceptedContexts.of(PROPOSED, [PresentationContextResult(1, 4, "")])
    assert not contexts.may_be_accepted(CT_IMAGE_STORAGE)
    assert contexts.may_be_accepted(MR_IMAGE_STORAGE)
    for result, may_be in ((0, False), (1, True), (2, True), (3, False), (4, False)):
        answer = PresentationContextResult(3, result, JPEG_BASELINE)
        assert AcceptedContexts.of(PROPOSED, [answer]).may_be_accepted(MR_IMAGE_STORAGE) is may_be


def test_the_first_of_two_contexts_for_the_same_pair_is_used() -> None:
    contexts = AcceptedContexts(
        [
            AcceptedContext(1, CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN),
            AcceptedContext(3, CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN),
        ]
    )
    assert contexts.find(CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN) == 1


def test_a_class_is_found_whatever_its_transfer_syntax() -> None:
    contexts = accepted(JPEG_BASELINE)
    assert contexts.any_of(CT_IMAGE_STORAGE) == 1
    assert contexts.any_of(VERIFICATION) is None
