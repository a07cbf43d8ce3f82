"""As what an instance is sent: as it is, converted, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncstore.inputs.opening import instance_from
from asyncstore.instances.outcome import Outcome, State
from asyncstore.preparation.conversions import Conversions
from asyncstore.preparation.prepare import Prepared, prepare, prepare_now
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from asyncstore.upper_layer.contexts import AcceptedContext, AcceptedContexts
from tests.support.associations import image_file, instance

if TYPE_CHECKING:
    from pathlib import Path

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"


def accepted(*transfer_syntaxes: str) -> AcceptedContexts:
    """A context for CT images in each of these."""
    return AcceptedContexts(
        AcceptedContext(2 * number + 1, CT_IMAGE_STORAGE, uid) for number, uid in enumerate(transfer_syntaxes)
    )


def test_an_instance_whose_transfer_syntax_was_accepted_is_sent_as_it_is() -> None:
    given = instance()
    prepared = prepare_now(given, accepted(IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN))
    assert isinstance(prepared, Prepared)
    assert (prepared.instance, prepared.source, prepared.context_id) == (given, given.source, 3)
    assert (prepared.sop_class_uid, prepared.sop_instance_uid) == (CT_IMAGE_STORAGE, given.sop_instance_uid)
    assert (prepared.transfer_syntax_uid, prepared.data_set_length) == (EXPLICIT_VR_LITTLE_ENDIAN, 1000)


def test_another_is_converted_and_the_instance_stays_what_it_is(tmp_path: Path) -> None:
    given = instance_from(image_file(tmp_path / "a.dcm"))
    contexts = accepted(IMPLICIT_VR_LITTLE_ENDIAN)
    assert prepare_now(given, contexts) is None
    prepared = prepare(given, contexts)
    assert isinstance(prepared, Prepared)
    assert (prepared.context_id, prepared.transfer_syntax_uid) == (1, IMPLICIT_VR_LITTLE_ENDIAN)
    assert prepared.instance is given
    assert prepared.source is not given.source
    assert prepared.data_set_length == prepared.source.length_bytes != given.data_set_length
    assert given.transfer_syntax_uid == EXPLICIT_VR_LITTLE_ENDIAN


@pytest.mark.parametrize("transfer_syntax_uid", [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])
def test_of_a_long_uid_the_request_carries_what_it_has_room_for(tmp_path: Path, transfer_syntax_uid: str) -> None:
    long = "1.2." + "8" * 64
    given = instance_from(image_file(tmp_path / "a.dcm", uid=long))
    prepared = prepare(given, accepted(transfer_syntax_uid))
    assert isinstance(prepared, Prepared)
    assert (prepared.instance.sop_instance_uid, prepared.sop_instance_uid) == (long, long[:64])


def test_a_data_set_of_odd_length_is_padded_where_that_may_block(tmp_path: Path) -> None:
    path = image_file(tmp_path / "a.dcm", value_bytes=15)
    given = instance_from(path)
    before = path.read_bytes()
    assert given.data_set_length % 2 == 1
    for contexts in (accepted(EXPLICIT_VR_LITTLE_ENDIAN), accepted(IMPLICIT_VR_LITTLE_ENDIAN)):
        assert prepare_now(given, contexts) is None
        prepared = prepare(given, contexts)
        assert isinstance(prepared, Prepared)
        assert (prepared.is_padded, prepared.data_set_length % 2) == (True, 0)
        assert prepared.source.length_bytes == prepared.data_set_length
    assert prepare_now(given, accepted(EXPLICIT_VR_LITTLE_ENDIAN), Conversions(convert=False)) is None
    assert path.read_bytes() == before


def test_what_fits_no_context_or_must_not_be_converted_has_an_outcome_at_once() -> None:
    given = instance()
    for found in (
        prepare_now(given, accepted(JPEG_BASELINE)),
        prepare_now(given, accepted(IMPLICIT_VR_LITTLE_ENDIAN), Conversions(convert=False)),
        prepare(given, accepted()),
    ):
        assert isinstance(found, Outcome)
        assert (found.state, found.attempts) == (State.NO_CONTEXT, 0)


@pytest.mark.parametrize(
    ("there_are", "target"),
    [
        ((IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN),
        ((DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN), IMPLICIT_VR_LITTLE_ENDIAN),
        ((DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN), EXPLICIT_VR_BIG_ENDIAN),
        ((DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,), DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN),
        ((JPEG_BASELINE,), None),
        ((), None),
    ],
)
def test_an_uncompressed_data_set_is_converted_to_the_best_that_was_accepted(
    there_are: tuple[str, ...], target: str | None
) -> None:
    assert Conversions().target(accepted(*there_are), CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN) == target


def test_a_compressed_data_set_and_another_class_are_not_converted() -> None:
    contexts = accepted(EXPLICIT_VR_LITTLE_ENDIAN)
    assert Conversions().target(contexts, CT_IMAGE_STORAGE, JPEG_BASELINE) is None
    assert Conversions().target(contexts, MR_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN) is None
